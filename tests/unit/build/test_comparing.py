"""How two models are compared: array by array, as a share of the larger number."""

from __future__ import annotations

import math
import pickle

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PACKED, PICKLE
from modelmill.build.comparing import (
    FAILED,
    IDENTICAL,
    Comparison,
    Recorded,
    arrays_of,
    completed,
    decode_recorded,
    distance,
)
from modelmill.names import POOLED, Digest, Parent, Segment

X = np.random.default_rng(0).normal(size=(200, 3))
Y = X @ [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.0, -0.0], [0.0, 0.0], 0.0),
        ([np.nan, 1.0], [np.nan, 1.0 + 1e-12], 1e-12),
        ([np.nan], [1.0], math.inf),
        ([1.0], [1.0, 2.0], math.inf),
    ],
)
def test_distances(one: list[float], other: list[float], found: float) -> None:
    assert distance(np.array(one), np.array(other)) == pytest.approx(found, rel=1e-3)


def test_kinds_that_differ_are_infinitely_far() -> None:
    assert distance(np.array([1]), np.array([1.0])) == math.inf


def test_the_arrays_of_a_packed_model_have_names() -> None:
    content = pack(Ridge().fit(X, Y), 3, 0, Programs()).encode()
    assert {"coef", "intercept"} <= arrays_of(PACKED, content).keys()


def test_a_pickle_is_compared_by_what_is_in_it() -> None:
    models = [HistGradientBoostingRegressor(max_iter=3, random_state=0).fit(X, Y + shift) for shift in (0.0, 0.0, 1.0)]
    same, again, other = (arrays_of(PICKLE, pickle.dumps(model)) for model in models)
    assert same.keys() == again.keys()
    assert max(distance(same[name], again[name]) for name in same) == 0.0
    assert max(distance(same[name], other[name]) for name in same if name in other) > 0.01


def recorded(segment: Segment) -> Recorded:
    none = Digest("0" * 64)
    parent = isinstance(segment, Parent)
    return Recorded(segment, PICKLE, none, "pack", (0, 1), (1, 2), none, {"mae": 1.0}, parent=parent)


def test_a_parent_is_still_one_in_the_order_of_a_reproduction() -> None:
    """A store may be called like a region is written: the two are never taken for one another."""
    parent, store = Parent.of({"region": "west"}), ("region=west",)
    wanted = [recorded(segment) for segment in (parent, store, POOLED)]
    found = decode_recorded(msgspec.msgpack.encode(wanted))
    assert found == wanted
    assert [type(one.segment) for one in found] == [Parent, tuple, tuple]


def test_what_does_not_come_back_has_failed() -> None:
    found = [Comparison("a", IDENTICAL)]
    parent = Parent.of({"region": "west"})
    assert completed(found, [("a",)]) == found
    assert [(one.segment, one.verdict) for one in completed(found, [("a",), parent])] == [
        ("a", IDENTICAL),
        ("region=west", FAILED),
    ]
