"""The sample of the template: real flights, small, and made by a script that anyone can run again."""

from __future__ import annotations

import runpy
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "src" / "modelmill" / "cli" / "template" / "sample" / "flights.parquet"


def test_the_sample_is_what_its_script_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "flights")
    made = runpy.run_path(str(ROOT / "examples" / "flights" / "sample.py"))["sample_flights"]()
    assert pl.read_parquet(SAMPLE).equals(made)


def test_the_sample_is_small_and_makes_a_fleet() -> None:
    flown = pl.read_parquet(SAMPLE).drop_nulls("air_time").group_by("origin", "carrier", "dest").len()
    assert SAMPLE.stat().st_size < 1_500_000
    assert len(flown.filter(pl.col("len") >= 30)) == 299
