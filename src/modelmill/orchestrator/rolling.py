"""The deployer: looks at a canary again and again, takes its next step, or takes it back.

Run by the node that serves it, as ``python -m modelmill.orchestrator.rolling PROJECT ENVIRONMENT``, and again whenever it
has ended while a canary still runs. All that it knows is in rows: it may be killed at any moment, and several may run.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modelmill.errors import Conflict, ModelmillError
from modelmill.names import ModelName
from modelmill.release.analysis import ALPHA, Comparison, Verdict, Window, against_limit, overall
from modelmill.release.policy import Limit
from modelmill.release.rollouts import RUNNING, Look, Rollout, list_looks, open_rollout, record_look
from modelmill.release.staging import advance, stop
from modelmill.serving.compared import Compared
from modelmill.serving.control import run_folder
from modelmill.serving.history import History, Seen
from modelmill.serving.meters import BOUNDS, CLASSES, quantile
from modelmill.settings import load_settings
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


class Judged(NamedTuple):
    """What is known of a canary now."""

    verdict: Verdict
    texts: list[str]
    """A line each condition: ``error_rate > 0.01: 0 of 412, pass``."""
    why: str
    """What has failed, or what is not known yet."""


class Deployer:
    """Watches one rollout."""

    def __init__(self, store: Store, history: History, rollout: Rollout) -> None:
        """Take what the node has counted, and how far the rollout has come."""
        self.store, self.history, self.rollout = store, history, rollout
        self.compared = Compared(history.folder)

    def look(self) -> Rollout:
        """Look once: write down what is new, and do what follows from all that was seen."""
        looks = list_looks(self.store.database, self.rollout)
        seen = self._new(looks)
        if not record_look(self.store.database, self.rollout, len(looks), seen):
            return self.rollout  # another deployer looks at it as well, and was first
        judged = judge(self.rollout, [*looks, Look(now(), self.rollout.step, seen)])
        if judged.verdict == "fail":
            return stop(self.store, self.rollout, judged.why, _BY)
        held_s = (now() - self.rollout.step_at).total_seconds()
        if held_s >= self.rollout.policy.hold_s and judged.verdict == "pass":
            return advance(self.store, self.rollout, "; ".join(judged.texts), _BY)
        return self.rollout

    def _new(self, looks: Sequence[Look]) -> dict[str, Any]:
        """Return what both sides were asked since the look before, and all that the node has counted so far."""
        sides = self.history.sides(self.rollout.model, self.rollout.began_at.timestamp())
        candidate, other = (sides.get(number, _EMPTY) for number in (self.rollout.candidate, self.rollout.before))
        counted = {"candidate": _numbers(candidate), "other": _numbers(other), "copies": _numbers(self._copies())}
        before: Mapping[str, Any] = looks[-1].seen["counted"] if looks else self._first(counted)
        new = {name: _since(counted[name], before.get(name, _numbers(_EMPTY))) for name in counted}
        if self.rollout.is_shadow:  # nobody asks it: what it answers to copies is all that is known of it
            new["candidate"] = new["copies"]
        return new | {"counted": counted}

    def _copies(self) -> Seen:
        """Return the copies that the candidate answered at its first step."""
        if not self.rollout.policy.has_shadow:
            return _EMPTY
        began = self.rollout.began_at.timestamp()
        tally = self.compared.whole(self.rollout.model, self.rollout.candidate, began)
        return Seen(tally.count, tally.failed, tally.listed())

    def _first(self, counted: dict[str, Any]) -> dict[str, Any]:
        """Return what to count from: what the other side was asked in the same minute, before it all began, is not of it."""
        return dict.fromkeys(counted, _numbers(_EMPTY)) | {"other": counted["other"]}


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
    neither passes on the other's account. Copies wait for one another, so how long they take is judged where it is declared.
    """
    conditions = rollout.policy.abort
    alpha = ALPHA / (len(conditions) + 2) / (2 if rollout.policy.has_shadow else 1)
    looks = [look for look in looks if (rollout.policy.steps[look.step] == 0) == rollout.is_shadow]
    verdicts: list[Verdict] = []
    texts: list[str] = []
    for limit in conditions:
        verdict, text = _against(limit, looks, alpha)
        verdicts.append(verdict)
        texts.append(f"{limit}: {text}, {'proven' if verdict == 'fail' else verdict}")
    slower = "" if rollout.is_shadow else _is_slower(looks, alpha)
    for text in filter(None, (_fails_more(looks, alpha), slower)):
        verdicts.append("fail")
        texts.append(text)
    verdict = overall(verdicts)
    failed = [text for one, text in zip(verdicts, texts, strict=True) if one == verdict]
    return Judged(verdict, texts, "; ".join(failed) if verdict != "pass" else "")


def _against(limit: Limit, looks: Sequence[Look], alpha: float) -> tuple[Verdict, str]:
    asked = sum(look.seen["candidate"]["asked"] for look in looks)
    if limit.quantity == "error_rate":
        bad = sum(look.seen["candidate"]["failed"] for look in looks)
        return against_limit(bad, asked, limit.limit, alpha), f"{bad:,} of {asked:,}"
    if limit.quantity == "p99_ms":
        slow = sum(_slower_than(look.seen["candidate"]["classes"], limit.limit / 1000) for look in looks)
        return against_limit(slow, asked, _P99_SHARE, alpha), f"{slow:,} of {asked:,} above {limit.limit:g} ms"
    return "undecided", "no labels"


def _fails_more(looks: Sequence[Look], alpha: float) -> str:
    compared = Comparison(
        Window(*(look.seen[side][name] for side in ("candidate", "other") for name in ("failed", "asked")))
        for look in looks
    )
    if not compared.is_worse(alpha):
        return ""
    texts = [
        f"{sum(look.seen[side]['failed'] for look in looks):,} of {sum(look.seen[side]['asked'] for look in looks):,}"
        for side in ("candidate", "other")
    ]
    return f"it fails more often than what serves beside it: {texts[0]} beside {texts[1]}"


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

    def __init__(self, store: Store, folder: Path, environment: str) -> None:
        """Take the store, and where the environment's node counts."""
        self.store, self.environment = store, environment
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
            after = Deployer(self.store, self.history, rollout).look()
        except Conflict:  # somebody else was first: what follows from that is seen at the next look
            after = rollout
        age_s = (now() - after.step_at).total_seconds()
        self._due[rollout.id] = time.monotonic() + max(LOOK_S, _LATER * age_s)
        return after.state == RUNNING


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch an environment's rollouts until none goes on."""
    from modelmill.orchestrator.served import model_names

    root, environment = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load_settings(Path(root))
        with open_store(settings, create=False) as store:
            watch = Watch(store, settings.store_folder, environment)
            while watch.look(model_names(store)):
                time.sleep(LOOK_S)
    except ModelmillError as error:
        sys.stderr.write(f"canaries of {environment} are not watched: {error.code} {error.what}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
