"""Laws of requests: the compiled decoder and the reading of value by value are one, whatever the body."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import modelmill as mm
from modelmill.errors import ModelmillError
from modelmill.model.decoding import read_json
from modelmill.model.request import Batch, RequestParser
from modelmill.model.schema import schema_of


class Row(mm.Schema):
    """One row."""

    store: str = mm.key()
    number: int = mm.key()
    person: str = mm.subject()
    at: datetime | None = mm.time()
    hour: int = mm.col(ge=0, le=23)
    late: float | None = mm.col(gt=-5)
    kind: str = mm.category("car", "bus")
    open: bool = mm.col()
    y: float = mm.target()


SPEC = schema_of(Row)
PARSER = RequestParser(SPEC, ["store", "number", "hour", "late", "kind"], ["store", "number"])
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "store": st.text(max_size=4),
    "number": st.integers(-9, 9),
    "at": st.sampled_from(["2026-01-02T03:04:05Z", "2026-01-02", "20260102", None]),
    "hour": st.integers(0, 23) | st.just(3.0),
    "late": st.none() | st.floats(-4, 9),
    "kind": st.sampled_from(["car", "bus"]),
    "open": st.booleans(),
    "person": st.text(max_size=3),
}
NUMBERS = st.integers() | st.floats()
ANYTHING: st.SearchStrategy[Any] = st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.just([])


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a row that may be right, or miss a field, or have a wrong or an unknown one."""
    row = draw(st.fixed_dictionaries(GOOD))
    for name in draw(st.sets(st.sampled_from(sorted(GOOD)), max_size=2)):
        if draw(st.booleans()):
            del row[name]
        else:
            row[name] = draw(ANYTHING)
    if draw(st.integers(0, 9)) == 0:
        row[draw(st.text(max_size=5))] = draw(ANYTHING)
    return row


def slowly(body: bytes, address: Any) -> Batch:
    decoded = read_json(body)
    items = decoded if isinstance(decoded, list) else [decoded]
    return PARSER.batch([PARSER.with_segment(address, item) if address else item for item in items])


def told(function: Any) -> Any:
    """Return what a reading gives, as plain values, or the error that it tells."""
    try:
        batch = function()
    except ModelmillError as error:
        return error.as_dict()
    columns = {name: batch.rows[name].tolist() for name in batch.rows}
    return repr((columns, batch.segments(), batch.features().tolist()))


@given(objects() | st.lists(objects(), min_size=1, max_size=3), st.none() | st.just(("a", "1")))
def test_both_ways_of_reading_are_one(value: Any, address: Any) -> None:
    body = json.dumps(value).encode()
    assert told(lambda: PARSER.read(body, address)[0]) == told(lambda: slowly(body, address))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_body_raises_anything_but_ours(body: bytes) -> None:
    told(lambda: PARSER.read(body)[0])


@given(st.lists(objects(), min_size=1, max_size=4))
def test_rows_of_a_batch_are_those_rows(rows: list[dict[str, Any]]) -> None:
    try:
        batch = PARSER.batch(rows)
    except ModelmillError:
        return
    place = len(rows) - 1
    some = batch.take([place])
    assert some.segments() == [batch.segments()[place]]
    assert np.array_equal(some.features(), batch.features()[place:], equal_nan=True)
    again = PARSER.batch(some.objects())
    assert np.array_equal(again.features(), some.features(), equal_nan=True)


@given(st.lists(objects(), min_size=1, max_size=4))
def test_what_was_accepted_once_is_read_again_as_the_same_rows(rows: list[dict[str, Any]]) -> None:
    try:
        batch = PARSER.batch(rows)
    except ModelmillError:
        return
    found, again = batch.rows, PARSER.rows_again(batch.objects())
    assert repr({name: found[name].tolist() for name in found}) == repr({name: again[name].tolist() for name in again})
