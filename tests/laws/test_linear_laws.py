"""Laws of `linear()`: whatever the fleet, its coefficients are scikit-learn's, and nobody's neighbours matter."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from modelmill.model.linear import Floats, LinearFit, fit_all
from modelmill.model.metrics import REGRESSION, of_each


class Fleet(NamedTuple):
    """Segments that lie one after the other."""

    x: Floats
    y: Floats
    starts: Any
    ends: Any


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Draw a fleet: columns of other scales and offsets, constant, doubled or nearly so, in segments of any length."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = np.array(draw(st.lists(st.integers(1, 60), min_size=1, max_size=6)))
    features = draw(st.integers(1, 5))
    x = rng.normal(size=(lengths.sum(), features))
    for column in range(features):
        x[:, column] *= draw(st.sampled_from([1.0, 1e-3, 1e4]))
        x[:, column] += draw(st.sampled_from([0.0, 3.7, -1e5]))
        kind = draw(st.sampled_from(["", "", "", "constant", "doubled", "nearly doubled", "rarely"]))
        if kind == "constant":
            x[:, column] = x[0, column]
        elif kind == "rarely":
            x[:, column] = rng.random(len(x)) < 0.05
        elif kind:
            x[:, column] = x[:, 0] + (kind == "nearly doubled") * rng.normal(0, 1e-4, len(x))
    y = x @ rng.normal(size=features) + draw(st.sampled_from([0.0, 1e5])) + rng.normal(size=len(x))
    ends = np.cumsum(lengths)
    return Fleet(x, y, ends - lengths, ends)


def scikit_learn(x: Floats, y: Floats, alpha: float, *, fit_intercept: bool) -> LinearFit:
    """Fit the columns that vary: scikit-learn fits what rounding leaves of the others, and should give them 0."""
    varies = (x != x[0]).any(axis=0) if fit_intercept else np.ones(x.shape[1], dtype=bool)
    model = Ridge(alpha, fit_intercept=fit_intercept) if alpha else LinearRegression(fit_intercept=fit_intercept)
    coef = np.zeros(x.shape[1])
    if not varies.any():
        return LinearFit(coef, float(y.mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of systems that are ill-conditioned
        coef[varies] = model.fit(x[:, varies], y).coef_
    return LinearFit(coef, float(model.intercept_))


def assert_equal(found: LinearFit, expected: LinearFit, x: Floats, *, fit_intercept: bool) -> None:
    """Compare to 1e-9 of the largest coefficient, each weighed by how much its column varies, and of the level."""
    spread = np.abs(x - x.mean(axis=0) * fit_intercept).max(axis=0) + 1e-300
    weighed = np.abs(expected.coef_) * spread
    assert (np.abs(found.coef_ - expected.coef_) * spread <= 1e-9 * weighed.max() + 1e-12).all()
    level = np.abs(expected.coef_ * x).sum(axis=1).max() + abs(expected.intercept_)
    assert abs(found.intercept_ - expected.intercept_) <= 1e-9 * level + 1e-12
    assert np.abs(found.predict(x) - expected.predict(x)).max() <= 1e-9 * level + 1e-12


@settings(max_examples=300, deadline=None)
@given(fleets(), st.sampled_from([0.0, 1e-3, 1.0, 100.0]), st.booleans())
def test_coefficients_are_those_of_scikit_learn(fleet: Fleet, alpha: float, fit_intercept: bool) -> None:
    models = fit_all(*fleet, alpha, fit_intercept)
    for place, (start, end) in enumerate(zip(fleet.starts, fleet.ends, strict=True)):
        x, y = fleet.x[start:end], fleet.y[start:end]
        assert_equal(
            models.one(place), scikit_learn(x, y, alpha, fit_intercept=fit_intercept), x, fit_intercept=fit_intercept
        )


@settings(max_examples=100, deadline=None)
@given(fleets(), st.sampled_from([0.0, 1.0]))
def test_a_segment_is_fitted_the_same_alone_to_the_last_bit(fleet: Fleet, alpha: float) -> None:
    models = fit_all(*fleet, alpha, fit_intercept=True)
    for place, (start, end) in enumerate(zip(fleet.starts, fleet.ends, strict=True)):
        x, y = fleet.x[start:end].copy(), fleet.y[start:end].copy()
        alone = fit_all(x, y, np.array([0]), np.array([len(y)]), alpha, fit_intercept=True)
        assert alone.coef[0].tolist() == models.coef[place].tolist()
        assert alone.intercept[0] == models.intercept[place]


@settings(max_examples=100, deadline=None)
@given(fleets(), st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans(), st.data())
def test_a_number_that_is_none_harms_its_own_segment_alone(
    fleet: Fleet, bad: float, in_target: bool, data: st.DataObject
) -> None:
    before = fit_all(*fleet, 1.0, fit_intercept=True)
    row = data.draw(st.integers(0, len(fleet.y) - 1))
    (fleet.y if in_target else fleet.x[:, 0])[row] = bad
    after = fit_all(*fleet, 1.0, fit_intercept=True)
    harmed = (fleet.starts <= row) & (row < fleet.ends)
    finite = np.isfinite(after.coef).all(axis=1) & np.isfinite(after.intercept)
    assert (finite == ~harmed).all()
    assert (after.coef[~harmed] == before.coef[~harmed]).all()


@given(fleets(), st.sampled_from(sorted(REGRESSION)), st.sampled_from(["as it is", "constant", "zero"]))
def test_a_metric_of_each_is_the_metric(fleet: Fleet, name: str, target: str) -> None:
    y = fleet.y if target == "as it is" else np.full(len(fleet.y), 0.0 if target == "zero" else 0.1)
    p = fleet.x[:, 0] if target == "as it is" else y
    found = of_each(name, y, p, fleet.starts)
    expected = [REGRESSION[name](y[s:e], p[s:e]) for s, e in zip(fleet.starts, fleet.ends, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
