"""What is proven of a canary by all that was seen of it.

A look says what both sides were asked since the look before; how often is looked changes nothing of what follows. Where
neither is proven, that all is well or that something is not, the verdict is *undecided*: the canary waits. There is one end
to that, see `_out_of_patience`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from modelmill.model.metrics import MEANS
from modelmill.orchestrator.quality import WORSE
from modelmill.release.analysis import (
    ALONE,
    ALPHA,
    NOTHING,
    Comparison,
    Tally,
    Verdict,
    Window,
    above,
    against_limit,
    against_zero,
    fewest_answers,
    mean_of_logs,
    overall,
)
from modelmill.release.policy import ALWAYS, Limit
from modelmill.release.rollouts import Look, Rollout
from modelmill.serving.meters import BOUNDS, CLASSES, quantile

LOOK_S = 2.0
"""How often is looked at first."""
_LATER = 1 / 30
"""Later on, after which share of the time that a step has taken so far: a day of looking is a few hundred looks."""
PATIENCE = 5
"""For how many times `hold` segments may fail that did not before, and a step be undecided all the same."""
_SHORTEST_HOLD_S = 60.0
HEARD = 0.8
"""Which share of a ring's segments have to have been asked before it passes, of those that somebody asked before it began."""
_SLOWER = 2.0
"""A request is slow beside the other side's, where nothing is declared, when it takes this many times its 99th percentile."""
_P99_SHARE = 0.01
_ENOUGH = 200
"""How many requests the current release has to have answered before its own 99th percentile is taken for one."""
_SHOWN = 5
SIDES = ("candidate", "other")
_Count = Callable[[Mapping[str, Any]], int]
Counts = Mapping[str, tuple[int, int]]
"""Of segments by name: how often each was asked, and failed."""


class Judged(NamedTuple):
    """What is known of a canary now."""

    verdict: Verdict
    texts: list[str]
    """A line each condition: ``error_rate > 0.01: 0 of 412, pass``."""
    why: str
    """What has failed, or what is not known yet."""


