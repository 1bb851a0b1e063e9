"""`linear()`: an ordinary train function that can fit a fleet at once."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

import modelmill as mm
from modelmill.artifact.packed import decode, encode_linear
from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.errors import DeclarationInvalid
from modelmill.model.linear import LinearFit, fit_all

RNG = np.random.default_rng(1)
X = RNG.normal(size=(30, 3))
Y = X @ [1.0, -2.0, 0.5] + 4 + RNG.normal(size=30)


class Sale(mm.Schema):
    """One sale."""

    store: str = mm.key()
    size: float = mm.col()
    sales: float = mm.target()


class Visit(mm.Schema):
    """One visit."""

    store: str = mm.key()
    size: float = mm.col()
    came: bool = mm.target()


def test_it_is_called_as_any_train_function() -> None:
    model, theirs = mm.linear(alpha=1.0)(X, Y), Ridge(1.0).fit(X, Y)
    assert isinstance(model, LinearFit)
    assert model.coef_ == pytest.approx(theirs.coef_, rel=1e-12)
    assert model.predict(X) == pytest.approx(theirs.predict(X), rel=1e-12)


def test_its_hyperparameters_are_those_of_a_train_function() -> None:
    m = mm.Model("sales", Sale, by=[Sale.store])
    train = m.train(mm.linear(alpha=2))
    assert m.parameters == {"alpha": 2.0, "fit_intercept": True}
    assert list(inspect.signature(train).parameters) == ["x", "y", "alpha", "fit_intercept"]
    other = train(X, Y, alpha=0.0, fit_intercept=False)
    assert other.coef_ == pytest.approx(LinearRegression(fit_intercept=False).fit(X, Y).coef_, rel=1e-12)
    assert other.intercept_ == 0.0


def test_a_class_is_no_number() -> None:
    with pytest.raises(DeclarationInvalid) as raised:
        mm.Model("visits", Visit).train(mm.linear())
    assert "`came` of `visits` is a class" in raised.value.what
    assert "@visits.train" in raised.value.parts["next"]


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf"), "1", True], ids=repr)
def test_an_impossible_alpha_is_refused_at_import(alpha: float) -> None:
    with pytest.raises(DeclarationInvalid, match="alpha"):
        mm.linear(alpha=alpha)


def test_an_intercept_is_fitted_or_not() -> None:
    with pytest.raises(DeclarationInvalid, match="fit_intercept"):
        mm.linear(fit_intercept="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_missing_number_is_told(bad: float) -> None:
    x, y = X.copy(), Y.copy()
    x[3, 1] = bad
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        mm.linear()(x, Y)
    y[3] = bad
    with pytest.raises(ValueError, match="y holds NaN or infinity"):
        mm.linear()(X, y)


def test_of_many_solutions_the_least_is_taken() -> None:
    doubled = np.column_stack([X, X[:, 0]])
    theirs = LinearRegression().fit(doubled, Y)
    assert mm.linear()(doubled, Y).coef_ == pytest.approx(theirs.coef_, rel=1e-9)
    assert theirs.coef_[0] == pytest.approx(theirs.coef_[3])


def test_a_constant_column_has_no_coefficient() -> None:
    far = np.column_stack([X, np.full(30, 1e9 + 0.3)])
    model = mm.linear()(far, Y)
    assert model.coef_[3] == 0.0
    assert model.coef_[:3] == pytest.approx(LinearRegression().fit(X, Y).coef_, rel=1e-12)


def test_a_segment_of_one_row_is_its_mean() -> None:
    model = mm.linear(alpha=1.0)(X[:1], Y[:1])
    assert (model.coef_.tolist(), model.intercept_) == ([0.0] * 3, Y[0])


def test_it_survives_pickling() -> None:
    model = mm.linear()(X, Y)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - its own
    assert (again.coef_ == model.coef_).all()
    assert again.intercept_ == model.intercept_


@pytest.mark.parametrize("features", [1, 2, 3, 4, 7])
def test_many_are_packed_as_each_of_them_is(features: int) -> None:
    x = RNG.normal(size=(60, features))
    y, ends = x.sum(axis=1) + RNG.normal(size=60), np.array([20, 30, 60])
    models = fit_all(x, y, np.array([0, 20, 30]), ends, 1.0, fit_intercept=True)
    contents = encode_linear(*models, Programs())
    for place, content in enumerate(contents):
        assert content == pack(models.one(place), features, 0, Programs()).encode()
        assert decode(content).answer(x) == pytest.approx(models.one(place).predict(x), rel=1e-12)
