"""Labels are checked whole, kept once, and read back as they came."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import modelmill as mm
from modelmill.data.labels import check_labels, keep_labels, list_label_files, outcome_spec, read_labels
from modelmill.errors import ColumnMissing, ColumnTypeChanged, ContractBroken, LabelsContradict, UsageError
from modelmill.model.schema import schema_of
from modelmill.names import ModelName
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

SALES = ModelName("sales")
NOW = timedelta(0)


class Sale(mm.Schema):
    """A model with a time."""

    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    y: float = mm.target(ge=0, nullable=True)


class Grade(mm.Schema):
    """A model of classes, whose labels nobody may see."""

    store: str = mm.key()
    size: float = mm.col()
    grade: str = mm.label("low", "high", sensitive=True)


SALE, GRADE = schema_of(Sale), schema_of(Grade)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as opened:
        yield opened


def keep(store: Store, rows: dict[str, list[object]]) -> bool:
    found = check_labels(SALE, "request_id", pl.DataFrame(rows), "labels.csv")
    return keep_labels(store, SALES, "request_id", NOW, found.frame, "labels.csv")[1]


def test_what_is_kept_has_one_order_and_the_types_of_the_schema() -> None:
    rows = pl.DataFrame({"y": ["2", "1.5", None, "2"], "request_id": ["b", "a", "c", "b"], "other": [1, 2, 3, 4]})
    found = check_labels(SALE, "request_id", rows, "")
    assert found.frame.to_dict(as_series=False) == {"request_id": ["a", "b"], "label": [1.5, 2.0]}
    assert (found.empty, found.repeated) == (1, 1)


def test_labels_by_keys_and_time_have_the_keys_and_a_moment() -> None:
    rows = pl.DataFrame({"store": ["n"], "at": ["2026-01-01T09:00:00"], "y": [1]})
    found = check_labels(SALE, "keys,time", rows, "")
    moment = datetime(2026, 1, 1, 9)  # noqa: DTZ001 - UTC, as all times of rows
    assert found.frame.to_dicts() == [{"store": "n", "at": moment, "label": 1.0}]


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ({"y": [1.0]}, ColumnMissing, "request_id"),
        ({"request_id": ["a", "b"], "y": ["1", "many"]}, ColumnTypeChanged, "row 2"),
        ({"request_id": ["a", "b"], "y": [1.0, -1.0]}, ContractBroken, "row 2"),
        ({"request_id": ["a", None], "y": [1.0, 1.0]}, ContractBroken, "row 2"),
        ({"request_id": ["a"], "row": [-1], "y": [1.0]}, ContractBroken, "row 1"),
        ({"request_id": ["a", "a"], "y": [1.0, 2.0]}, LabelsContradict, "request_id=a"),
        ({"request_id": ["a"], "y": [1.0], "known_at": [None]}, ContractBroken, "row 1"),
    ],
)
def test_what_breaks_a_promise_is_told(rows: dict[str, list[object]], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        check_labels(SALE, "request_id", pl.DataFrame(rows), "labels.csv")
    assert said in f"{raised.value} {raised.value.parts}"  # type: ignore[attr-defined]


def test_a_value_that_is_hidden_is_in_no_message() -> None:
    with pytest.raises(LabelsContradict) as raised:
        check_labels(GRADE, "request_id", pl.DataFrame({"request_id": ["a", "a"], "grade": ["low", "high"]}), "")
    assert "high" not in str(raised.value.parts)
    with pytest.raises(ContractBroken) as broken:
        check_labels(GRADE, "request_id", pl.DataFrame({"request_id": ["a"], "grade": ["secret"]}), "")
    assert "secret" not in str(broken.value.parts)


def test_labels_of_several_times_contradict_nothing() -> None:
    rows = pl.DataFrame({"request_id": ["a", "a"], "y": [1, 2], "known_at": ["2026-01-01", "2026-01-02"]})
    assert len(check_labels(SALE, "request_id", rows, "").frame) == 2


def test_the_same_labels_are_kept_once_in_whatever_order(store: Store) -> None:
    assert keep(store, {"request_id": ["a", "b"], "y": [1.0, 2.0]})
    assert not keep(store, {"y": ["2.0", "1"], "request_id": ["b", "a"]})
    assert keep(store, {"request_id": ["a", "b"], "y": [1.0, 3.0]})
    files = list_label_files(store, SALES)
    assert [file.rows for file in files] == [2, 2]
    assert list_label_files(store, ModelName("other")) == []
    first = read_labels(store, files[0])
    assert first["label"].to_list() == [1.0, 2.0]
    assert first["known_at"].to_list() == [files[0].imported_at.replace(tzinfo=None)] * 2
    assert (files[0].on, files[0].within, files[0].source) == ("request_id", NOW, "labels.csv")


def test_an_outcome_is_kept_beside_the_labels(store: Store) -> None:
    spec = outcome_spec(SALE, "revenue")
    found = check_labels(spec, "request_id", pl.DataFrame({"request_id": ["a"], "revenue": [-3]}), "")
    assert found.frame.to_dicts() == [{"request_id": "a", "label": -3.0}]
    assert keep(store, {"request_id": ["a"], "y": [3.0]})
    assert keep_labels(store, SALES, "request_id", NOW, found.frame, "", outcome="revenue")[1]
    assert [file.rows for file in list_label_files(store, SALES)] == [1]
    assert [file.outcome for file in list_label_files(store, SALES, "revenue")] == ["revenue"]


def test_an_outcome_is_none_of_the_models_columns() -> None:
    for column in SALE.columns:
        with pytest.raises(UsageError, match="is a column"):
            outcome_spec(SALE, column.name)
