"""By what labels find their answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

import modelmill as mm
from modelmill.errors import LabelsUnjoinable, UsageError
from modelmill.model.schema import schema_of
from modelmill.orchestrator.labels import ages_of, delay_of, way_of
from modelmill.requests import LabelsImportRequest
from modelmill.store.tables import now


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


def test_labels_that_come_a_week_late_are_counted_by_the_age_of_their_answers() -> None:
    moment = now().replace(tzinfo=None)
    asked = [moment - timedelta(days=days) for days in (0, 2, 8, 9, 90)]
    answers = pl.DataFrame({"asked_at": asked})
    labelled = answers[[0, 2, 3]].with_columns(known_at=pl.col("asked_at") + pl.Series([timedelta(days=7)] * 3))
    found = [(age.asked, age.answers, age.labelled) for age in ages_of(answers, labelled)]
    assert found == [("within a day", 1, 1), ("within a week", 1, 0), ("within 30 days", 2, 2), ("earlier", 1, 0)]
    assert delay_of(labelled, 0.5) == delay_of(labelled, 0.9) == 7 * 86_400
    assert delay_of(labelled.clear(), 0.5) is None
