"""The contract: every kind of bad drop is located, and nothing of a person is shown."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

import polars as pl
import pytest

import modelmill as mm
from modelmill.data.contract import check
from modelmill.data.sources import read_table
from modelmill.errors import ColumnMissing, ColumnTypeChanged, ContractBroken, DataError, NoRows
from modelmill.model.schema import schema_of


class Sale(mm.Schema, unique=["store", "at"]):
    """One sale."""

    store: str = mm.key()
    person: str = mm.subject()
    at: datetime = mm.time()
    hour: int = mm.col(ge=0, le=23)
    late: float | None = mm.col()
    kind: str = mm.category("car", "bus")
    y: float = mm.target(lt=100)


SPEC = schema_of(Sale)
GOOD: dict[str, list[Any]] = {
    "store": ["a", "a", "b"],
    "person": ["p1", "p2", "p3"],
    "at": ["2026-01-01T00:00:00Z", "2026-01-01 01:00:00", "2026-01-02"],
    "hour": [1, 2, 3],
    "late": [1.0, None, float("nan")],
    "kind": ["car", "bus", "car"],
    "y": [1, 2, 3],
    "extra": [0, 0, 0],
}


def drop(**changed: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({**GOOD, **changed}, strict=False)


def test_a_good_drop_gets_canonical_types() -> None:
    found = check(SPEC, drop())
    assert found.columns == [column.name for column in SPEC.columns]
    assert found["at"].to_list() == [datetime(2026, 1, 1), datetime(2026, 1, 1, 1), datetime(2026, 1, 2)]  # noqa: DTZ001
    assert found["late"].to_list() == [1.0, None, None]
    assert found["y"].dtype == pl.Float64


def test_a_missing_column_is_named_and_guessed() -> None:
    with pytest.raises(ColumnMissing, match="`hour`") as caught:
        check(SPEC, drop().rename({"hour": "huor"}), "rows.csv")
    assert caught.value.parts["likely"] == "did you mean `huor`?"


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("hour", ["1", "2 h", "3"], "2 h"),
        ("hour", [1.0, 2.5, 3.0], "2.5"),
        ("at", ["2026-01-01", "soon", "2026-01-02"], "soon"),
    ],
)
def test_a_changed_type_is_located(column: str, values: list[Any], shown: str) -> None:
    with pytest.raises(ColumnTypeChanged, match=f"`{column}`") as caught:
        check(SPEC, drop(**{column: values}), "rows.csv")
    assert caught.value.parts["where"] == "rows.csv, row 2"
    assert shown in caught.value.parts["got"]


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [
        ("hour", [1, 2, 24], "row 3"),
        ("y", [100, 2, 3], "row 1"),
        ("y", [1.0, -math.inf, 3.0], "row 2"),
        ("late", [1.0, math.inf, None], "row 2"),
        ("kind", ["car", "van", "car"], "row 2"),
    ],
)
def test_a_broken_promise_is_located(column: str, values: list[Any], row: str) -> None:
    with pytest.raises(ContractBroken, match=f"`{column}`") as caught:
        check(SPEC, drop(**{column: values}), "rows.csv")
    assert caught.value.parts["where"] == f"rows.csv, {row}"
    assert caught.value.parts["expected"] == SPEC.column(column).rule()


def test_a_null_is_located() -> None:
    with pytest.raises(ContractBroken, match="`hour` is null in 1 of 3") as caught:
        check(SPEC, drop(hour=[1, None, 3]))
    assert caught.value.parts["where"] == "row 2"


def test_repeated_rows_are_found_where_uniqueness_is_declared() -> None:
    with pytest.raises(ContractBroken, match="rows repeat") as caught:
        check(SPEC, drop(at=["2026-01-01"] * 2 + ["2026-01-02"]))
    assert "rows 1, 2" in caught.value.parts["where"]


@pytest.mark.parametrize("frame", [drop().clear(), pl.DataFrame(), drop().filter(pl.col("hour") > 23)])
def test_no_rows(frame: pl.DataFrame) -> None:
    with pytest.raises(NoRows):
        check(SPEC, frame)


def test_a_key_is_never_null() -> None:
    class Odd(mm.Schema):
        """A key that wants to be null."""

        store: str | None = mm.key()
        y: float = mm.target()

    with pytest.raises(ContractBroken, match="`store` is null in 1 of 2"):
        check(schema_of(Odd), pl.DataFrame({"store": ["a", None], "y": [1.0, 2.0]}))


def test_every_broken_rule_is_counted() -> None:
    with pytest.raises(ContractBroken, match="`hour` breaks the contract in 2 of 3") as caught:
        check(SPEC, drop(hour=[24, 2, 24], kind=["car", "van", "car"]))
    assert "kind" in caught.value.parts["likely"]


def test_a_lazy_frame_is_judged_all_the_same() -> None:
    with pytest.raises(ContractBroken, match="`hour`"):
        check(SPEC, read_table(drop(hour=[1, 2, 99]).lazy()))


@pytest.mark.parametrize("column", ["person", "hour", "kind", "y"])
def test_no_message_shows_a_subject(column: str) -> None:
    with pytest.raises(DataError) as caught:
        check(SPEC, drop(**{column: [None, [1], "p2"] if column != "person" else [["p1"], ["p2"], ["p3"]]}))
    assert not {"p1", "p3"} & set(re.findall(r"p\d", "".join(caught.value.lines())))


def test_values_of_a_subject_are_never_shown() -> None:
    with pytest.raises(ContractBroken) as caught:
        check(SPEC, drop(person=["p1", None, "p3"]))
    assert "p1" not in "".join(caught.value.lines())
