"""What a load test asks: rows as they are really asked, of many segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from modelmill.errors import ModelmillError, NotFound
from modelmill.model.request import RequestParser, parser_of
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import as_json
from modelmill.names import ModelName, Segment
from modelmill.orchestrator.logged import read_logged
from modelmill.orchestrator.rehearsing import choose_evenly, golden_questions
from modelmill.registry.fleet import FleetMap
from modelmill.serving.control import NodeInfo
from modelmill.settings import Settings
from modelmill.store.opening import Store

_MOST = 1_000
"""Rows that are asked in turn."""
_LOOKED_AT = 20_000
_LEAST = 100
"""Logged rows that are worth more than golden ones."""
_SEGMENTS = 400
Row = Mapping[str, Any]


class Rows(NamedTuple):
    """Rows that a model accepts, as bodies of requests."""

    source: str
    bodies: list[bytes]
    segments: int


def rows_to_ask(store: Store, settings: Settings, model: ModelName, fleet: FleetMap) -> Rows:
    """Return rows of the prediction log; where it has few, golden rows of the versions; else the model's example."""
    header = fleet.header
    parser = parser_of(header.spec, header.by, header.feature_names)
    logged, golden = _logged(store, settings, model), _golden(store, model, fleet)
    for source, rows in (("the prediction log", logged), ("golden rows of its versions", golden)):
        told = [_told(header.spec, row) for row in choose_evenly(rows, _MOST)]
        segments = [_segment_of(parser, row) for row in told]
        found = [row for row, segment in zip(told, segments, strict=True) if segment is not None]
        if found:
            return Rows(source, [msgspec.json.encode(row) for row in found], len({*segments} - {None}))
    return Rows("the model's example", [msgspec.json.encode(parser.example(header.example))], 1)


def _told(spec: SchemaSpec, row: Row) -> dict[str, Any]:
    """Return a row as a request tells it: only what a request may hold, and nothing that is missing."""
    known = ((column.name, as_json(row.get(column.name))) for column in spec.request_columns)
    return {name: value for name, value in known if value is not None}


def _segment_of(parser: RequestParser, row: Row) -> Segment | None:
    """Return whose a row is; None where this version does not accept it: what was logged may be of another schema."""
    try:
        return parser.batch([row]).segments()[0]
    except ModelmillError:
        return None


def _logged(store: Store, settings: Settings, model: ModelName) -> list[Row]:
    try:
        frame = read_logged(store, settings, model, _LOOKED_AT)
    except NotFound:
        return []
    return frame["inputs"].to_list() if len(frame) >= _LEAST else []


def _golden(store: Store, model: ModelName, fleet: FleetMap) -> list[Row]:
    own = choose_evenly([entry for entry in fleet if entry.state == "own"], _SEGMENTS)
    return [
        dict(zip(fleet.header.by, asked.segment, strict=False)) | row
        for asked in golden_questions(store, model, own)
        for row in asked.rows
    ]


def as_requests(node: NodeInfo, address: str, bodies: Sequence[bytes]) -> list[bytes]:
    """Return bodies as whole HTTP requests to an address of a node."""
    return [b"".join(_request(node, address, body)) for body in bodies]


def _request(node: NodeInfo, address: str, body: bytes) -> Iterator[bytes]:
    yield f"POST {address} HTTP/1.1\r\nhost: {node.host}:{node.port}\r\ncontent-type: application/json\r\n".encode()
    for name, value in node.headers.items():
        yield f"{name}: {value}\r\n".encode()
    yield b"content-length: %d\r\n\r\n%b" % (len(body), body)
