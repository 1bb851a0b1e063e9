"""What lies between two snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelmill as mm
from modelmill.data.diff import diff_snapshots, ks_distance, schema_differences
from modelmill.data.snapshot import Snapshot
from modelmill.data.taking import take_snapshot
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store


class Row(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    a: float = mm.col(nullable=True)
    city: str = mm.key()
    y: float = mm.target()


class Other(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    a: float = mm.col(nullable=True, ge=0)
    b: int = mm.col()
    y: float = mm.target()


SPEC = mm.Model("m", Row).spec
ROWS = pl.DataFrame(
    {
        "store": [f"s{i % 4}" for i in range(40)],
        "at": [datetime(2026, 1, 1 + i // 4, tzinfo=UTC) for i in range(40)],
        "a": [float(i) for i in range(40)],
        "city": ["Oslo"] * 40,
        "y": [1.0] * 40,
    }
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as found:
        yield found


def taken(store: Store, frame: pl.DataFrame) -> Snapshot:
    return take_snapshot(store, "rows", SPEC, ("store",), frame, "test").snapshot


def test_rows_that_came_went_and_changed_are_counted(store: Store) -> None:
    later = ROWS[1:].with_columns(
        a=pl.when((pl.col("store") == "s1") & (pl.col("a") < 10)).then(100.0).otherwise("a"),
        city=pl.when(pl.col("store") == "s1").then(pl.lit("Bergen")).otherwise("city"),
    )
    more = pl.DataFrame(
        {"store": ["s9"], "at": [datetime(2026, 5, 1, tzinfo=UTC)], "a": [None], "city": ["Oslo"], "y": [2.0]}
    )
    found = diff_snapshots(store, taken(store, ROWS), taken(store, pl.concat([later, more], how="vertical_relaxed")))
    assert found.rows == (40, 40)
    assert (found.segments_new, found.segments_gone, found.segments_changed, found.segments_same) == (1, 0, 2, 2)
    # one row of s0 went, all ten of s1 have another city, one came with its segment
    assert (found.rows_added, found.rows_removed, found.rows_changed) == (11, 11, 10)
    columns = {column.column: column for column in found.columns}
    assert columns["city"].new_values == ("Bergen",)
    assert columns["a"].null_share[0] == 0.0
    assert columns["a"].null_share[1] == pytest.approx(1 / 20)


def test_the_same_rows_are_no_difference(store: Store) -> None:
    found = diff_snapshots(store, taken(store, ROWS), taken(store, ROWS.reverse()))
    assert (found.before, found.segments_same, found.rows_added, found.columns) == (found.after, 4, 0, ())


def test_content_may_be_left_out(store: Store) -> None:
    found = diff_snapshots(store, taken(store, ROWS), taken(store, ROWS[4:]), rows=False)
    assert (found.segments_changed, found.rows_added, found.columns) == (4, None, ())


def test_promises_that_changed_are_told() -> None:
    found = schema_differences(SPEC, mm.Model("n", Other).spec)
    assert [line.split()[:2] for line in found] == [["+", "b"], ["-", "city"], ["~", "a"]]
    assert schema_differences(SPEC, SPEC) == []


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_distance_is_kolmogorovs(one: list[float], other: list[float]) -> None:
    found = ks_distance(pl.Series(one, dtype=pl.Float64), pl.Series(other, dtype=pl.Float64))
    apart = [abs(np.mean(np.array(one) <= value) - np.mean(np.array(other) <= value)) for value in (*one, *other)]
    assert found == pytest.approx(max(apart))


def test_nothing_has_no_distance() -> None:
    assert ks_distance(pl.Series([], dtype=pl.Float64), pl.Series([1.0])) is None
