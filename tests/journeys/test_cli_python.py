"""The same verbs from Python, and a store in which something was damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from modelmill import Mill
from modelmill.errors import ContractBroken

ROW = {
    "origin": "JFK",
    "carrier": "B6",
    "dest": "BOS",
    "time_hour": "2013-06-01T09:00:00",
    "distance": 187,
    "hour": 9,
}


@pytest.fixture
def copy(fleet: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained project that a test may spoil."""
    return Path(shutil.copytree(fleet, tmp_path / "delays"))


def test_python_gets_the_answers_as_values(fleet: Path) -> None:
    mill = Mill(fleet)
    assert [model.model for model in mill.status().models] == ["air-time"]
    first, second = mill.predict(ROW, ROW | {"distance": 188}).answers
    assert first.segment == second.segment == "JFK,B6,BOS"
    assert mill.show("air-time[JFK,B6,BOS]").kind == "version"
    assert len(mill.search("air-time", limit=3).versions) == 3


def test_a_frame_becomes_a_snapshot_once(copy: Path) -> None:
    mill = Mill(copy)
    frame = pl.read_parquet(copy / "sample" / "flights.parquet").head(500)
    taken = mill.data.import_(frame)
    assert (taken.snapshot.rows, taken.snapshot.new) == (500, True)
    assert mill.data.import_(frame.reverse()).snapshot.label == taken.snapshot.label
    assert [snapshot.label for snapshot in mill.data.list().snapshots] == [taken.snapshot.label, "flights@s1"]
    assert mill.data.show(taken.snapshot.label).details["segments"] > 1


def test_a_bad_frame_changes_nothing(copy: Path) -> None:
    frame = pl.read_parquet(copy / "sample" / "flights.parquet").head(50).with_columns(hour=pl.lit(99))
    with pytest.raises(ContractBroken, match="`hour` breaks the contract in 50 of 50 rows"):
        Mill(copy).data.import_(frame)
    assert len(Mill(copy).data.list().snapshots) == 1


def test_only_the_segments_whose_rows_changed_are_built_again(copy: Path) -> None:
    sample = copy / "sample" / "flights.parquet"
    frame = pl.read_parquet(sample)
    changed = (pl.col("origin") == "JFK") & (pl.col("carrier") == "B6") & (pl.col("dest") == "BOS")
    frame.with_columns(
        air_time=pl.when(changed).then(pl.col("air_time") + 1).otherwise(pl.col("air_time"))
    ).write_parquet(sample)
    counts = Mill(copy).train().counts
    assert counts.built == 1
    assert counts.unchanged > 200


def test_fsck_finds_a_flipped_byte(modelmill: Callable[..., Any], copy: Path) -> None:
    largest = max((copy / ".modelmill" / "blobs").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)
    done = modelmill("fsck", "--json", cwd=copy)
    assert done.code == 1
    assert [problem["where"] for problem in done.json["problems"]] == [largest.name]


def test_a_store_elsewhere_is_one_option(modelmill: Callable[..., Any], fleet: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "store")
    assert modelmill("data", "import", "--store", place, cwd=fleet).code == 0
    assert modelmill("data", "list", "--json", cwd=fleet, MODELMILL_STORE=place).json["snapshots"][0]["number"] == 1
