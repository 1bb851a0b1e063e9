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
from modelmill.errors import DeclarationInvalid
from modelmill.model.conditions import Condition
from modelmill.model.metrics import CLASSIFICATION, REGRESSION
from modelmill.model.rows import Rows

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


EVENING = Rows({"hour": np.arange(ROWS) % 24, "origin": np.array(["JFK", "EWR"] * (ROWS // 2), dtype=object)})
LATE = np.where(EVENING.hour >= 18, TRUTH + 3, GOOD)
"""Answers that are wrong in the evening alone."""


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (mm.at_least("mae", 1.0), ""),
        (mm.at_least("mae", 1.0, on={"hour": (18, 23)}), "mae 3 on 6 rows"),
        (mm.at_least("mae", 1.0, on={"hour": (0, 17)}), ""),
        (mm.at_least("mae", 1.0, on={"hour": (18, 23), "origin": "JFK"}), "mae 3 on 3 rows"),
        (mm.at_least("mae", 1.0, on={"hour": 18}), "mae 3 on 1 rows"),
        (mm.at_least("mae", 1.0, on={"origin": "LGA"}), ""),  # there are no such rows
        (mm.no_worse("mae", than="champion", on={"hour": (18, 23)}), "clearly worse"),
        (mm.no_worse("mae", than="champion", on={"hour": (0, 17)}), ""),
        (mm.better("mae", than="mean", on={"origin": "JFK", "hour": (18, 23)}), "too few"),
    ],
)
def test_a_floor_of_a_slice_is_judged_on_its_rows_alone(condition: Condition, said: str) -> None:
    found = refused(condition, candidate(LATE)._replace(rows=EVENING))
    assert said in found if said else not found


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 10), st.integers(0, 10))
def test_a_slice_of_many_segments_keeps_the_rows_of_each(lengths: list[int], low: int, high: int) -> None:
    total = sum(lengths)
    x = np.random.default_rng(total).integers(0, 11, total)
    truth = x.astype(np.float64)
    some = Candidate(truth, truth, truth, truth, None, np.array(lengths), Rows({"x": x}))
    on = mm.at_least("mae", 1, on={"x": (min(low, high), max(low, high))})
    found = some.on(on)
    kept = (x >= min(low, high)) & (x <= max(low, high))
    if not kept.any():
        assert found is None
        return
    assert found is not None
    counts = [int(part.sum()) for part in np.split(kept, np.cumsum(lengths)[:-1])]
    assert found.lengths.tolist() == [count for count in counts if count]
    assert found.truth.tolist() == truth[kept].tolist()


@pytest.mark.parametrize("value", [(23, 18), (1, 2, 3), [1], {1}])
def test_a_slice_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(DeclarationInvalid, match="cannot be sliced"):
        mm.at_least("mae", 1.0, on={"hour": value})


def test_a_slice_is_shown_and_kept() -> None:
    condition = mm.at_least("mae", 15, on={"hour": (18, 23), "origin": "JFK"})
    assert str(condition) == "mae <= 15.0 where hour 18..23, origin = JFK"
    assert condition.as_dict()["on"] == {"hour": (18, 23), "origin": "JFK"}
    assert "on" not in mm.at_least("mae", 15).as_dict()


def test_a_slice_needs_a_column_of_requests() -> None:
    class Sale(mm.Schema):
        hour: int = mm.col()
        sales: float = mm.target()

    mm.Model("sales", Sale, gate=[mm.at_least("mae", 1, on={Sale.hour: (18, 23)})])
    for name in ("hours", "sales"):
        with pytest.raises(DeclarationInvalid, match="no column"):
            mm.Model("sales", Sale, gate=[mm.at_least("mae", 1, on={name: 1})])
    with pytest.raises(DeclarationInvalid, match="slice"):
        mm.Model("sales", Sale, needs=[mm.at_least("mae", 1, on={"hour": 1})])
