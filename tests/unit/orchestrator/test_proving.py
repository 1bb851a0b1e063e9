"""What follows from what was seen of a canary."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from modelmill.names import ModelName
from modelmill.orchestrator.proving import judge
from modelmill.release.policy import Limit, Policy
from modelmill.release.rollouts import Look, Rollout
from modelmill.serving.meters import BOUNDS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(*abort: Limit) -> Rollout:
    policy = Policy((0.1, 1.0), "requests", 60.0, abort)
    return Rollout(1, "prod", ModelName("sales"), 2, 1, "running", policy, 0, None, NOW, NOW, None, "", "")


def side(asked: int, failed: int = 0, ms: float = 1.0) -> dict[str, Any]:
    place = next(place for place, bound in enumerate(BOUNDS) if bound > ms / 1000)
    return {"asked": asked, "failed": failed, "classes": {str(place): asked} if asked else {}}


def looks(candidate: dict[str, Any], other: dict[str, Any], times: int = 10) -> list[Look]:
    return [Look(NOW, 0, {"candidate": candidate, "other": other})] * times


ERRORS, LATENCY, QUALITY = Limit("error_rate", 0.01), Limit("p99_ms", 20.0), Limit("worse", 0.1, "mae")


@pytest.mark.parametrize(
    ("abort", "candidate", "other", "verdict", "said"),
    [
        ((ERRORS,), side(0), side(0), "undecided", "0 of 0"),
        ((ERRORS,), side(10), side(90), "undecided", "0 of 100"),
        ((ERRORS,), side(100), side(900), "pass", ""),
        ((ERRORS, LATENCY), side(100), side(900), "pass", ""),
        ((ERRORS,), side(20, 1), side(180), "fail", "fails more often"),
        ((Limit("error_rate", 0.5),), side(100, 5), side(900, 45), "pass", ""),
        ((ERRORS,), side(100, 5), side(900, 45), "fail", "error_rate > 0.01: 50 of 1,000"),
        ((LATENCY,), side(100, ms=50), side(900, ms=45), "fail", "above 20 ms"),
        ((ERRORS,), side(100, ms=50), side(900, ms=1), "fail", "takes more than"),
        ((ERRORS, QUALITY), side(100), side(900), "undecided", "no labels"),
    ],
)
def test_a_canary_is_judged(
    abort: tuple[Limit, ...], candidate: dict[str, Any], other: dict[str, Any], verdict: str, said: str
) -> None:
    judged = judge(rollout(*abort), looks(candidate, other))
    assert judged.verdict == verdict, judged
    assert said in judged.why


def quality(rows: int, mean: float, spread: float = 1.0) -> dict[str, Any]:
    told = {"rows": rows, "total": rows * mean, "squares": (rows - 1) * spread**2, "largest": 9 * spread**2}
    told |= {"own": 2.0, "other": 1.5}
    return {str(QUALITY): told}


@pytest.mark.parametrize(
    ("seen", "verdict", "said"),
    [
        ([], "undecided", "no labels"),
        ([quality(409, 9.0)], "undecided", "2 beside 1.5 on 409 of 410 labelled answers"),
        ([quality(2000, 0.2)], "fail", "worse(mae) > 0.1: 2 beside 1.5 on 2,000 labelled answers, proven"),
        ([quality(2000, -0.2)], "pass", ""),
        ([quality(2000, 0.01)], "undecided", "undecided"),
        ([quality(2000, 0.2), quality(2000, -0.2)], "pass", ""),  # a correction: the last look counts
        ([quality(2000, -0.2), {"trouble": "r1 has no answer: x"}], "undecided", "r1 has no answer"),
    ],
)
def test_labels_are_judged_by_the_last_look_at_them(seen: list[Any], verdict: str, said: str) -> None:
    found = looks(side(100), side(900))
    found += [Look(NOW, 0, {"candidate": side(0), "other": side(0), "quality": one}) for one in seen]
    judged = judge(rollout(ERRORS, QUALITY), [*found, *looks(side(0), side(0), 1)])
    assert judged.verdict == verdict, judged
    assert said in judged.why


@pytest.mark.parametrize(
    ("of", "step", "of_ring", "verdict", "said"),
    [
        ("segments", 1, (1000, -0.2), "pass", ""),
        ("segments", 1, (50, -0.2), "undecided", "50 of them since this ring began"),
        ("segments", 1, (1000, 0.0), "undecided", "1,000 of them since this ring began"),
        ("segments", 0, (1000, -0.2), "undecided", "0 of them since this ring began"),
        ("requests", 1, (50, -0.2), "pass", ""),
    ],
)
def test_a_ring_passes_by_labels_of_its_own(
    of: Literal["requests", "segments"], step: int, of_ring: tuple[int, float], verdict: str, said: str
) -> None:
    policy = Policy((0.1, 0.5, 1.0), of, 60.0, (QUALITY,))
    at_ring = Rollout(1, "prod", ModelName("sales"), 2, 1, "running", policy, 1, None, NOW, NOW, None, "", "")
    seen = quality(2000, -0.2)[str(QUALITY)] | {"of_step": quality(*of_ring)[str(QUALITY)]}
    look = Look(NOW, step, {"candidate": side(100), "other": side(900), "quality": {str(QUALITY): seen}})
    judged = judge(at_ring, [look])
    assert judged.verdict == verdict, judged
    assert said in judged.why


def test_what_is_no_mean_over_rows_waits_and_says_why() -> None:
    limit = Limit("worse", 0.1, "roc_auc")
    judged = judge(rollout(ERRORS, limit), looks(side(100), side(900)))
    assert (judged.verdict, "no mean over rows" in judged.why) == ("undecided", True)


def test_nothing_was_seen_yet() -> None:
    assert judge(rollout(ERRORS), []).verdict == "undecided"


def shadowed(step: int, *abort: Limit) -> Rollout:
    policy = Policy((0.0, 0.1, 1.0), "segments", 60.0, abort)
    return Rollout(1, "prod", ModelName("sales"), 2, 1, "running", policy, step, None, NOW, NOW, None, "", "")


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [(side(0), "undecided"), (side(10), "undecided"), (side(1000, ms=50), "pass"), (side(1000, 100), "fail")],
)
@pytest.mark.parametrize("abort", [(ERRORS,), (LATENCY, QUALITY), (ERRORS, LATENCY, QUALITY)])
def test_a_shadow_is_judged_by_whether_it_fails(
    abort: tuple[Limit, ...], candidate: dict[str, Any], verdict: str
) -> None:
    """It is as slow as the time is that is left to it, and no label is of its answers: it would wait for ever."""
    assert judge(shadowed(0, *abort), looks(candidate, side(1000))).verdict == verdict


def test_copies_say_nothing_of_the_step_behind_them() -> None:
    copies = looks(side(1000), side(1000))
    assert judge(shadowed(1, ERRORS), copies).verdict == "undecided"
    assert "0 of 0" in judge(shadowed(1, ERRORS), copies).why