def judge(rollout: Rollout, looks: Sequence[Look]) -> Judged:
    """Judge a rollout by all that was seen of it: fail where one condition is proven broken, pass where all are proven met.

    Beside what is declared two things are always looked at: whether the candidate fails more often than the release beside
    it, and whether it is much slower. The chance of a false alarm is shared by all of them: half of it is for failing more
    often, which is what canaries are for, and where evidence is scarce.

    What a shadow answered to copies is judged apart from what a canary answered to clients, with half of that chance each:
    neither passes on the other's account. Copies have the time that requests leave, and nobody's labels are theirs: only
    whether it fails is judged of them.
    """
    conditions = _conditions(rollout)
    half = ALPHA / (2 if rollout.policy.has_shadow else 1) / 2
    alpha = half / (len(conditions) + 1)
    looks = [look for look in looks if (rollout.policy.steps[look.step] == 0) == rollout.is_shadow]
    verdicts: list[Verdict] = []
    texts: list[str] = []
    for limit in conditions:
        verdict, text = _against(limit, rollout, looks, alpha)
        verdicts.append(verdict)
        texts.append(f"{limit}: {text}, {'proven' if verdict == 'fail' else verdict}")
    by_segments = rollout.policy.of == "segments" and not rollout.is_shadow
    worse = (_breaks_more if by_segments else _fails_more)(rollout, looks, half)
    slower = "" if rollout.is_shadow else _is_slower(looks, alpha)
    harmed = looks and by_segments and _is_harmed(rollout, looks[-1])
    if harmed:  # few requests are theirs, perhaps, and so the rate of all may be well
        verdicts.append("undecided")
        texts.append(f"segments fail that did not before: {_failing(looks[-1])}, undecided")
    impatient = _out_of_patience(rollout, looks) if harmed and overall(verdicts) == "undecided" else ""
    for text in filter(None, (worse, slower, impatient)):
        verdicts.append("fail")
        texts.append(text)
    verdict = overall(verdicts)
    unheard = _unheard(looks) if by_segments and verdict == "pass" else ""
    if unheard:
        return Judged("undecided", [*texts, unheard], unheard)
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
    some that have not begun and are still at 1: the chance of a false alarm stays what it was. Each counts half of the one
    before: most faults show at once, and at the first step they have harmed least.
    """
    steps = max(1, len(rollout.policy.steps) - 1)
    begun = [evidence([look for look in looks if look.step >= step]) for step in range(min(steps, rollout.step + 1))]
    return mean_of_logs([*begun, *[0.0] * (steps - len(begun))], [0.5**step for step in range(steps)])


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
    both = 2 * alpha  # as much for either mistake
    needed = fewest_answers(both)
    rows = f"{seen['rows']:,}" + (f" of {needed}" if seen["rows"] < needed else "")
    text = f"{seen['own']:.4g} beside {seen['other']:.4g} on {rows} labelled answers"
    verdict = against_zero(_tally_of(seen), both)
    if verdict == "pass" and rollout.policy.of == "segments":
        of_ring = _tally_of(seen["of_step"]) if last.step == rollout.step else NOTHING
        if against_zero(of_ring, both) != "pass":
            return "undecided", f"{text}, {of_ring.rows:,} of them since this ring began"
    return verdict, text


def _tally_of(seen: Mapping[str, Any]) -> Tally:
    return Tally(seen["rows"], seen["total"], seen["squares"], seen.get("largest", math.inf))


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
        return Comparison(
            Window(*(look.seen[side][name] for side in SIDES for name in ("failed", "asked"))) for look in some
        ).evidence

    if _since_each_step(rollout, looks, evidence) < -math.log(alpha):
        return ""
    texts = [
        f"{sum(look.seen[side]['failed'] for look in looks):,} of {sum(look.seen[side]['asked'] for look in looks):,}"
        for side in SIDES
    ]
    return f"it fails more often than what serves beside it: {texts[0]} beside {texts[1]}"


def _breaks_more(rollout: Rollout, looks: Sequence[Look], alpha: float) -> str:
    """Compare how many segments have begun to fail: which side a segment is on is chance, where segments are shared.

    Its requests are not: a segment that always fails would be as many failures as it has requests, all on one side. So each
    counts once, when it begins to fail, among those that had not: given how many do, the candidate's share of them is
    hypergeometric. It is a randomization test (R. A. Fisher, The Design of Experiments, 1935): nothing is assumed of why
    segments begin to fail, only that they were drawn. So one of them is never more proof than the ring is small.
    """

    def evidence(some: Sequence[Look], kind: str) -> float:
        found = [look.seen["broken"][kind] for look in some if "broken" in look.seen]
        windows = (Window(*(n for side in SIDES for n in _of_sound(one[side]))) for one in found)
        return Comparison(windows, ALONE).evidence

    kinds = {kind: _since_each_step(rollout, looks, partial(evidence, kind=kind)) for kind in BREAKS}
    if mean_of_logs(list(kinds.values()), [1.0] * len(kinds)) < -math.log(alpha):
        return ""
    found = [look.seen["broken"][max(kinds, key=kinds.__getitem__)] for look in looks if "broken" in look.seen]
    named = {side: [name for one in found for name in one[side]["names"]] for side in SIDES}
    return f"more segments begin to fail than beside it: {_named(named)}"


def _unheard(looks: Sequence[Look]) -> str:
    """Return how many of a ring's segments have not been asked yet, where it cannot pass for that.

    Its requests may show that few fail long before those segments are asked that seldom are: what is broken of them would be
    found in the next ring, among ten times as many. Segments that nobody asked in the hour before are not waited for.
    """
    heard = looks[-1].seen.get("heard", {"segments": 0, "of": 0})
    if heard["segments"] >= HEARD * heard["of"]:
        return ""
    return f"{heard['segments']:,} of its {heard['of']:,} segments that are in use have been asked: it waits for more"


def _of_sound(side: Mapping[str, Any]) -> tuple[int, int]:
    return len(side["names"]), side["sound"]


def _named(names: Mapping[str, Sequence[str]]) -> str:
    counts = f"{len(names['candidate']):,} beside {len(names['other']):,}"
    return f"{counts}, such as {', '.join(names['candidate'][:_SHOWN])}"


def _out_of_patience(rollout: Rollout, looks: Sequence[Look]) -> str:
    """Return why a step that stays undecided is given up: segments fail in it that did not before, and more than beside it.

    No proof, and no chance of a false alarm is kept: a canary is not carried on with segments that it seems to have broken,
    for as long as it takes to prove. What is undecided for no such reason waits, above all where nobody asks.
    """
    harmed = list(takewhile(partial(_is_harmed, rollout), reversed(looks)))
    if not harmed:
        return ""
    last, first = harmed[0], harmed[-1]
    before = looks[: len(looks) - len(harmed)]
    lasted = held_s(rollout, looks, last.at) - held_s(rollout, before, first.at)
    if lasted < PATIENCE * max(rollout.policy.hold_s, _SHORTEST_HOLD_S):
        return ""
    return f"it cannot be shown to be well, and segments fail that did not before: {_failing(last)}, for {lasted:.0f} s"


def _failing(look: Look) -> str:
    return _named({side: look.seen["failing"][side]["names"] for side in SIDES})


def _is_harmed(rollout: Rollout, look: Look) -> bool:
    """Return whether more of the candidate's segments had begun to fail, and failed still, than of the others."""
    failing = look.seen.get("failing")
    if failing is None or look.step != rollout.step:
        return False
    candidate, other = (len(failing[side]["names"]) / max(1, failing[side]["of"]) for side in SIDES)
    return bool(candidate > other)


