"""Worse by more than a share: the mean of what is judged is above zero exactly then."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.model.metrics import MEANS, higher_is_better, metrics_for
from modelmill.orchestrator.quality import Compared, answers_of, excess, judged, task_of, truth_of
from modelmill.release.policy import Limit


def compared(metric: str, seed: int) -> Compared:
    rng = np.random.default_rng(seed)
    if metric in ("mae", "rmse", "mape"):
        truth = rng.normal(50, 10, 200)
        return Compared(truth, truth + rng.normal(0, 1 + 3 * rng.random(), 200), truth + rng.normal(0, 2, 200))
    truth = rng.integers(0, 3, 200).astype(float)
    answers = [rng.dirichlet(np.ones(3), 200) + (1 + rng.random()) * np.eye(3)[truth.astype(int)] for _ in "12"]
    return Compared(truth, *(found / found.sum(axis=1, keepdims=True) for found in answers))


@given(st.sampled_from(MEANS), st.integers(0, 10_000), st.floats(0, 0.5))
def test_the_mean_is_above_zero_exactly_where_the_metric_is_worse(metric: str, seed: int, by: float) -> None:
    found = compared(metric, seed)
    measure = metrics_for(task_of(found))[metric]
    own, other = measure(found.truth, found.given), measure(found.truth, found.other)
    worse = own < (1 - by) * other if higher_is_better(metric) else own > (1 + by) * other
    mean = excess(metric, by, found).mean()
    assert abs(mean) < 1e-9 or (mean > 0) == worse


def test_a_look_writes_down_what_judges_and_what_is_told() -> None:
    truth = np.zeros(4)
    limit, compared_ = Limit("worse", 0.5, "mae"), Compared(truth, np.array([2.0, 2, 2, 2]), np.ones(4))
    sums = {"rows": 4, "total": 2.0, "squares": 0.0, "largest": 0.0}
    assert judged(limit, compared_) == {**sums, "own": 2.0, "other": 1.0, "of_step": sums}
    found = judged(limit, compared_, np.array([False, True, False, False]))
    assert found == {
        **sums,
        "own": 2.0,
        "other": 1.0,
        "of_step": {"rows": 1, "total": 0.5, "squares": 0.0, "largest": 0.0},
    }


@pytest.mark.parametrize(
    ("values", "labels", "codes"),
    [
        ([1.5, 2.0], (), [1.5, 2.0]),
        ([True, False], ("false", "true"), [1.0, 0.0]),
        (["high", "low"], ("low", "high"), [1.0, 0.0]),
    ],
)
def test_labels_are_what_metrics_take(values: list[object], labels: tuple[str, ...], codes: list[float]) -> None:
    assert truth_of(pl.DataFrame({"label": values}), labels).tolist() == codes


def test_answers_are_numbers_or_probabilities() -> None:
    frame = pl.DataFrame({"answer": ["low", "high"], "probabilities": [[0.9, 0.1], [0.2, 0.8]]})
    assert answers_of(frame, ("low", "high")).tolist() == [[0.9, 0.1], [0.2, 0.8]]
    assert answers_of(pl.DataFrame({"answer": [1, 2]}), ()).tolist() == [1.0, 2.0]
