"""Fitted objects as bytes: linear ones without a pickle, and a named culprit where something cannot be saved."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge

from modelmill.errors import BlobBroken, Unsaveable
from modelmill.model.artifact import LINEAR, PICKLE, decode, decode_linear, encode

X = np.random.default_rng(0).normal(size=(40, 3))
Y = X @ [1.0, 2.0, 3.0] + 4


@pytest.mark.parametrize("kind", [LinearRegression, Ridge, Lasso, ElasticNet])
def test_linear_models_answer_as_scikit_learn_does(kind: Any) -> None:
    fitted = kind().fit(X, Y)
    artifact = encode(fitted, plain_predict=True)
    bound = 1e-12 * (np.abs(X) @ np.abs(fitted.coef_) + abs(fitted.intercept_))
    assert artifact.format == LINEAR
    assert (np.abs(decode_linear(artifact.content).predict(X) - fitted.predict(X)) <= bound).all()


class Tuned(Ridge):  # type: ignore[misc]
    """A class of the user's own: its predict may do anything."""


@pytest.mark.parametrize("fitted", [LogisticRegression().fit(X, Y > 4), Tuned().fit(X, Y)], ids=["other", "subclass"])
def test_everything_else_is_pickled(fitted: Any) -> None:
    artifact = encode(fitted, plain_predict=True)
    assert artifact.format == PICKLE
    assert (decode(artifact.format, artifact.content).predict(X) == fitted.predict(X)).all()


def test_a_predict_of_ones_own_is_pickled_too() -> None:
    assert encode(Ridge().fit(X, Y), plain_predict=False).format == PICKLE


def test_a_local_function_can_be_saved() -> None:
    artifact = encode(lambda x: x + 1, plain_predict=False)
    assert decode(artifact.format, artifact.content)(1) == 2


def test_the_attribute_that_cannot_be_saved_is_named() -> None:
    fitted = Ridge().fit(X, Y)
    fitted.helper = {"lock": threading.Lock()}
    with pytest.raises(Unsaveable, match="helper"):
        encode(fitted, plain_predict=False)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"X" + c[1:], lambda c: b""])
def test_damaged_linear_bytes_are_refused(change: Any) -> None:
    content = encode(Ridge().fit(X, Y), plain_predict=True).content
    with pytest.raises(BlobBroken):
        decode_linear(change(content))