# ------------------------------------------------------------------ segments that begin to fail


BREAKS: dict[str, Callable[[int, int], bool]] = {
    "once": lambda _, failed: failed >= 1,
    "mostly": lambda asked, failed: failed >= 2 and 2 * failed >= asked,
}
"""When a segment has begun to fail, of how often it was asked and failed; where all fail now and then, the second tells."""


def breaking(
    looks: Sequence[Look], before: Counts, sides: Mapping[str, set[str]], counts: Mapping[str, Counts]
) -> dict[str, Any]:
    """Return what a look writes down of segments: which have begun to fail, on either side, and how many had not.

    `before` are those that failed before it all began, which the first look writes down; `sides` are the segments of each
    side, and `counts` those of them that have failed since it all began. A segment is its own control: one that failed
    before is never counted.
    """
    broken: dict[str, Any] = {}
    for kind, is_broken in BREAKS.items():
        known = broken_before(looks, kind) | set(_names(is_broken, before))
        fresh = {side: of - known for side, of in sides.items()}
        broken[kind] = {
            side: {"names": sorted(of.intersection(_names(is_broken, counts[side]))), "sound": len(of)}
            for side, of in fresh.items()
        }
    failed_before = {} if looks else {kind: sorted(_names(BREAKS[kind], before)) for kind in BREAKS}
    found = {"broken": broken} | ({"failed_before": failed_before} if failed_before else {})
    begun = {side: broken_at(looks, "mostly", side) | set(broken["mostly"][side]["names"]) for side in sides}
    return found | {
        "failing": {
            side: {"names": sorted(begun[side].intersection(_names(BREAKS["mostly"], counts[side]))), "of": len(of)}
            for side, of in sides.items()
        }
    }


def _names(is_broken: Callable[[int, int], bool], counts: Counts) -> Iterable[str]:
    return (name for name, (asked, failed) in counts.items() if is_broken(asked, failed))


def broken_before(looks: Sequence[Look], kind: str) -> set[str]:
    """Return the segments that had begun to fail by the last of these looks, or failed before the first."""
    failed_before = looks[0].seen.get("failed_before", {}).get(kind, []) if looks else []
    return set(failed_before).union(*(broken_at(looks, kind, side) for side in SIDES))


def broken_at(looks: Sequence[Look], kind: str, side: str) -> set[str]:
    """Return the segments that had begun to fail on one side."""
    found = (look.seen.get("broken", {}).get(kind, {}).get(side, {}) for look in looks)
    return {name for one in found for name in one.get("names", ())}


# ------------------------------------------------------------------ slowness


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


# ------------------------------------------------------------------ time


def pause_s(age_s: float) -> float:
    """Return after how long a step of an age is looked at again."""
    return max(LOOK_S, _LATER * age_s)


def held_s(rollout: Rollout, looks: Sequence[Look], moment: datetime) -> float:
    """Return for how long a step was looked at: a clock that jumps adds little to that, and takes nothing from it."""
    held, before = 0.0, rollout.step_at
    for at in (*(look.at for look in looks if look.step == rollout.step), moment):
        held += min(max(0.0, (at - before).total_seconds()), 2 * pause_s(held) + LOOK_S)
        before = at
    return held
