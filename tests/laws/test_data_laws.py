"""Laws of the data room, whatever the rows are and however they lie."""

from __future__ import annotations

import hashlib
import random
import struct
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import modelmill as mm
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.contract import check
from modelmill.data.histogram import count, freeze_bins
from modelmill.data.snapshot import Segments, decode_segments, encode_segments
from modelmill.data.taking import index_segments, sort_rows
from modelmill.errors import DataError
from modelmill.model.rows import Rows
from modelmill.model.schema import schema_of
from modelmill.names import format_segment

START = datetime(2026, 1, 1)  # noqa: DTZ001


class Sale(mm.Schema):
    """One sale."""

    store: str = mm.key()
    shelf: int = mm.key()
    person: str = mm.subject()
    at: datetime = mm.time()
    hour: int = mm.col(ge=0, le=23)
    heat: float | None = mm.col()
    open: bool = mm.col()
    kind: str = mm.category("car", "bus", nullable=True)
    y: float | None = mm.target()


SPEC, BY = schema_of(Sale), ("store", "shelf")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["a", "b", "../x", "a/b", "'\""])
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0])
ROW = st.fixed_dictionaries(
    {
        "store": TEXT,
        "shelf": st.integers(-3, 3),
        "person": TEXT,
        "at": st.integers(0, 5).map(lambda hours: START + timedelta(hours=hours)),
        "hour": st.integers(0, 23),
        "heat": st.none() | NUMBER,
        "open": st.booleans(),
        "kind": st.sampled_from(["car", "bus", None]),
        "y": st.none() | NUMBER,
    }
)
few = settings(max_examples=25, deadline=None)
"""Each example is checked by pandera, which takes milliseconds."""

TABLE = st.lists(ROW, min_size=1, max_size=25)


def typed(table: list[dict[str, Any]]) -> pl.DataFrame:
    columns = [column.name for column in SPEC.columns]
    return check(SPEC, pl.DataFrame({name: [row[name] for row in table] for name in columns}, strict=False))


def laid_out(table: list[dict[str, Any]]) -> tuple[pl.DataFrame, Segments]:
    ordered = sort_rows(typed(table), SPEC, BY)
    return ordered, index_segments(ordered, SPEC, BY)


def mapped(frame: pl.DataFrame, segments: Segments) -> tuple[Rows, Segments]:
    with tempfile.TemporaryDirectory() as folder:
        labelled = write_build_table(Path(folder, "table"), SPEC, segments, frame)
        return BuildTable(Path(folder, "table"), SPEC).rows(0, int(labelled.rows.sum())), labelled


@given(TABLE, st.randoms(use_true_random=False))
@few
def test_the_order_of_rows_leaves_no_trace(table: list[dict[str, Any]], order: random.Random) -> None:
    (frame, segments), shuffled = laid_out(table), list(table)
    order.shuffle(shuffled)
    again, same = laid_out(shuffled)
    assert again.equals(frame, null_equal=True)
    assert (same.keys, same.digests) == (segments.keys, segments.digests)


@given(TABLE)
@few
def test_segments_cover_every_row_once(table: list[dict[str, Any]]) -> None:
    frame, segments = laid_out(table)
    assert len(set(segments.keys)) == len(segments)
    for (store, shelf), start, length, _ in segments:
        part = frame[start : start + length]
        assert part.select("store", "shelf").unique().rows() == [(store, int(shelf))]
        assert part["at"].is_sorted()
    assert int(segments.rows.sum()) == len(table)


@given(TABLE)
@few
def test_a_segments_digest_is_that_of_its_rows_one_by_one(table: list[dict[str, Any]]) -> None:
    frame, segments = laid_out(table)
    for key, start, length, digest in segments:
        assert digest == plain_digest(key, frame[start : start + length])


def plain_digest(key: tuple[str, ...], part: pl.DataFrame) -> bytes:
    found = hashlib.sha256(f"{format_segment(key)} {len(part)}\n".encode())
    for name in part.columns:
        if name not in BY:
            found.update(plain_column(part[name]))
    return found.digest()


