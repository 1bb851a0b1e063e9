"""The deployer: looks at a canary again and again, takes its next step, or takes it back.

Run by the node that serves it, as ``python -m modelmill.orchestrator.rolling PROJECT ENVIRONMENT``, and again whenever it
has ended while a canary still runs. All that it knows is in rows: it may be killed at any moment, and several may run.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from modelmill.errors import Conflict, ModelmillError
from modelmill.model.metrics import MEANS
from modelmill.names import ModelName, format_segment
from modelmill.orchestrator.quality import WORSE, Labelled
from modelmill.release.analysis import (
    ALPHA,
    FEWEST_ANSWERS,
    Comparison,
    Tally,
    Verdict,
    Window,
    above,
    against_limit,
    against_zero,
    mean_of_logs,
    overall,
)
from modelmill.release.policy import ALWAYS, Limit
from modelmill.release.releasing import drawn_segments
from modelmill.release.rollouts import (
    RUNNING,
    Look,
    Rollout,
    list_looks,
    list_rollouts,
    open_rollout,
    record_look,
    ring_size,
)
from modelmill.release.staging import advance, stop
from modelmill.serving.compared import Compared
from modelmill.serving.control import run_folder
from modelmill.serving.history import WINDOW_S, History, Seen
from modelmill.serving.meters import BOUNDS, CLASSES, added, quantile
from modelmill.serving.tallies import Tally as Copied
from modelmill.settings import Settings, load_settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

LOOK_S = 2.0
"""How often is looked at first."""
_LATER = 1 / 30
"""Later on, after which share of the time that a step has taken so far: a day of looking is a few hundred looks."""
_BY = "the deployer"
_SLOWER = 2.0
"""A request is slow beside the other side's, where nothing is declared, when it takes this many times its 99th percentile."""
_P99_SHARE = 0.01
_ENOUGH = 200
"""How many requests the current release has to have answered before its own 99th percentile is taken for one."""
_EMPTY = Seen(0, 0, (0,) * CLASSES)
_SHOWN = 5
_Count = Callable[[Mapping[str, Any]], int]


class Judged(NamedTuple):
    """What is known of a canary now."""

    verdict: Verdict
    texts: list[str]
    """A line each condition: ``error_rate > 0.01: 0 of 412, pass``."""
    why: str
    """What has failed, or what is not known yet."""


