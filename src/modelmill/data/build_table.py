"""The table that build workers map: one Arrow record batch of plain numbers, sorted by segment.

Numbers stay numbers (a nullable one is float64 with NaN), times are microseconds, dates days, text is int32 codes with
its table in the file's metadata. So every column of a slice is a numpy view, and nothing is copied or parsed.
Subject columns and rows without a target are left out.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.data.snapshot import Segments, starts_of
from modelmill.errors import NoRows
from modelmill.model.columns import Column
from modelmill.model.rows import Array, Coded, Rows
from modelmill.model.schema import SchemaSpec

_NAT = np.iinfo(np.int64).min
_TABLES = b"modelmill.texts"


def write_build_table(path: Path, spec: SchemaSpec, segments: Segments, frame: Any) -> Segments:
    """Write the labelled rows of a checked and sorted polars frame; return the segments as they lie in the file.

    Raises `NoRows` where no row has a target.
    """
    labelled = frame[spec.target.name].is_not_null().to_numpy()
    if not labelled.any():
        raise NoRows(f"no row has a value of `{spec.target.name}`", got=f"{len(frame):,} rows, all of them null")
    kept = frame if labelled.all() else frame.filter(labelled)
    columns, texts = {}, {}
    for column in spec.columns:
        if column.role == "subject":
            continue
        if column.kind in ("str", "category"):
            columns[column.name], texts[column.name] = _codes(kept[column.name], column)
        else:
            columns[column.name] = _numbers(kept[column.name], column)
    _write(path, columns, texts)
    return _relabelled(segments, labelled)


def _codes(series: Any, column: Column) -> tuple[Array, list[str]]:
    values = list(column.values) or series.drop_nulls().unique().sort().to_list()
    place = {value: code for code, value in enumerate(values)}
    codes: Array = series.replace_strict(place, default=-1, return_dtype=_polars().Int32).fill_null(-1).to_numpy()
    return codes, values


def _numbers(series: Any, column: Column) -> Array:
    pl = _polars()
    if column.kind in ("date", "datetime"):
        plain = series.to_physical().cast(pl.Int64).fill_null(_NAT)
    elif column.kind == "float" or column.nullable:
        plain = series.cast(pl.Float64).fill_null(float("nan"))
    else:
        plain = series.cast(pl.UInt8) if column.kind == "bool" else series
    numbers: Array = plain.to_numpy()
    return numbers


def _polars() -> Any:
    # Workers import this file to map the table; only the builder, which writes it, needs polars.
    return import_module("polars")


def _write(path: Path, columns: dict[str, Array], texts: dict[str, list[str]]) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(values) for values in columns.values()], names=list(columns))
    schema = batch.schema.with_metadata({_TABLES: msgspec.json.encode(texts)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def _relabelled(segments: Segments, labelled: NDArray[np.bool_]) -> Segments:
    if labelled.all():
        return segments
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(labelled)])
    rows = before[segments.starts + segments.rows] - before[segments.starts]
    return Segments(segments.keys, starts_of(rows), rows, segments.digests)


class BuildTable:
    """The table as a worker sees it."""

    def __init__(self, path: Path, spec: SchemaSpec) -> None:
        """Map the file."""
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
        texts = msgspec.json.decode(reader.schema.metadata[_TABLES], type=dict[str, list[str]])
        self._columns: dict[str, Array | Coded] = {
            name: self._column(spec.column(name), batch.column(name), texts.get(name)) for name in batch.schema.names
        }
        self._length = batch.num_rows

    @staticmethod
    def _column(column: Column, values: pa.Array, texts: list[str] | None) -> Array | Coded:
        numbers: Array = values.to_numpy(zero_copy_only=True)
        if texts is not None:
            return Coded(numbers, np.array(texts, dtype=object))
        if column.kind == "datetime":
            return numbers.view("datetime64[us]")
        if column.kind == "date":
            return numbers.view("datetime64[D]")
        return numbers.view(np.bool_) if column.kind == "bool" and not column.nullable else numbers

    def rows(self, start: int, end: int) -> Rows:
        """Return the rows from `start` to before `end`, as views."""
        return Rows(self._columns, self._length).take(slice(start, end))
