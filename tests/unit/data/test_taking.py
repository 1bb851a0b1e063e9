"""Snapshots: content decides their identity, segments have digests of their own, and a bad drop leaves no trace."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import modelmill as mm
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.histogram import count, freeze_bins
from modelmill.data.mixing import mixed
from modelmill.data.subjects import files_naming, hash_subjects
from modelmill.data.taking import Taken, get_snapshot, list_snapshots, load_taken, sort_rows, take_snapshot
from modelmill.errors import ContractBroken, NoRows, NotFound
from modelmill.model.schema import schema_of
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

ODD = ["a/b", "..", 'quo"te', "🎈", "x" * 300, "plain", "", "a,b"]


class Sale(mm.Schema):
    """One sale."""

    store: str = mm.key()
    person: str = mm.subject()
    at: datetime = mm.time()
    hour: int = mm.col(ge=0, le=23)
    kind: str = mm.category("car", "bus", nullable=True)
    y: float = mm.target(nullable=True)


SPEC, BY = schema_of(Sale), ("store",)


def rows(stores: list[str] = ODD, each: int = 30) -> pl.DataFrame:
    start = datetime(2026, 1, 1)  # noqa: DTZ001
    table = [
        {
            "store": store,
            "person": f"person-{store}-{n}",
            "at": start + timedelta(hours=n),
            "hour": n % 24,
            "kind": ["car", "bus", None][n % 3],
            "y": None if n == 0 else float(n + len(store)),
        }
        for store in stores
        for n in range(each)
    ]
    return pl.DataFrame(table)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as opened:
        yield opened


def take(store: Store, frame: pl.DataFrame) -> Taken:
    return take_snapshot(store, "sales", SPEC, BY, frame, "test")


def test_the_order_of_rows_leaves_no_trace(store: Store) -> None:
    first = take(store, rows())
    again = take(store, rows().sample(fraction=1, shuffle=True, seed=3))
    assert (first.new, again.new) == (True, False)
    assert again.snapshot == first.snapshot
    assert len(list_snapshots(store)) == 1


def test_the_order_of_rows_of_one_moment_leaves_no_trace(store: Store) -> None:
    frame = rows().with_columns(at=pl.lit(datetime(2026, 1, 1)))  # noqa: DTZ001
    first, again = take(store, frame), take(store, frame.reverse())
    assert again.snapshot == first.snapshot
    assert again.segments.digests == first.segments.digests


def test_only_the_segment_whose_rows_changed_has_another_digest(store: Store) -> None:
    first, frame = take(store, rows()), rows()
    changed = frame.with_columns(
        hour=pl.when((pl.col("store") == "..") & (pl.col("hour") == 5)).then(6).otherwise(pl.col("hour"))
    )
    second = take(store, changed)
    before, after = (dict(zip(t.segments.keys, t.segments.digests, strict=True)) for t in (first, second))
    assert {key for key in before if before[key] != after[key]} == {("..",)}
    assert second.snapshot.label == "sales@s2"


def test_any_name_of_a_segment_is_kept(store: Store) -> None:
    taken = take(store, rows())
    assert set(taken.segments.keys) == {(name,) for name in ODD}
    assert all(path.resolve().is_relative_to(store.folder) for path in store.folder.rglob("*"))


def test_a_recorded_snapshot_is_read_as_it_was_taken(store: Store) -> None:
    taken = take(store, rows())
    again = load_taken(store, get_snapshot(store, "sales"))
    assert again.frame.equals(taken.frame)
    assert again.segments.keys == taken.segments.keys
    assert get_snapshot(store, "sales@s1") == get_snapshot(store, taken.snapshot.id[:8])


@pytest.mark.parametrize("name", ["sales@s2", "sales@sx", "sales@s" + "9" * 30, "abcd", "", "%", "sale"])
def test_a_snapshot_that_is_not_there(store: Store, name: str) -> None:
    take(store, rows())
    with pytest.raises(NotFound):
        get_snapshot(store, name)


def test_rows_without_any_target_are_no_rows(store: Store, tmp_path: Path) -> None:
    taken = take(store, rows().with_columns(y=pl.lit(None, dtype=pl.Float64)))
    with pytest.raises(NoRows, match="no row has a value of `y`"):
        write_build_table(tmp_path / "table", SPEC, taken.segments, taken.frame)


def test_a_bad_drop_leaves_no_trace(store: Store) -> None:
    take(store, rows())
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with pytest.raises(ContractBroken):
        take(store, rows().with_columns(hour=pl.lit(99)))
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
    assert len(list_snapshots(store)) == 1


def test_parquet_files_hold_no_statistics(store: Store) -> None:
    for file in take(store, rows()).snapshot.manifest.files:
        metadata = pq.ParquetFile(io.BytesIO(store.blobs.get(file.digest))).metadata
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        assert all(group.column(c).statistics is None for group in groups for c in range(group.num_columns))


def test_the_build_table_has_labelled_rows_and_no_subject(store: Store, tmp_path: Path) -> None:
    taken = take(store, rows())
    labelled = write_build_table(tmp_path / "table", SPEC, taken.segments, taken.frame)
    table = BuildTable(tmp_path / "table", SPEC)
    assert labelled.rows.tolist() == [29] * len(ODD)
    place = labelled.keys.index(("🎈",))
    found = table.rows(int(labelled.starts[place]), int(labelled.starts[place] + 29))
    assert set(found.store) == {"🎈"}
    assert found.y.tolist() == [float(n + 1) for n in range(1, 30)]
    assert "person" not in found
    assert b"person-" not in (tmp_path / "table").read_bytes()


def test_histograms_count_every_row_once(store: Store, tmp_path: Path) -> None:
    taken = take(store, rows())
    labelled = write_build_table(tmp_path / "table", SPEC, taken.segments, taken.frame)
    every = BuildTable(tmp_path / "table", SPEC).rows(0, int(labelled.rows.sum()))
    bins = freeze_bins(SPEC, every)
    counts = count(bins, every, labelled.rows)
    assert [b.column for b in bins] == ["hour", "kind", "y"]
    assert all(table.sum(axis=1).tolist() == [29] * len(ODD) for table in counts)
    assert counts[1][:, -1].sum() == every.kind.tolist().count(None)


def test_a_file_is_cut_between_segments(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("modelmill.data.taking._FILE_ROWS", 50)
    taken = take(store, rows())
    assert [file.rows for file in taken.snapshot.manifest.files] == [60] * 4
    assert load_taken(store, taken.snapshot).frame.equals(taken.frame)


def test_a_subject_is_found_only_in_the_files_that_the_index_names(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("modelmill.data.taking._FILE_ROWS", 50)
    planted = f"subject-{random.Random(5).getrandbits(128):032x}"
    rare = (pl.col("hour") == 7) & (pl.col("store") == "..")
    taken = take(store, rows().with_columns(person=pl.when(rare).then(pl.lit(planted)).otherwise(pl.col("person"))))
    holding = {path for path in store.folder.rglob("*") if path.is_file() and _holds(path, planted)}
    assert holding == {store.blobs.path_of(digest) for digest in files_naming(store, planted)}
    assert len(holding) == 1 < len(taken.snapshot.manifest.files)
    assert files_naming(store, "nobody") == []


def test_a_shared_file_is_indexed_once(store: Store) -> None:
    take(store, rows())
    taken = take_snapshot(store, "others", SPEC, BY, rows(), "test")
    assert files_naming(store, "person-..-3") == [file.digest for file in taken.snapshot.manifest.files]


def test_the_index_is_keyed_by_the_installation(store: Store, tmp_path: Path) -> None:
    with open_store(Settings(root=tmp_path / "other")) as other:
        assert hash_subjects(store, SPEC, rows()) != hash_subjects(other, SPEC, rows())


def _holds(path: Path, planted: str) -> bool:
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        content += pl.read_parquet(io.BytesIO(content)).write_csv().encode()
    return planted.encode() in content


class House(mm.Schema):
    """Rows without a time."""

    town: str = mm.key()
    size: float = mm.col()
    price: float = mm.target(nullable=True)


def houses(count: int = 400) -> pl.DataFrame:
    sizes = [float(n) for n in range(count)]
    prices = [None if n % 50 == 0 else 3.0 * n for n in range(count)]
    return pl.DataFrame({"town": ["a", "b"] * (count // 2), "size": sizes, "price": prices})


def test_rows_without_a_time_are_as_good_as_shuffled() -> None:
    """The last rows test: those with the largest values would test nothing but extrapolation."""
    spec = schema_of(House)
    ordered = sort_rows(houses(), spec, ("town",))
    for town in ("a", "b"):
        sizes = ordered.filter(pl.col("town") == town)["size"]
        assert 120 < sizes.tail(40).mean() < 280  # type: ignore[operator]  # of numbers there is a mean
        assert abs(pl.Series(range(200)).to_frame("n").with_columns(s=sizes).select(pl.corr("n", "s")).item()) < 0.2
    assert ordered["town"].is_sorted()
    again = sort_rows(houses().sample(fraction=1.0, shuffle=True, seed=3), spec, ("town",))
    assert again.equals(ordered, null_equal=True)
    # As it was computed on the first machine: it is the same on all others.
    assert ordered["size"].head(4).to_list() == [362.0, 340.0, 32.0, 386.0]


def test_what_is_equal_is_mixed_alike() -> None:
    frame = pl.DataFrame({"x": [0.0, -0.0], "s": ["a", "a"], "n": [None, None]}, schema_overrides={"n": pl.Int64})
    first, second = mixed(frame, ["x", "s", "n"]).to_list()
    assert first == second
    assert len(set(mixed(pl.DataFrame({"s": ["a", "b", None, ""]}), ["s"]).to_list())) == 4
