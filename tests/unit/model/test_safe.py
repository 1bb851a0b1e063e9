"""The declared safe answer: checked against the target's promise while the file is imported."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import modelmill as mm
from modelmill.errors import SafeAnswerInvalid
from modelmill.model.safe import safe_answers


class Sale(mm.Schema):
    """A number."""

    store: str = mm.key()
    size: float = mm.col()
    sales: float = mm.target(ge=0, le=100)


class Count(mm.Schema):
    """A whole number."""

    size: float = mm.col()
    count: int = mm.target(ge=0)


class Trip(mm.Schema):
    """One of three classes."""

    size: float = mm.col()
    late: str = mm.label("no", "a bit", "yes")


class Loan(mm.Schema):
    """Yes or no."""

    size: float = mm.col()
    repaid: bool = mm.target()


@pytest.mark.parametrize(
    ("schema", "safe", "numbers"),
    [
        (Sale, None, ()),
        (Sale, 12, (12.0,)),
        (Sale, 0, (0.0,)),
        (Count, 3, (3.0,)),
        (Trip, "a bit", (0.0, 1.0, 0.0)),
        (Trip, {"no": 0.25, "yes": 0.75}, (0.25, 0.0, 0.75)),
        (Trip, {"no": 1 / 3, "a bit": 1 / 3, "yes": 1 / 3}, (1 / 3, 1 / 3, 1 / 3)),
        (Loan, False, (1.0, 0.0)),
        (Loan, "true", (0.0, 1.0)),
        (Loan, {False: 0.5, True: 0.5}, (0.5, 0.5)),
    ],
)
def test_a_safe_answer_is_numbers_as_a_model_gives_them(schema: Any, safe: Any, numbers: tuple[float, ...]) -> None:
    assert mm.Model("one", schema, safe=safe).safe == numbers


@pytest.mark.parametrize(
    ("schema", "safe", "expected"),
    [
        (Sale, -1, "0"),
        (Sale, 101, "100"),
        (Sale, float("nan"), "100"),
        (Sale, "much", "100"),
        (Sale, {"a": 1.0}, "100"),
        (Count, 1.5, "0"),
        (Trip, "maybe", "no, a bit, yes"),
        (Trip, True, "no, a bit, yes"),
        (Trip, {"no": 0.5, "yes": 0.6}, "sum to 1"),
        (Trip, {"no": -1, "yes": 2}, "sum to 1"),
        (Trip, {"no": True}, "sum to 1"),
        (Trip, {"maybe": 1.0}, "no, a bit, yes"),
        (Trip, {}, "sum to 1"),
        (Loan, "maybe", "false, true"),
    ],
)
def test_what_no_row_could_hold_is_refused_at_import(schema: Any, safe: Any, expected: str) -> None:
    with pytest.raises(SafeAnswerInvalid) as caught:
        mm.Model("one", schema, safe=safe)
    assert expected in caught.value.parts["expected"]


def test_a_model_without_one_is_declared_as_before() -> None:
    plain = mm.Model("one", Sale).declaration()
    assert "safe" not in plain
    declared = mm.Model("one", Sale, safe=12).declaration()
    assert msgspec.json.encode(declared.pop("safe")) == b"[12.0]"
    assert declared == plain


def test_each_row_gets_the_same() -> None:
    assert safe_answers((2.5,), 3).tolist() == [2.5, 2.5, 2.5]
    assert np.array_equal(safe_answers((0.25, 0.75), 2), [[0.25, 0.75], [0.25, 0.75]])
