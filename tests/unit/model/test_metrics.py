"""The built-in metrics equal scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as theirs
from hypothesis import given
from hypothesis import strategies as st

from modelmill.model import metrics as ours

SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(2, 60))
def test_regression(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.normal(size=rows), rng.normal(size=rows)
    pairs: list[tuple[float, Any]] = [
        (ours.mae(y, p), theirs.mean_absolute_error(y, p)),
        (ours.rmse(y, p), theirs.root_mean_squared_error(y, p)),
        (ours.mape(y, p), theirs.mean_absolute_percentage_error(y, p)),
        (ours.r2(y, p), theirs.r2_score(y, p)),
    ]
    for mine, known in pairs:
        assert mine == pytest.approx(known, rel=1e-12, abs=1e-12)


@given(SEEDS, st.integers(2, 60), st.integers(2, 4))
def test_classification(seed: int, rows: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows).astype(float)
    p = rng.dirichlet(np.ones(classes), rows)
    average = "binary" if classes == 2 else "macro"
    assert ours.accuracy(y, p) == pytest.approx(theirs.accuracy_score(y, p.argmax(axis=1)))
    assert ours.f1(y, p) == pytest.approx(theirs.f1_score(y, p.argmax(axis=1), average=average, zero_division=0))
    assert ours.log_loss(y, p) == pytest.approx(theirs.log_loss(y, p, labels=range(classes)), rel=1e-9)


@given(SEEDS, st.integers(4, 60))
def test_roc_auc_with_ties(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, 2, rows)].astype(float)
    score = rng.integers(0, 5, rows + 2) / 5
    p = np.column_stack([1 - score, score])
    assert ours.roc_auc(y, p) == pytest.approx(theirs.roc_auc_score(y, score))


def test_roc_auc_of_one_class_is_not_known() -> None:
    assert np.isnan(ours.roc_auc(np.ones(3), np.full((3, 2), 0.5)))


def test_constant_truth() -> None:
    y = np.ones(3)
    assert (ours.r2(y, y), ours.r2(y, y + 1)) == (1.0, 0.0)