def plain_column(series: pl.Series) -> bytes:
    if series.dtype == pl.String:
        texts = [None if value is None else value.encode() for value in series]
        lengths = [-1 if text is None else len(text) for text in texts]
        return struct.pack(f"<{len(texts)}q", *lengths) + b"".join(text or b"" for text in texts)
    if series.dtype == pl.Float64:
        return struct.pack(f"<{len(series)}d", *(np.nan if value is None else value for value in series))
    return struct.pack(f"<{len(series)}q", *(int(value) for value in series.to_physical()))


@given(TABLE, st.data())
@few
def test_a_changed_cell_changes_its_segment_alone(table: list[dict[str, Any]], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(table) - 1))
    changed = [dict(each) for each in table]
    changed[row]["hour"] = (changed[row]["hour"] + 1) % 24
    before, after = (dict(zip(s.keys, s.digests, strict=True)) for _, s in (laid_out(table), laid_out(changed)))
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {(table[row]["store"], str(table[row]["shelf"]))}


@given(TABLE)
@few
def test_segments_survive_their_blob(table: list[dict[str, Any]]) -> None:
    _, segments = laid_out(table)
    again = decode_segments(encode_segments(segments))
    assert list(again) == list(segments)
    assert encode_segments(again) == encode_segments(segments)


@given(TABLE)
@few
def test_what_was_checked_passes_unchanged(table: list[dict[str, Any]]) -> None:
    once = typed(table)
    assert check(SPEC, once).equals(once, null_equal=True)


@given(TABLE)
@few
def test_workers_see_the_labelled_rows_as_they_are(table: list[dict[str, Any]]) -> None:
    frame, segments = laid_out(table)
    assume(frame["y"].null_count() < len(frame))
    rows, labelled = mapped(frame, segments)
    known = frame.filter(pl.col("y").is_not_null())
    assert "person" not in rows
    assert labelled.keys == segments.keys
    assert int(labelled.rows.sum()) == len(rows) == len(known)
    for name in ("store", "shelf", "at", "hour", "open", "kind", "y"):
        assert rows[name].tolist() == known[name].to_list()
    np.testing.assert_array_equal(rows.heat, known["heat"].fill_null(np.nan).to_numpy())


@given(TABLE)
@few
def test_histograms_count_each_segment_as_alone(table: list[dict[str, Any]]) -> None:
    frame, segments = laid_out(table)
    assume(frame["y"].null_count() < len(frame))
    rows, labelled = mapped(frame, segments)
    bins = freeze_bins(SPEC, rows)
    together = count(bins, rows, labelled.rows)
    for n, (_, start, length, _) in enumerate(labelled):
        alone = count(bins, rows.take(slice(start, start + length)), labelled.rows[n : n + 1])
        assert all((whole[n] == part[0]).all() for whole, part in zip(together, alone, strict=True))
    assert all(table.sum(axis=1).tolist() == labelled.rows.tolist() for table in together)


BAD: dict[str, list[Any]] = {
    "hour": [-1, 24, None, "noon", 1.5],
    "at": ["soon", None],
    "kind": ["van", 7],
    "open": ["perhaps", 2, None],
    "store": [None],
    "heat": ["warm", float("inf")],
}


@given(TABLE, st.sampled_from([(name, value) for name, values in BAD.items() for value in values]), st.data())
@settings(few, max_examples=60)
def test_a_planted_fault_is_located(table: list[dict[str, Any]], fault: tuple[str, Any], data: st.DataObject) -> None:
    column, value = fault
    row = data.draw(st.integers(0, len(table) - 1))
    cells = [value if n == row else each[column] for n, each in enumerate(table)]
    if isinstance(value, str):
        cells = [None if cell is None else str(cell) for cell in cells]
    frame = typed(table).with_columns(pl.Series(column, cells, strict=False, dtype=dtype_of(cells)))
    with pytest.raises(DataError) as caught:
        check(SPEC, frame, "rows.csv")
    assert f"`{column}`" in caught.value.what
    assert caught.value.parts["where"] == f"rows.csv, row {row + 1}"


def dtype_of(cells: list[Any]) -> Any:
    kinds = {type(cell) for cell in cells if cell is not None}
    return pl.String if str in kinds else pl.Float64 if float in kinds else None
