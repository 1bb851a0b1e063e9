"""Laws of packed models: their bytes, whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed, decode
from modelmill.artifact.trees import Tables, Trees, lay_out
from modelmill.errors import BlobBroken

NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


def linear(coefficients: list[float], intercept: float) -> Packed:
    return Packed(Linear(np.array([coefficients]), np.array([intercept])), len(coefficients))


@given(NUMBERS, st.floats(allow_nan=False))
def test_a_linear_model_survives_its_bytes_bit_by_bit(coefficients: list[float], intercept: float) -> None:
    model = linear(coefficients, intercept)
    again = decode(model.encode())
    assert again.body.coef.tobytes() == model.body.coef.tobytes()  # type: ignore[union-attr]
    assert again.body.intercept.tobytes() == model.body.intercept.tobytes()  # type: ignore[union-attr]


@given(NUMBERS, st.data())
def test_bytes_that_are_cut_off_are_no_model(coefficients: list[float], data: st.DataObject) -> None:
    content = linear(coefficients, 1.0).encode()
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(BlobBroken):
        decode(content[:cut])


@given(NUMBERS, st.data())
def test_any_changed_byte_is_refused_or_answers(coefficients: list[float], data: st.DataObject) -> None:
    content = bytearray(linear(coefficients, 1.0).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    try:
        model = decode(bytes(content))
        assert model.answer(np.zeros((2, model.features))).shape[0] == 2
    except (BlobBroken, ValueError):
        return  # a digest finds such bytes before; here they must only do no harm


@st.composite
def grown(draw: st.DrawFn) -> list[tuple[int, int, bool, int, float]]:
    """Draw the nodes of a tree, in the order in which they were split: left, right, leaf, feature, value."""
    nodes = [[0, 0, True, 0, draw(st.floats(-9, 9))]]
    for _ in range(draw(st.integers(0, 12))):
        split = draw(st.sampled_from([place for place, node in enumerate(nodes) if node[2]]))
        nodes[split] = [len(nodes), len(nodes) + 1, False, draw(st.integers(0, 2)), draw(st.floats(-2, 2))]
        nodes += [[0, 0, True, 0, draw(st.floats(-9, 9))], [0, 0, True, 0, draw(st.floats(-9, 9))]]
    return [tuple(node) for node in nodes]  # type: ignore[misc]


def walk(tree: list[tuple[int, int, bool, int, float]], row: list[float]) -> float:
    at = 0
    while not tree[at][2]:
        at = tree[at][0] if row[tree[at][3]] <= tree[at][4] else tree[at][1]
    return tree[at][4]


ROW = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


@given(st.lists(grown(), min_size=1, max_size=4), st.lists(ROW, min_size=1, max_size=5))
def test_trees_laid_out_anew_find_the_same_leaves(
    trees: list[list[tuple[int, int, bool, int, float]]], rows: list[list[float]]
) -> None:
    left, right, leaf, feature, value = (np.array(c) for c in zip(*(n for tree in trees for n in tree), strict=True))
    tables = Tables([len(tree) for tree in trees], left, right, leaf, feature, value, np.zeros(len(left), dtype=int))
    nodes, roots = lay_out(tables)
    found = decode(Packed(Trees(nodes, roots, np.zeros(1)), 3).encode()).answer(np.array(rows))
    for row, answer in zip(rows, found, strict=True):
        total = 0.0
        for tree in trees:
            total += walk(tree, row)
        assert answer == total
