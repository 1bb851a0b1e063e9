"""Requests: strict in names, types and ranges, and every refusal names its field."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest

import modelmill as mm
from modelmill.errors import BodyUnreadable, FieldInvalid, FieldMissing, FieldUnknown
from modelmill.model.request import RequestParser
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
PARSER = RequestParser(SPEC, [column.name for column in SPEC.request_columns], ["store", "number"])
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
    assert PARSER.batch([GOOD, GOOD]).segments() == [("a", "7"), ("a", "7")]


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


# ---------------------------------------------------------------- bodies


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_body_is_one_object_or_a_list() -> None:
    batch, is_list = PARSER.read(body(GOOD))
    assert (len(batch), is_list, batch.rows.row(0)) == (1, False, PARSER.parse_rows([GOOD]).row(0))
    batch, is_list = PARSER.read(body([GOOD, GOOD | {"hour": 4}]))
    assert (len(batch), is_list, batch.rows.hour.tolist()) == (2, True, [3, 4])


@pytest.mark.parametrize("good", [GOOD | {"hour": 3.0}, GOOD | {"at": "20260102"}, GOOD | {"person": "somebody"}])
def test_what_the_compiled_decoder_refuses_may_still_be_right(good: dict[str, Any]) -> None:
    assert PARSER.read(body(good))[0].rows.row(0) == PARSER.parse_rows([good]).row(0)


@pytest.mark.parametrize(
    "text",
    [
        body(GOOD).replace(b'"hour": 3', b'"hour": 3, "hour": 4'),
        body([GOOD]).replace(b'"hour": 3', b'"hour": 3, "hour": 3'),
        body(GOOD).replace(b'"hour": 3', b'"hour"  : 3, "ho\\u0075r" : 4'),
    ],
)
def test_a_field_that_stands_twice_is_refused(text: bytes) -> None:
    with pytest.raises(BodyUnreadable, match="`hour` stands twice"):
        PARSER.read(text)


def test_a_colon_within_a_text_is_no_second_field() -> None:
    strange = GOOD | {"store": 'a":1,"hour":2'}
    assert PARSER.read(body(strange))[0].segments() == [('a":1,"hour":2', "7")]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"hour": NaN}', b"\xef\xbb\xbf{}", b"{} {}"])
def test_what_is_no_json_is_told(text: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        PARSER.read(text)


@pytest.mark.parametrize("number", ["1e999", "9" * 5000, "-1e400"])
def test_a_number_beyond_all_bounds_is_refused(number: str) -> None:
    with pytest.raises((BodyUnreadable, FieldInvalid)):
        PARSER.read(body(GOOD).replace(b'"late": 1', b'"late": ' + number.encode()))


WITHOUT_KEYS = {name: value for name, value in GOOD.items() if name not in ("store", "number")}


def test_an_address_gives_the_keys() -> None:
    batch, _ = PARSER.read(body(WITHOUT_KEYS), ("a", "7"))
    assert (batch.segments(), batch.rows.number.tolist()) == ([("a", "7")], [7])
    assert PARSER.read(body([GOOD]), ("a", "7"))[0].segments() == [("a", "7")]


@pytest.mark.parametrize("address", [("b", "7"), ("a", "8"), ("a", "seven")])
def test_an_address_that_differs_from_the_row_is_refused(address: tuple[str, ...]) -> None:
    with pytest.raises(FieldInvalid, match="differs from the address"):
        PARSER.read(body(GOOD), address)


def test_an_address_with_too_few_values_is_refused() -> None:
    with pytest.raises(BodyUnreadable, match="no segment of this model"):
        PARSER.read(body(WITHOUT_KEYS), ("a",))


# ---------------------------------------------------------------- matrices


class Plain(mm.Schema):
    """Numbers alone."""

    store: str = mm.key()
    size: float = mm.col(gt=0, lt=10)
    rooms: int = mm.col(ge=1)
    sold: bool = mm.col()
    age: float | None = mm.col()
    y: float = mm.target()


PLAIN = RequestParser(schema_of(Plain), ["store", "size", "rooms", "sold", "age"], ["store"])


def test_a_matrix_becomes_the_same_rows_as_fields() -> None:
    batch = PLAIN.of_matrix(np.array([[2.5, 3, 1, np.nan]]), [("a",)])
    fields = PLAIN.batch([{"store": "a", "size": 2.5, "rooms": 3, "sold": True, "age": None}])
    assert batch.segments() == fields.segments()
    assert {n: batch.rows[n].dtype for n in batch.rows} == {n: fields.rows[n].dtype for n in fields.rows}
    assert np.array_equal(batch.features(), fields.features(), equal_nan=True)
    assert batch.objects() == [{"size": 2.5, "rooms": 3, "sold": True, "store": "a"}]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([0, 3, 1, 1], "size"),
        ([10, 3, 1, 1], "size"),
        ([np.nan, 3, 1, 1], "size"),
        ([1, 0, 1, 1], "rooms"),
        ([1, 2.5, 1, 1], "rooms"),
        ([1, 3, 2, 1], "sold"),
        ([1, 3, 1, np.inf], "age"),
    ],
)
def test_a_value_of_a_matrix_outside_its_column_is_named(row: list[float], field: str) -> None:
    with pytest.raises(FieldInvalid, match=f"`{field}`") as caught:
        PLAIN.of_matrix(np.array([[2.5, 3, 1, 1], row]), [("a",), ("a",)])
    assert caught.value.parts["where"] == "row 1"


def test_only_numbers_make_a_matrix() -> None:
    assert PLAIN.takes_matrix
    assert not PARSER.takes_matrix
