"""Whether a need is met, is not, or cannot be decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelmill as mm
from modelmill.build.gating import Candidate
from modelmill.build.needing import Needed, judge_need
from modelmill.model.conditions import Condition
from modelmill.model.metrics import CLASSIFICATION, REGRESSION

SEGMENTS, EACH = 30, 20
ROWS = SEGMENTS * EACH
GENERATOR = np.random.default_rng(3)
NOISE = GENERATOR.normal(size=ROWS)
TRUTH = GENERATOR.normal(size=ROWS) * 10
LENGTHS = np.full(SEGMENTS, EACH)


def found(answers: Any, pooled: Any = None) -> Candidate:
    return Candidate(TRUTH, answers, None, np.zeros(ROWS), pooled, LENGTHS)


def verdict(condition: Condition, candidate: Candidate) -> bool | None:
    return judge_need(condition, candidate, REGRESSION).verdict


@pytest.mark.parametrize(
    ("condition", "candidate", "expected"),
    [
        (mm.better("mae", than="mean", by=0.5), found(TRUTH + NOISE), True),
        (mm.better("mae", than="mean", by=0.5), found(TRUTH + 20 * NOISE), False),
        (mm.better("mae", than="mean"), found(np.zeros(ROWS)), None),
        (mm.better("rmse", than="mean", by=0.5), found(TRUTH * 0.49), False),
        (mm.better("rmse", than="mean", by=0.5), found(TRUTH * 0.7), True),
        (mm.better("mae", than="pooled"), found(TRUTH + NOISE, TRUTH + 2 * NOISE), True),
        (mm.better("mae", than="pooled"), found(TRUTH + NOISE), None),
        (mm.no_worse("mae", than="mean"), found(np.zeros(ROWS)), True),
        (mm.no_worse("mae", than="mean"), found(TRUTH + 40 * NOISE), False),
        (mm.at_least("mae", 2), found(TRUTH + NOISE), True),
        (mm.at_least("mae", 0.5), found(TRUTH + NOISE), False),
        (mm.at_least("rmse", 1.0), found(TRUTH + NOISE), None),
        (mm.at_least("r2", 0.5), found(TRUTH + NOISE), True),
        (mm.at_least("r2", 0.9999), found(TRUTH + NOISE), False),
        (mm.better("r2", than="mean"), found(np.zeros(ROWS)), False),
    ],
)
def test_a_need_is_decided_by_its_interval(condition: Condition, candidate: Candidate, expected: bool | None) -> None:
    assert verdict(condition, candidate) is expected


def test_classes_are_judged_by_the_share_that_is_right() -> None:
    truth = np.arange(ROWS, dtype=float) % 2
    right = np.column_stack([1 - truth, truth])
    guess = np.column_stack([np.full(ROWS, 0.6), np.full(ROWS, 0.4)])
    candidate = Candidate(truth, right, None, guess, None, LENGTHS)
    need = judge_need(mm.better("accuracy", than="mean", by=0.9), candidate, CLASSIFICATION)
    assert (need.verdict, need.value, need.interval) == (True, 1.0, True)
    assert need.limit == pytest.approx(0.95)
    assert judge_need(mm.at_least("accuracy", 0.4), candidate._replace(answers=guess), CLASSIFICATION).verdict is True
    assert judge_need(mm.at_least("f1", 0.9), candidate, CLASSIFICATION).interval is False


@given(st.floats(0.01, 0.9), st.floats(0.1, 30))
def test_a_higher_aim_is_never_easier(share: float, spread: float) -> None:
    order = {True: 2, None: 1, False: 0}
    candidate = found(TRUTH + spread * NOISE)
    lower, higher = (verdict(mm.better("mae", than="mean", by=by), candidate) for by in (share / 2, share))
    assert order[higher] <= order[lower]


@given(st.floats(0.1, 30), st.sampled_from(["mae", "rmse", "mape"]))
def test_a_verdict_never_contradicts_its_own_figures(spread: float, metric: str) -> None:
    need: Needed = judge_need(mm.better(metric, than="mean", by=0.2), found(TRUTH + spread * NOISE), REGRESSION)
    assert need.value is not None
    assert need.limit is not None
    if need.verdict is not None:
        assert need.verdict == (need.value < need.limit)