class Deployer:
    """Watches one rollout."""

    def __init__(self, store: Store, history: History, rollout: Rollout, labelled: Labelled | None = None) -> None:
        """Take what the node has counted, and how far the rollout has come; `labelled` looks for labels."""
        self.store, self.history, self.rollout, self.labelled = store, history, rollout, labelled
        self.compared = Compared(history.folder)

    def look(self) -> Rollout:
        """Look once: write down what is new, and do what follows from all that was seen."""
        looks = list_looks(self.store.database, self.rollout)
        seen = self._new(looks)
        if not record_look(self.store.database, self.rollout, len(looks), seen):
            if self.labelled:
                self.labelled.forget()
            return self.rollout  # another deployer looks at it as well, and was first
        judged = judge(self.rollout, [*looks, Look(now(), self.rollout.step, seen)])
        if judged.verdict == "fail":
            return stop(self.store, self.rollout, judged.why, _BY)
        if self.rollout.policy.goal is not None:  # an A/B test goes on until somebody ends it
            return self.rollout
        if judged.verdict == "pass" and held_s(self.rollout, looks, now()) >= self.rollout.policy.hold_s:
            return advance(self.store, self.rollout, "; ".join(judged.texts), _BY)
        return self.rollout

    def _new(self, looks: Sequence[Look]) -> dict[str, Any]:
        """Return what both sides were asked since the look before, and from where the next look reads on.

        Read on from the minute of the look before, less what that has counted of it: what is older may be gone by now.
        """
        began = int(self.rollout.began_at.timestamp() // WINDOW_S * WINDOW_S)
        before: Mapping[str, Any] = looks[-1].seen["counted"] if looks else {}
        window = before.get("window", began)
        minutes = self.history.sides(self.rollout.model, window)
        found = self._counted(minutes)
        copies = self._copies()
        found["copies"] = _numbers(Seen(copies.count, copies.failed, tuple(copies.listed())))
        # What came before it all began: of the candidate nothing, unless it was tried, and taken back, in the same minute.
        tried = self._tried_since(began)
        nothing = {"candidate": _numbers(_EMPTY), "copies": _numbers(_EMPTY)}
        before = {**nothing, **(before or (found if tried else {"other": found["other"]}))}
        newest = max(minutes, default=window)
        seen = {name: _since(found[name], before[name]) for name in found}
        if self.rollout.is_shadow:  # nobody asks it: what it answers to copies is all that is known of it
            seen |= {"candidate": seen["copies"], "compared": copies.as_dict()}
        counted = {"window": newest, "copies": found["copies"], **self._counted({newest: minutes.get(newest, {})})}
        seen |= {"counted": counted}
        if self.rollout.policy.of == "segments":
            seen |= {"broken": self._broken(looks, window, stale=tried and window == began)}
        quality = self.labelled.look() if self.labelled else None
        return seen | ({"quality": quality} if quality else {})

    def _tried_since(self, moment: float) -> bool:
        """Return whether the candidate was beside the current release before, and as late as that minute."""
        earlier = list_rollouts(self.store.database, self.rollout.environment, self.rollout.model)
        return any(
            one.id != self.rollout.id
            and one.candidate == self.rollout.candidate
            and one.ended_at is not None
            and one.ended_at.timestamp() >= moment
            for one in earlier
        )

    def _counted(self, minutes: Mapping[int, Mapping[int, Seen]]) -> dict[str, Any]:
        """Return what both sides were asked in some minutes together."""
        numbers = {"candidate": self.rollout.candidate, "other": self.rollout.before}
        return {
            name: _numbers(_together([of[number] for of in minutes.values() if number in of]))
            for name, number in numbers.items()
        }

    def _copies(self) -> Copied:
        """Return the copies that the candidate answered at its first step."""
        began = self.rollout.began_at.timestamp()
        has_copies = self.rollout.policy.has_shadow
        return self.compared.whole(self.rollout.model, self.rollout.candidate, began) if has_copies else Copied()

    def _broken(self, looks: Sequence[Look], since: int, *, stale: bool) -> dict[str, Any]:
        """Return which segments have begun to fail on either side, by what that means, and how many had not before.

        Where the minute is `stale`, an earlier try of the candidate has failed in it: who fails is seen from the next one on.
        """
        drawn = [format_segment(tuple(one)) for one in drawn_segments(self.store, self.rollout)]
        ring = set(drawn[: ring_size(self.rollout, len(drawn))])
        failing = {} if stale else self.history.failing(self.rollout.model, since)
        sides = {
            "candidate": (ring, failing.get(self.rollout.candidate, {})),
            "other": (set(drawn) - ring, failing.get(self.rollout.before, {})),
        }
        found: dict[str, Any] = {}
        for kind, is_broken in BREAKS.items():
            known = broken_before(looks, kind)
            found[kind] = {
                name: {
                    "names": sorted(one for one, counts in some.items() if is_broken(*counts) and one in of - known),
                    "sound": len(of - known),
                }
                for name, (of, some) in sides.items()
            }
        return found


BREAKS: dict[str, Callable[[int, int], bool]] = {
    "once": lambda _, failed: failed >= 1,
    "mostly": lambda asked, failed: failed >= 2 and 2 * failed >= asked,
}
"""When a segment has begun to fail, of how often it was asked and failed; where all fail now and then, the second tells."""


def broken_before(looks: Sequence[Look], kind: str) -> set[str]:
    """Return the segments that had begun to fail by the last of these looks."""
    sides = (side for look in looks for side in look.seen.get("broken", {}).get(kind, {}).values())
    return {name for side in sides for name in side["names"]}


def held_s(rollout: Rollout, looks: Sequence[Look], moment: datetime) -> float:
    """Return for how long a step was looked at: a clock that jumps adds little to that, and takes nothing from it."""
    held, before = 0.0, rollout.step_at
    for at in (*(look.at for look in looks if look.step == rollout.step), moment):
        held += min(max(0.0, (at - before).total_seconds()), 2 * max(LOOK_S, _LATER * held) + LOOK_S)
        before = at
    return held


def _together(several: Sequence[Seen]) -> Seen:
    return Seen(sum(s.asked for s in several), sum(s.failed for s in several), added(s.classes for s in several))


def _numbers(seen: Seen) -> dict[str, Any]:
    """Return counts as JSON has them: of the classes only those in which there is anything."""
    classes = {str(place): count for place, count in enumerate(seen.classes) if count}
    return {"asked": seen.asked, "failed": seen.failed, "classes": classes}


def _since(counted: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was counted since; where a history was deleted, and begins anew, that is never less than nothing."""
    classes = {place: count - before["classes"].get(place, 0) for place, count in counted["classes"].items()}
    return {
        "asked": max(0, counted["asked"] - before["asked"]),
        "failed": max(0, counted["failed"] - before["failed"]),
        "classes": {place: count for place, count in classes.items() if count > 0},
    }


# ------------------------------------------------------------------ judging


def judge(rollout: Rollout, looks: Sequence[Look]) -> Judged:
    """Judge a rollout by all that was seen of it: fail where one condition is proven broken, pass where all are proven met.

    Beside what is declared two things are always looked at: whether the candidate fails more often than the release beside
    it, and whether it is much slower. The chance of a false alarm is shared by all of them.

    What a shadow answered to copies is judged apart from what a canary answered to clients, with half of that chance each:
    neither passes on the other's account. Copies have the time that requests leave, and nobody's labels are theirs: only
    whether it fails is judged of them.
    """
    conditions = _conditions(rollout)
    alpha = ALPHA / (len(conditions) + 2) / (2 if rollout.policy.has_shadow else 1)
    looks = [look for look in looks if (rollout.policy.steps[look.step] == 0) == rollout.is_shadow]
    verdicts: list[Verdict] = []
    texts: list[str] = []
    for limit in conditions:
        verdict, text = _against(limit, rollout, looks, alpha)
        verdicts.append(verdict)
        texts.append(f"{limit}: {text}, {'proven' if verdict == 'fail' else verdict}")
    by_segments = rollout.policy.of == "segments" and not rollout.is_shadow
    compare = _breaks_more if by_segments else _fails_more
    slower = "" if rollout.is_shadow else _is_slower(looks, alpha)
    for text in filter(None, (compare(rollout, looks, alpha), slower)):
        verdicts.append("fail")
        texts.append(text)
    verdict = overall(verdicts)
    failed = [text for one, text in zip(verdicts, texts, strict=True) if one == verdict]
    return Judged(verdict, texts, "; ".join(failed) if verdict != "pass" else "")


def _conditions(rollout: Rollout) -> Sequence[Limit]:
    """Return what is judged at a step."""
    declared = rollout.policy.abort
    if not rollout.is_shadow:
        return declared
    return [limit for limit in declared if limit.quantity == "error_rate"] or ALWAYS


def _since_each_step(rollout: Rollout, looks: Sequence[Look], evidence: Callable[[Sequence[Look]], float]) -> float:
    """Return the log of the mean of the evidence that has come since each step began.

    What only a later step brings is not hidden by all the good that was seen before. A mean of e-processes is one, also of
    some that have not begun and are still at 1: the chance of a false alarm stays what it was.
    """
    steps = max(1, len(rollout.policy.steps) - 1)
    begun = [evidence([look for look in looks if look.step >= step]) for step in range(min(steps, rollout.step + 1))]
    return mean_of_logs([*begun, *[0.0] * (steps - len(begun))])


def _against(limit: Limit, rollout: Rollout, looks: Sequence[Look], alpha: float) -> tuple[Verdict, str]:
    if limit.quantity == "error_rate":
        return _rate_against(rollout, looks, lambda seen: seen["failed"], limit.limit, alpha, "")
    if limit.quantity == "p99_ms":
        slow = partial(_slow_of, limit_s=limit.limit / 1000)
        return _rate_against(rollout, looks, slow, _P99_SHARE, alpha, f" above {limit.limit:g} ms")
    return _against_labels(limit, rollout, looks, alpha)


def _against_labels(limit: Limit, rollout: Rollout, looks: Sequence[Look], alpha: float) -> tuple[Verdict, str]:
    """Judge by the last look at labels: it counts all that had come by then, corrected ones as they are now.

    A ring brings other segments: it passes by the answers that were given since it began, besides those of all.
    """
    if limit.quantity != WORSE or limit.metric not in MEANS:
        return "undecided", f"no mean over rows, as {', '.join(MEANS)} are: it cannot be judged while labels come"
    last = next((look for look in reversed(looks) if look.seen.get("quality")), None)
    found: Mapping[str, Any] = last.seen["quality"] if last else {}
    seen = found.get(str(limit))
    if last is None or seen is None:
        return "undecided", found.get("trouble", "no labels")
    rows = f"{seen['rows']:,}" + (f" of {FEWEST_ANSWERS}" if seen["rows"] < FEWEST_ANSWERS else "")
    text = f"{seen['own']:.4g} beside {seen['other']:.4g} on {rows} labelled answers"
    verdict = against_zero(_tally_of(seen), alpha)
    if verdict == "pass" and rollout.policy.of == "segments":
        of_ring = _tally_of(seen["of_step"]) if last.step == rollout.step else Tally(0, 0.0, 0.0)
        if against_zero(of_ring, alpha) != "pass":
            return "undecided", f"{text}, {of_ring.rows:,} of them since this ring began"
    return verdict, text


def _tally_of(seen: Mapping[str, Any]) -> Tally:
    return Tally(seen["rows"], seen["total"], seen["squares"])


def _rate_against(
    rollout: Rollout, looks: Sequence[Look], bad_of: _Count, limit: float, alpha: float, told: str
) -> tuple[Verdict, str]:
    """Judge a rate of the candidate against a limit. A ring brings other segments: each has to be shown well by itself."""

    def counts(some: Sequence[Look]) -> tuple[int, int]:
        sides = [look.seen["candidate"] for look in some]
        return sum(map(bad_of, sides)), sum(side["asked"] for side in sides)

    bad, asked = counts(looks)
    text = f"{bad:,} of {asked:,}{told}"
    if _since_each_step(rollout, looks, lambda some: above(*counts(some), limit)) >= -math.log(alpha):
        return "fail", text
    by_rings = rollout.policy.of == "segments"
    shown = counts([look for look in looks if look.step == rollout.step or not by_rings])
    return "pass" if against_limit(*shown, limit, alpha) == "pass" else "undecided", text


def _slow_of(seen: Mapping[str, Any], limit_s: float) -> int:
    return _slower_than(seen["classes"], limit_s)


def _fails_more(rollout: Rollout, looks: Sequence[Look], alpha: float) -> str:
    """Compare how many requests fail: which side has one is chance, where requests are shared."""

    def evidence(some: Sequence[Look]) -> float:
        sides = ("candidate", "other")
        return Comparison(
            Window(*(look.seen[side][name] for side in sides for name in ("failed", "asked"))) for look in some
        ).evidence

    if _since_each_step(rollout, looks, evidence) < -math.log(alpha):
        return ""
    texts = [
        f"{sum(look.seen[side]['failed'] for look in looks):,} of {sum(look.seen[side]['asked'] for look in looks):,}"
        for side in ("candidate", "other")
    ]
    return f"it fails more often than what serves beside it: {texts[0]} beside {texts[1]}"


def _breaks_more(rollout: Rollout, looks: Sequence[Look], alpha: float) -> str:
    """Compare how many segments have begun to fail: which side a segment is on is chance, where segments are shared.

    Its requests are not: a segment that always fails would be as many failures as it has requests, all on one side. So each
    counts once, when it begins to fail, among those that had not: given how many do, the candidate's share of them is
    hypergeometric. A segment that is asked once is heard as well.
    """
    sides = ("candidate", "other")

    def evidence(some: Sequence[Look], kind: str) -> float:
        found = [look.seen["broken"][kind] for look in some if "broken" in look.seen]
        return Comparison(Window(*(n for side in sides for n in _of_sound(one[side]))) for one in found).evidence

    kinds = {kind: _since_each_step(rollout, looks, partial(evidence, kind=kind)) for kind in BREAKS}
    if mean_of_logs(list(kinds.values())) < -math.log(alpha):
        return ""
    found = [look.seen["broken"][max(kinds, key=kinds.__getitem__)] for look in looks if "broken" in look.seen]
    named = {side: [name for one in found for name in one[side]["names"]] for side in sides}
    counts = f"{len(named['candidate']):,} beside {len(named['other']):,}"
    return f"more segments begin to fail than beside it: {counts}, such as {', '.join(named['candidate'][:_SHOWN])}"


def _of_sound(side: Mapping[str, Any]) -> tuple[int, int]:
    return len(side["names"]), side["sound"]


def _is_slower(looks: Sequence[Look], alpha: float) -> str:
    """Compare how many requests are slow; what slow is, the other side's first requests say, which are not compared."""
    compared, first, limit_s = Comparison(), Counter[str](), 0.0
    for look in looks:
        other = look.seen["other"]["classes"]
        if not limit_s:
            first.update(other)
            limit_s = _SLOWER * (quantile(_listed(first), 0.99) or 0.0) if first.total() >= _ENOUGH else 0.0
            continue
        candidate = look.seen["candidate"]["classes"]
        sides = [(_slower_than(classes, limit_s), sum(classes.values())) for classes in (candidate, other)]
        compared.add(Window(*sides[0], *sides[1]))
    if not compared.is_worse(alpha):
        return ""
    return f"it takes more than {1000 * limit_s:.3g} ms more often than what serves beside it"


def _slower_than(classes: Mapping[str, int], seconds: float) -> int:
    """Return how many requests surely took longer: those in classes that begin at or above a time."""
    return sum(count for place, count in classes.items() if int(place) and BOUNDS[int(place) - 1] >= seconds)


def _listed(classes: Mapping[str, int]) -> list[int]:
    return [classes.get(str(place), 0) for place in range(CLASSES)]


# ------------------------------------------------------------------ the loop


class Watch:
    """Looks at all rollouts of an environment, at each when it is due."""

    def __init__(self, store: Store, folder: Path, environment: str, settings: Settings | None = None) -> None:
        """Take the store, and where the environment's node counts; without settings no labels are looked for."""
        self.store, self.environment, self.settings = store, environment, settings
        self._labelled: dict[int, Labelled] = {}
        self.history = History(run_folder(folder, environment))
        self._due: dict[int, float] = {}

    def look(self, models: Sequence[ModelName]) -> bool:
        """Look at those that are due; return whether any goes on."""
        return True in {self._look(model) for model in models}

    def _look(self, model: ModelName) -> bool:
        with self.store.database.read() as c:
            rollout = open_rollout(c, self.environment, model)
        if rollout is None or rollout.state != RUNNING:
            return False
        if time.monotonic() < self._due.get(rollout.id, 0.0):
            return True
        try:
            after = Deployer(self.store, self.history, rollout, self._labels_of(rollout)).look()
        except Conflict:  # somebody else was first: what follows from that is seen at the next look
            after = rollout
        age_s = (now() - after.step_at).total_seconds()
        self._due[rollout.id] = time.monotonic() + max(LOOK_S, _LATER * age_s)
        return after.state == RUNNING

    def _labels_of(self, rollout: Rollout) -> Labelled | None:
        """Return what looks for a rollout's labels; the same again, for it knows which rows were asked."""
        if self.settings is None:
            return None
        found = self._labelled.setdefault(rollout.id, Labelled(self.store, self.settings, rollout))
        found.rollout = rollout  # it may have come a step further
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch an environment's rollouts until none goes on."""
    from modelmill.orchestrator.served import model_names

    root, environment = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load_settings(Path(root))
        with open_store(settings, create=False) as store:
            watch = Watch(store, settings.store_folder, environment, settings)
            while watch.look(model_names(store)):
                time.sleep(LOOK_S)
    except ModelmillError as error:
        sys.stderr.write(f"canaries of {environment} are not watched: {error.code} {error.what}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
