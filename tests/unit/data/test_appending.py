"""Appending rows to a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import modelmill as mm
from modelmill.data.appending import append_rows
from modelmill.data.subjects import files_naming
from modelmill.data.taking import get_snapshot, list_snapshots, take_snapshot
from modelmill.errors import ContractBroken
from modelmill.model.schema import schema_of
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store


class Sale(mm.Schema, unique=["store", "at"]):
    """One sale."""

    store: str = mm.key()
    at: datetime = mm.time()
    person: str = mm.subject()
    amount: float = mm.target(ge=0)


SPEC, BY = schema_of(Sale), ("store",)
START = datetime(2026, 1, 1)  # noqa: DTZ001 - times in a column have no zone


def rows(first: int, count: int, stores: int = 10) -> pl.DataFrame:
    days = range(first, first + count)
    return pl.DataFrame(
        {
            "store": [f"s{day % stores}" for day in days],
            "at": [START + timedelta(days=day) for day in days],
            "person": [f"person {day}" for day in days],
            "amount": [float(day) for day in days],
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as opened:
        take_snapshot(opened, "sales", SPEC, BY, rows(0, 1000), "base")
        yield opened


def test_no_byte_that_is_there_is_written_again(store: Store) -> None:
    base = get_snapshot(store, "sales")
    found = append_rows(store, base, rows(1000, 10), "more")
    files = found.taken.snapshot.manifest.files
    assert files[:-1] == base.manifest.files
    assert (files[-1].rows, files[-1].layer, found.rows, found.bytes) == (10, 1, 10, files[-1].bytes)
    assert found.taken.snapshot.label == "sales@s2"
    assert found.taken.snapshot.manifest.rows == 1010


def test_small_layers_are_written_together(store: Store) -> None:
    for day in range(30):
        append_rows(store, get_snapshot(store, "sales"), rows(1000 + 5 * day, 5), f"day {day}")
    files = get_snapshot(store, "sales").manifest.files
    assert len(files) <= 5
    assert sum(file.rows for file in files) == 1150
    assert files[0].rows == 1000


def test_a_small_base_is_written_together_with_much_more(store: Store) -> None:
    append_rows(store, get_snapshot(store, "sales"), rows(1000, 600), "more")
    (file,) = get_snapshot(store, "sales").manifest.files
    assert (file.rows, file.layer) == (1600, 0)


def test_what_is_unique_is_so_across_old_and_new(store: Store) -> None:
    planted = pl.concat([rows(1000, 3), rows(7, 1).with_columns(amount=pl.lit(1.0))])
    with pytest.raises(ContractBroken, match="1 of 4 new rows repeat") as caught:
        append_rows(store, get_snapshot(store, "sales"), planted, "more.csv")
    assert "s7, 2026-01-08" in caught.value.parts["got"]
    assert len(list_snapshots(store)) == 1


def test_a_bad_row_changes_nothing(store: Store) -> None:
    with pytest.raises(ContractBroken):
        append_rows(store, get_snapshot(store, "sales"), rows(1000, 3).with_columns(amount=pl.lit(-1.0)), "more.csv")
    assert len(list_snapshots(store)) == 1


def test_rows_that_are_there_add_nothing(store: Store) -> None:
    base = get_snapshot(store, "sales")
    found = append_rows(store, base, rows(990, 10), "again")
    assert (found.rows, found.repeated, found.taken.new, found.taken.snapshot) == (0, 10, False, base)


def test_people_are_found_in_the_layer_that_holds_them(store: Store) -> None:
    append_rows(store, get_snapshot(store, "sales"), rows(1000, 10), "more")
    base, layer = get_snapshot(store, "sales").manifest.files
    assert files_naming(store, "person 3") == [base.digest]
    assert files_naming(store, "person 1003") == [layer.digest]
