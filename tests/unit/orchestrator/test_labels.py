"""By what labels find their answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl
import pytest

import modelmill as mm
from modelmill.errors import LabelsUnjoinable, UsageError
from modelmill.model.schema import schema_of
from modelmill.orchestrator.labels import way_of
from modelmill.orchestrator.requests import LabelsImportRequest


class Timed(mm.Schema):
    """Keys and a time."""

    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    y: float = mm.target()


class Untimed(mm.Schema):
    """Keys alone."""

    store: str = mm.key()
    size: float = mm.col()
    y: float = mm.target()


class Bare(mm.Schema):
    """Neither."""

    size: float = mm.col()
    y: float = mm.target()


IDS, KEYS = pl.DataFrame({"request_id": ["a"]}), pl.DataFrame({"store": ["a"]})


def way(schema: type[mm.Schema], frame: pl.DataFrame, **options: Any) -> str:
    return way_of(LabelsImportRequest(**options), schema_of(schema), frame)


def test_the_request_is_taken_where_the_file_names_it() -> None:
    assert way(Timed, IDS) == way(Bare, IDS) == "request_id"
    assert way(Timed, KEYS) == way(Timed, IDS, on="keys,time") == "keys,time"
    assert way(Untimed, KEYS, within="10m") == "keys,time"


def test_what_cannot_join_is_refused() -> None:
    with pytest.raises(LabelsUnjoinable, match="neither keys nor a time"):
        way(Bare, KEYS, within="10m")
    with pytest.raises(LabelsUnjoinable, match="no time"):
        way(Untimed, KEYS)
    with pytest.raises(UsageError, match="do not join on"):
        way(Timed, KEYS, on="name")
