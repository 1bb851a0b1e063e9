"""Requests: strict in names, types and ranges, and every refusal names its field."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

import modelmill as mm
from modelmill.errors import FieldInvalid, FieldMissing, FieldUnknown
from modelmill.model.request import RequestParser, segments_of
from modelmill.model.schema import schema_of


class Row(mm.Schema):
    """One row."""

    store: str = mm.key()
    number: int = mm.key()
    person: str = mm.subject()
    at: datetime = mm.time()
    hour: int = mm.col(ge=0, le=23)
    late: float | None = mm.col()
    kind: str = mm.category("car", "bus")
    open: bool = mm.col()
    y: float = mm.target()


SPEC = schema_of(Row)
PARSER = RequestParser(SPEC, [column.name for column in SPEC.request_columns])
GOOD: dict[str, Any] = {
    "store": "a",
    "number": 7,
    "at": "2026-01-02T03:04:05Z",
    "hour": 3,
    "late": 1,
    "kind": "bus",
    "open": True,
}


def test_a_good_row_becomes_typed_columns() -> None:
    rows = PARSER.parse_rows([GOOD, GOOD | {"late": None, "hour": 4.0}])
    assert rows.hour.tolist() == [3, 4]
    assert np.isnan(rows.late[1])
    assert rows.at[0] == np.datetime64("2026-01-02T03:04:05")
    assert segments_of(rows, ("store", "number")) == [("a", "7"), ("a", "7")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hour", "3"),
        ("hour", True),
        ("hour", 3.5),
        ("hour", 24),
        ("hour", 2**64),
        ("hour", None),
        ("late", float("nan")),
        ("late", float("inf")),
        ("kind", "van"),
        ("kind", 3),
        ("open", 1),
        ("at", "yesterday"),
        ("at", 3),
        ("store", 5),
    ],
)
def test_an_impossible_value_is_refused_with_its_field(field: str, value: object) -> None:
    with pytest.raises(FieldInvalid, match=f"`{field}`"):
        PARSER.parse_rows([GOOD | {field: value}])


def test_a_missing_field_is_named() -> None:
    with pytest.raises(FieldMissing, match="`hour` is missing"):
        PARSER.parse_rows([{name: value for name, value in GOOD.items() if name != "hour"}])


def test_a_misspelt_field_is_guessed() -> None:
    wrong = {("huor" if name == "hour" else name): value for name, value in GOOD.items()}
    with pytest.raises(FieldMissing, match="`hour` is missing") as caught:
        PARSER.parse_rows([wrong])
    assert "`huor`" in caught.value.parts["likely"]


def test_an_unknown_field_is_refused_the_target_too() -> None:
    with pytest.raises(FieldUnknown, match="`y`"):
        PARSER.parse_rows([GOOD | {"y": 3.0}])


def test_a_subject_may_come_and_is_ignored() -> None:
    assert "person" not in PARSER.parse_rows([GOOD | {"person": "somebody"}])


def test_the_row_of_a_batch_is_named() -> None:
    with pytest.raises(FieldInvalid) as caught:
        PARSER.parse_rows([GOOD, GOOD | {"hour": -1}])
    assert caught.value.parts["where"] == "row 1"


@pytest.mark.parametrize("row", [3, None, [], "x"])
def test_a_row_is_an_object(row: Any) -> None:
    with pytest.raises(FieldInvalid, match="a row is a JSON object"):
        PARSER.parse_rows([row])


def test_an_example_is_accepted() -> None:
    typical = GOOD | {"at": np.datetime64("2026-01-02T03:04:05", "us"), "hour": np.int64(3)}
    assert PARSER.parse_rows([PARSER.example(typical)]).hour.tolist() == [3]
