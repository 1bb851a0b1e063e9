"""Logged predictions as rows: one a row that was asked.

Columns: ``request_id``, ``row`` (of the request), ``asked_at``, ``latency_ms`` (of the whole request), ``environment`` and
``release`` (that answered), ``run`` (whose fleet map was served), ``segment``, ``version``, ``pooled_because`` (empty where
the segment's own model answered), ``inputs`` (a struct of the schema's request and subject columns, as they were parsed),
``answer`` (a number, or the likeliest label) and, for classes, ``probabilities``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelmill.data.casting import cast
from modelmill.data.journal import Record, request_id
from modelmill.errors import BlobBroken
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import key_of_text
from modelmill.names import parse_segment

ORDER = ("segment", "asked_at", "request_id", "row")
_TYPES: dict[str, Any] = {
    "request_id": pl.String,
    "row": pl.UInt32,
    "asked_at": pl.Datetime("us"),
    "latency_ms": pl.Float64,
    "environment": pl.String,
    "release": pl.Int32,
    "run": pl.Int32,
    "segment": pl.String,
    "version": pl.Int32,
    "pooled_because": pl.String,
}


class Shape(NamedTuple):
    """What the records of one fleet map look like."""

    spec: SchemaSpec
    by: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """None for a regression."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the inputs, in the order in which a record has them."""
        return (*self.spec.request_columns, *self.spec.with_role("subject"))


Told = tuple[str, Record]
"""A record, and the worker's origin."""


def frame_of(shape: Shape, records: Sequence[Told]) -> pl.DataFrame:
    """Return the rows of records that have one shape, sorted by segment and time."""
    parts = [
        _frame(shape, some, inputs)
        for some, inputs in (
            ([told for told in records if isinstance(told[1].inputs, bytes)], _of_matrices),
            ([told for told in records if not isinstance(told[1].inputs, bytes)], _of_values),
        )
        if some
    ]
    return pl.concat(parts).sort(ORDER)


def completed(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a file that was written before their environment and release were: nobody knows them now."""
    if "environment" in frame.columns:
        return frame
    unknown = [pl.lit("", _TYPES["environment"]).alias("environment"), pl.lit(0, _TYPES["release"]).alias("release")]
    found = frame.with_columns(unknown)
    return found.select(*_TYPES, *(name for name in frame.columns if name not in _TYPES))


def _frame(shape: Shape, records: Sequence[Told], inputs_of: Any) -> pl.DataFrame:
    inputs: pl.DataFrame = inputs_of(shape, [record for _, record in records])
    counts = [_rows_of(shape, record) for _, record in records]
    if sum(counts) != len(inputs):
        raise BlobBroken("a journal's records have fewer inputs than answers", got=f"{len(inputs)} of {sum(counts)}")
    about = pl.DataFrame([_about(*told) for told in records], schema=_about_types(), orient="row")
    repeated = about[np.repeat(np.arange(len(records)), counts)]
    rows = np.concatenate([_places(record, count) for (_, record), count in zip(records, counts, strict=True)])
    answers = _answers(shape, [record for _, record in records])
    return repeated.with_columns(pl.Series("row", rows, dtype=pl.UInt32), inputs.to_struct("inputs"), *answers).select(
        *_TYPES, "inputs", *(series.name for series in answers)
    )


def _about_types() -> dict[str, Any]:
    return {name: kind for name, kind in _TYPES.items() if name != "row"}


def _about(origin: str, record: Record) -> tuple[Any, ...]:
    who = record.answerer
    return (
        request_id(origin, record.id),
        round(1e6 * record.at),
        1e3 * record.seconds,
        who.environment,
        who.release,
        who.run,
        who.segment,
        who.version,
        who.why,
    )


def _rows_of(shape: Shape, record: Record) -> int:
    count = len(record.answers) // 8 if isinstance(record.answers, bytes) else len(record.answers)
    return count // (len(shape.labels) or 1)


def _places(record: Record, count: int) -> NDArray[np.int64]:
    return np.arange(count) if record.rows is None else np.array(record.rows, dtype=np.int64)


# ------------------------------------------------------------------ inputs


def _of_values(shape: Shape, records: Sequence[Record]) -> pl.DataFrame:
    rows = [row for record in records for row in record.inputs]
    columns = zip(*rows, strict=True)
    return pl.DataFrame([_series(column, list(found)) for column, found in zip(shape.columns, columns, strict=True)])


def _of_matrices(shape: Shape, records: Sequence[Record]) -> pl.DataFrame:
    features = shape.spec.features
    blocks = [_matrix(record, len(features)) for record in records]
    x = np.concatenate(blocks)
    found = {column.name: _numbers(column, x[:, place]) for place, column in enumerate(features)}
    keys = _keys(shape, records, [len(block) for block in blocks])
    empty = {c.name: _series(c, [None] * len(x)) for c in shape.columns if c.name not in found and c.name not in keys}
    return pl.DataFrame([(found | keys | empty)[column.name] for column in shape.columns])


def _matrix(record: Record, width: int) -> NDArray[np.float64]:
    numbers = np.frombuffer(record.inputs, dtype="<f8")  # type: ignore[arg-type]  # the caller has looked
    return numbers.reshape(-1, width)


def _numbers(column: Column, values: NDArray[np.float64]) -> pl.Series:
    """Return a column of a matrix, in which NaN stands for null."""
    series = pl.Series(column.name, values, nan_to_null=True)
    return series.cast({"int": pl.Int64, "bool": pl.Boolean}.get(column.kind, pl.Float64))


def _keys(shape: Shape, records: Sequence[Record], counts: Sequence[int]) -> dict[str, pl.Series]:
    """Return the key columns of rows that have them in their segment alone."""
    texts = [parse_segment(record.answerer.segment) for record in records]
    columns = [shape.spec.column(name) for name in shape.by]
    typed = [[key_of_text(column, text[place]) for text in texts] for place, column in enumerate(columns)]
    repeated = np.repeat(np.arange(len(records)), counts)
    return {c.name: _series(c, values)[repeated] for c, values in zip(columns, typed, strict=True)}


def _series(column: Column, values: list[Any]) -> pl.Series:
    return cast(pl.Series(column.name, values, dtype=_KINDS.get(column.kind, pl.String), strict=False), column)


_KINDS = {"float": pl.Float64, "int": pl.Int64, "bool": pl.Boolean}


# ------------------------------------------------------------------ answers


def _answers(shape: Shape, records: Iterable[Record]) -> list[pl.Series]:
    numbers = np.concatenate([_plain(record.answers) for record in records])
    if not shape.labels:
        return [pl.Series("answer", numbers)]
    chances = numbers.reshape(-1, len(shape.labels))
    likeliest = np.array(shape.labels, dtype=object)[chances.argmax(axis=1)]
    return [pl.Series("answer", likeliest.tolist(), dtype=pl.String), pl.Series("probabilities", chances.tolist())]


def _plain(answers: bytes | list[float]) -> NDArray[np.float64]:
    return np.frombuffer(answers, dtype="<f8") if isinstance(answers, bytes) else np.array(answers, dtype=np.float64)
