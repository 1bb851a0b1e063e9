"""Bodies that are large once they are decoded: refused before they are, and never a multiple of what came."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import modelmill as mm
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.warming import warm
from modelmill.model.schema import schema_of
from modelmill.serving.calls import Call, Reply
from modelmill.serving.plane import Plane

SIZE = 4 << 20
INFER, INVOKE, NAMED = b"/v2/models/fleet/infer", b"/invocations/fleet", b"/fleet"


class Sale(mm.Schema):
    """A field that may be left out: an empty object is a row."""

    size: float = mm.col(nullable=True)
    sales: float = mm.target()


@pytest.fixture(scope="module")
def plane(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Plane:
    warm()
    plane: Plane = served(
        tmp_path_factory.mktemp("large"), schema_of(Sale), {(): Packed(Linear(np.array([[2.0]]), np.ones(1)), 1)}
    )
    return plane


def ask(plane: Plane, path: bytes, body: bytes, *, csv: bool = False) -> Reply:
    headers = [(b"content-type", b"text/csv")] if csv else []
    reply = plane.now(Call("POST", path, headers, body), is_plain=not csv)
    assert reply is not None
    return reply


def filled(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * (SIZE // len(piece)) + end


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Return how much memory Python took since, at most."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "body", "csv"),
    [
        pytest.param(INVOKE, filled(b"", b"\n", b""), True, id="csv of empty lines"),
        pytest.param(INVOKE, filled(b"size\n", b"1\n", b""), True, id="csv of many rows"),
        pytest.param(INVOKE, filled(b"size\n", b"12,", b"\n"), True, id="csv of a wide row"),
        pytest.param(INVOKE, filled(b'"', b'""', b'",a'), True, id="csv of one cell"),
        pytest.param(INVOKE, filled(b'{"instances":[', b"{},", b"{}]}"), False, id="many instances"),
        pytest.param(INVOKE, filled(b'{"dataframe_split":{"columns":[],"data":[', b"[],", b"[]]}}"), False, id="split"),
        pytest.param(NAMED, filled(b"[", b"{},", b"{}]"), False, id="many objects"),
        pytest.param(NAMED, filled(b"[", b"[],", b"[]]"), False, id="many lists"),
        pytest.param(INFER, filled(b'{"parameters":{"a":[', b"[],", b']},"inputs":[]}'), False, id="a parameter"),
        pytest.param(
            INFER,
            filled(b'{"inputs":[{"name":"size","shape":[1,1],"datatype":"FP64","data":[', b"[],", b"[]]}]}"),
            False,
            id="data of many lists",
        ),
    ],
)
def test_what_would_grow_is_refused_before_it_is_decoded(
    plane: Plane, peak: Callable[[], int], path: bytes, body: bytes, csv: bool
) -> None:
    reply = ask(plane, path, body, csv=csv)
    assert reply.status in (400, 422), reply.body[:200]
    assert peak() < 5 * SIZE


def test_columns_of_inputs_are_counted_before_they_are_rows(plane: Plane, peak: Callable[[], int]) -> None:
    reply = ask(plane, INVOKE, filled(b'{"inputs":{"size":[', b"0,", b"0]}}"))
    assert b"1 to 100000 rows" in reply.body
    assert peak() < 12 * SIZE  # eight bytes for each number of two characters, twice


def test_a_name_that_stands_twice_among_many_is_found_at_once(plane: Plane) -> None:
    """Each name is looked at once: looking at all for each of 300,000 would take an hour."""
    names = b"".join(b'"%d":0,' % number for number in range(300_000))
    reply = ask(plane, NAMED, b"{" + names + b'"last":0,"last":0}')
    assert b"`last` stands twice" in reply.body


@pytest.mark.parametrize("path", [NAMED, INVOKE])
def test_as_many_rows_as_may_be_are_answered(plane: Plane, path: bytes) -> None:
    rows = [{"size": 1.0}] * 100_000
    reply = ask(plane, path, json.dumps({"instances": rows} if path == INVOKE else rows).encode())
    assert reply.status == 200
    assert ask(plane, INVOKE, b"size\r\n" + b"1.0\r\n" * 100_000, csv=True).status == 200


def test_a_parameter_is_one_value(plane: Plane) -> None:
    asked = {"inputs": [{"name": "size", "shape": [1], "datatype": "FP64", "data": [3]}]}
    for value in (1, "a", 1.5, True, None):
        assert ask(plane, INFER, json.dumps({**asked, "parameters": {"p": value}}).encode()).status == 200
    assert ask(plane, INFER, json.dumps({**asked, "parameters": {"p": [1]}}).encode()).status == 400
