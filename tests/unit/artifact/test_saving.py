"""Fitted objects as bytes: what is no plain arrays is pickled, and what cannot be saved is named."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PACKED, PICKLE, decode, encode
from modelmill.artifact.tracing import Program, Reference, Step, open_program
from modelmill.errors import BlobBroken, Unsaveable

X = np.random.default_rng(0).normal(size=(40, 3))
Y = X @ [1.0, 2.0, 3.0] + 4
DOUBLED = Program(("x",), (Step("add", (Reference(0), Reference(0))),), 1).encode()
LAST = Program(("answers",), (Step("negative", (Reference(0),)),), 1).encode()


def test_a_fitted_object_is_pickled() -> None:
    fitted = Ridge().fit(X, Y)
    artifact = encode(fitted)
    assert artifact.format == PICKLE
    assert (decode(artifact.format, artifact.content).predict(X) == fitted.predict(X)).all()


def test_a_packed_model_keeps_its_programs() -> None:
    model = Packed(Linear(np.array([[1.0, 2.0]]), np.array([3.0])), 2, programs=Programs(DOUBLED, LAST))
    again = decode(PACKED, model.encode())
    assert again.programs == model.programs
    assert again.answer(np.array([[1.0, 1.0]])).tolist() == [-6.0]
    assert again.one(np.array([[1.0, 1.0]])) == [-6.0]


def test_a_format_that_is_not_known_is_told() -> None:
    with pytest.raises(BlobBroken, match="cubes"):
        decode("cubes", b"")


def test_a_local_function_can_be_saved() -> None:
    artifact = encode(lambda x: x + 1)
    assert decode(artifact.format, artifact.content)(1) == 2


def test_the_attribute_that_cannot_be_saved_is_named() -> None:
    fitted = Ridge().fit(X, Y)
    fitted.helper = {"lock": threading.Lock()}
    with pytest.raises(Unsaveable, match="helper"):
        encode(fitted)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, Program(("x",), (Step("system", ()),), 0).encode()])
def test_a_program_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BlobBroken):
        open_program(content)
