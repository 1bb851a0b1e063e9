"""Fitted objects as bytes: linear ones without a pickle, and a named culprit where something cannot be saved."""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge

from modelmill.errors import BlobBroken, Unsaveable
from modelmill.model.artifact import PICKLE, Linear, Programs, as_linear, decode, decode_linear, encode, encode_linear
from modelmill.model.tracing import Program, Reference, Step, open_program

X = np.random.default_rng(0).normal(size=(40, 3))
Y = X @ [1.0, 2.0, 3.0] + 4
DOUBLED = Program(("x",), (Step("add", (Reference(0), Reference(0))),), 1).encode()


@pytest.mark.parametrize("kind", [LinearRegression, Ridge, Lasso, ElasticNet])
def test_linear_models_answer_as_scikit_learn_does(kind: Any) -> None:
    fitted = kind().fit(X, Y)
    linear = as_linear(fitted, Programs())
    assert linear is not None
    bound = 1e-12 * (np.abs(X) @ np.abs(fitted.coef_) + abs(fitted.intercept_))
    assert (np.abs(decode_linear(encode_linear(linear)).predict(X) - fitted.predict(X)) <= bound).all()
    assert linear.agrees(X, fitted.predict(X))
    assert not linear.agrees(X, fitted.predict(X) + 1e-9)
    assert not linear.agrees(X[:, :2], fitted.predict(X))


class Tuned(Ridge):  # type: ignore[misc]
    """A class of the user's own: its predict may do anything."""


@pytest.mark.parametrize("fitted", [LogisticRegression().fit(X, Y > 4), Tuned().fit(X, Y)], ids=["other", "subclass"])
def test_everything_else_is_pickled(fitted: Any) -> None:
    assert as_linear(fitted, Programs()) is None
    artifact = encode(fitted)
    assert artifact.format == PICKLE
    assert (decode(artifact.format, artifact.content).predict(X) == fitted.predict(X)).all()


def test_a_local_function_can_be_saved() -> None:
    artifact = encode(lambda x: x + 1)
    assert decode(artifact.format, artifact.content)(1) == 2


def test_the_attribute_that_cannot_be_saved_is_named() -> None:
    fitted = Ridge().fit(X, Y)
    fitted.helper = {"lock": threading.Lock()}
    with pytest.raises(Unsaveable, match="helper"):
        encode(fitted)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"X" + c[1:], lambda c: b""])
def test_damaged_linear_bytes_are_refused(change: Any) -> None:
    for programs in (Programs(), Programs(before=DOUBLED), Programs(after=DOUBLED)):
        content = encode_linear(Linear(np.array([1.0, 2.0]), 3.0, programs))
        assert decode_linear(content).programs == programs
        with pytest.raises(BlobBroken):
            decode_linear(change(content))


def test_bytes_of_the_first_version_are_read() -> None:
    content = b"MMLR" + struct.pack("<IQ3d", 1, 2, 5.0, 1.0, 2.0)
    assert encode_linear(Linear(np.array([1.0, 2.0]), 5.0)) == content
    assert decode_linear(content).answer(np.array([[1.0, 1.0]])).tolist() == [8.0]


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, Program(("x",), (Step("system", ()),), 0).encode()])
def test_a_program_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BlobBroken):
        open_program(content)
