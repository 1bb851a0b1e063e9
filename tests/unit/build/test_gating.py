"""The gate, condition by condition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelmill as mm
from modelmill.build.gating import Candidate, Gate, compare
from modelmill.build.pairing import FEWEST
from modelmill.model.conditions import Condition
from modelmill.model.metrics import CLASSIFICATION, REGRESSION

ROWS = 40
TRUTH = np.linspace(0, 10, ROWS)
NOISE = np.random.default_rng(1).normal(size=ROWS)
GOOD, BAD = TRUTH + 0.1 * NOISE, TRUTH + 3 * NOISE


def candidate(answers: Any = GOOD, champion: Any = GOOD, pooled: Any = None, rows: int = ROWS) -> Candidate:
    others = [None if some is None else some[:rows] for some in (champion, pooled)]
    mean = np.full(rows, TRUTH.mean())
    return Candidate(TRUTH[:rows], answers[:rows], others[0], mean, others[1], np.array([rows]))


def refused(condition: Condition, found: Candidate) -> str:
    refusal = Gate([condition], REGRESSION).refusal(found)
    return refusal[1] if refusal else ""


@pytest.mark.parametrize(
    ("condition", "found", "said"),
    [
        (mm.no_worse("mae", than="champion"), candidate(GOOD, GOOD), ""),
        (mm.no_worse("mae", than="champion"), candidate(GOOD, BAD), ""),
        (mm.no_worse("mae", than="champion"), candidate(BAD, GOOD), "clearly worse"),
        (mm.no_worse("mae", than="champion"), candidate(BAD, None), ""),
        (mm.no_worse("mae", than="champion"), candidate(BAD, GOOD, rows=FEWEST - 1), "too few to say"),
        (mm.no_worse("mae", than="pooled"), candidate(BAD, None, GOOD), "clearly worse"),
        (mm.no_worse("mae", than="pooled"), candidate(BAD, None, None), ""),
        (mm.no_worse("r2", than="mean"), candidate(GOOD), ""),
        (mm.better("mae", than="mean", by=0.9), candidate(GOOD), ""),
        (mm.better("mae", than="mean", by=0.9), candidate(BAD), "the mean's"),
        (mm.better("mae", than="mean"), candidate(np.full(ROWS, TRUTH.mean())), "the mean's"),
        (mm.better("r2", than="mean", by=0.5), candidate(GOOD), ""),
        (mm.better("mae", than="champion"), candidate(GOOD, BAD), ""),
        (mm.better("mae", than="champion"), candidate(GOOD, GOOD), "the champion's"),
        (mm.better("mae", than="champion"), candidate(GOOD, TRUTH + 0.1 * NOISE[::-1]), "not clearly better"),
        (mm.at_least("mae", 0.2), candidate(GOOD), ""),
        (mm.at_least("mae", 0.05), candidate(GOOD), "mae 0.06867 on 40 rows"),
        (mm.at_least("r2", 0.99), candidate(GOOD), ""),
        (mm.at_least("r2", 0.99), candidate(BAD), "r2"),
        (mm.at_least("mae", 1e9), candidate(np.full(ROWS, np.nan)), "mae nan"),
    ],
)
def test_a_condition_lets_through_what_it_says(condition: Condition, found: Candidate, said: str) -> None:
    why = refused(condition, found)
    assert bool(why) == bool(said)
    assert said in why


def test_without_a_declared_gate_the_score_may_not_be_clearly_worse() -> None:
    gate = Gate([], {"rmse": REGRESSION["rmse"]})
    assert str(gate.conditions[0]) == "no_worse(rmse) than champion"


def test_the_first_condition_that_does_not_hold_is_named() -> None:
    gate = Gate([mm.at_least("r2", -9), mm.no_worse("mae", than="champion"), mm.at_least("r2", 2)], REGRESSION)
    found = gate.refusal(candidate(BAD, GOOD))
    assert found is not None
    assert str(found[0]) == "no_worse(mae) than champion"


def test_classes_are_judged_by_their_own_loss() -> None:
    truth = np.arange(ROWS, dtype=float) % 2
    sure = np.column_stack([1 - truth, truth]) * 0.9 + 0.05
    unsure = np.full((ROWS, 2), 0.5)
    found = Candidate(truth, unsure, sure, unsure, None, np.array([ROWS]))
    refusal = Gate([mm.no_worse("accuracy", than="champion")], CLASSIFICATION).refusal(found)
    assert refusal is not None
    assert refusal[1] == "accuracy 0.5, the champion's 1, on 40 rows: clearly worse"
    assert Gate([mm.at_least("accuracy", 0.9)], CLASSIFICATION).refusal(found._replace(answers=sure)) is None


def test_of_many_segments_together_the_interval_decides() -> None:
    """The pooled model is judged on all rows: one segment in which it is worse does not condemn it."""
    lengths = np.array([10, 10, 10, 10])
    answers = GOOD.copy()
    answers[:10] = BAD[:10]
    found = Candidate(TRUTH, answers, GOOD, np.zeros(ROWS), None, lengths)
    assert refused(mm.no_worse("mae", than="champion"), found) == ""
    assert "clearly worse" in refused(mm.no_worse("mae", than="champion"), found._replace(answers=GOOD + 5))


@given(
    st.lists(st.floats(-100, 100), min_size=FEWEST, max_size=30),
    st.lists(st.floats(-100, 100), min_size=30, max_size=30),
)
def test_what_is_clearly_better_is_never_refused_as_worse(answers: list[float], others: list[float]) -> None:
    rows = len(answers)
    found = Candidate(TRUTH[:rows], np.array(answers), np.array(others[:rows]), np.zeros(rows), None, np.array([rows]))
    better = refused(mm.better("mae", than="champion"), found) == ""
    not_worse = refused(mm.no_worse("mae", than="champion"), found) == ""
    assert not_worse or not better
    paired = compare("mae", found.truth, found.answers, np.array(others[:rows]), found.lengths)
    assert not_worse == (paired.worse == 0)
