"""Appending is importing all rows, whatever the rows are and in however many parts they come."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.test_data_laws import BY, ROW, SPEC

from modelmill.data.appending import append_rows
from modelmill.data.taking import get_snapshot, load_frame, load_rows, load_segments, take_snapshot
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

PARTS = st.lists(st.lists(ROW, min_size=1, max_size=8), min_size=2, max_size=6)


def frame_of(table: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame({name: [row[name] for row in table] for name in ROW_NAMES}, strict=False)


ROW_NAMES = [column.name for column in SPEC.columns]


def appended(store: Store, parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Import the first part and append the others; return the rows that the last snapshot should have."""
    take_snapshot(store, "sales", SPEC, BY, frame_of(parts[0]), "first")
    rows = list(parts[0])
    for part in parts[1:]:
        found = append_rows(store, get_snapshot(store, "sales"), frame_of(part), "more")
        rows += part if found.rows else []
        again = append_rows(store, get_snapshot(store, "sales"), frame_of(part), "again")
        assert (again.rows, again.taken.new, again.taken.snapshot) == (0, False, get_snapshot(store, "sales"))
    return rows


@given(PARTS)
@settings(max_examples=15, deadline=None)
def test_parts_are_the_whole(parts: list[list[dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder, open_store(Settings(root=Path(folder))) as store:
        rows = appended(store, parts)
        newest = get_snapshot(store, "sales")
        whole = take_snapshot(store, "another", SPEC, BY, frame_of(rows), "all")
        segments = load_segments(store, newest)
        assert (segments.keys, segments.digests) == (whole.segments.keys, whole.segments.digests)
        assert load_frame(store, newest).equals(whole.frame, null_equal=True)
        for key in segments.keys[:3]:
            one, found = (load_rows(store, kept, segments, {key}) for kept in (newest, whole.snapshot))
            assert one[0].equals(found[0], null_equal=True)
        # The same rows imported as a whole are the snapshot that is there.
        again = take_snapshot(store, "sales", SPEC, BY, frame_of(rows), "all")
        assert (again.new, again.snapshot) == (False, newest)


@given(PARTS)
@settings(max_examples=15, deadline=None)
def test_each_layer_is_much_larger_than_the_one_above(parts: list[list[dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder, open_store(Settings(root=Path(folder))) as store:
        appended(store, parts)
        sizes: dict[int, int] = {}
        for file in get_snapshot(store, "sales").manifest.files:
            sizes[file.layer] = sizes.get(file.layer, 0) + file.rows
        ordered = [sizes[layer] for layer in sorted(sizes)]
        assert all(lower > 2 * upper for lower, upper in itertools.pairwise(ordered))
