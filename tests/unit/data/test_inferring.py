"""What is guessed of a sample."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from modelmill.data.inferring import infer_columns, schema_source
from modelmill.errors import DeclarationInvalid, NoRows, UsageError
from modelmill.model.columns import Column


def column(values: list[Any], name: str = "x", **options: Any) -> Column:
    frame = pl.DataFrame({name: values, "y": range(len(values))})
    return next(one.column for one in infer_columns(frame, target="y", **options) if one.column.name == name)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1, 97], 0, 200),
        ([0.5, 80.0], 0, 100),
        ([-3.0, -0.1], -5, 0),
        ([-40, 40], -50, 50),
        ([0, 0], 0, 0),
        ([1e-4, 3e-3], 0, 0.005),
    ],
)
def test_bounds_are_round_and_a_little_wider(values: list[float], low: float, high: float) -> None:
    found = column(values)
    assert found.ge == low
    assert found.le == pytest.approx(high)


def test_kinds_and_roles() -> None:
    assert (column([True, False]).kind, column(["a", "b", "a"]).values) == ("bool", ("a", "b"))
    assert column([1, None]).nullable is True
    assert column([f"name {n}" for n in range(50)]).role == "key"
    assert column([f"name {n}" for n in range(50)], most_values=100).kind == "category"
    assert column(["a", "b"], by=["x"]).role == "key"
    frame = pl.DataFrame({"x": [1, 2], "y": ["no", "yes"]})
    assert "y: str = mm.label('no', 'yes', doc=\"\")" in schema_source("Row", infer_columns(frame, target="y"))
    assert [one.column.name for one in infer_columns(frame.with_columns(z=pl.lit(None)), target="y")] == ["x", "y"]


@pytest.mark.parametrize(
    ("frame", "options", "error", "said"),
    [
        (pl.DataFrame({"x": [1], "y": [1]}), {"target": "z"}, UsageError, "no column `z`"),
        (pl.DataFrame({"order id": [1], "y": [1]}), {"target": "y"}, UsageError, "no Python attribute"),
        (pl.DataFrame({"class": [1], "y": [1]}), {"target": "y"}, UsageError, "no Python attribute"),
        (pl.DataFrame({"x": [1.5], "y": [1]}), {"target": "y", "by": ["x"]}, DeclarationInvalid, "cannot be the key"),
        (pl.DataFrame({"x": ["a"], "y": [1]}), {"target": "y", "time": "x"}, DeclarationInvalid, "cannot be the time"),
        (pl.DataFrame({"x": [1], "y": ["a"]}), {"target": "y"}, DeclarationInvalid, "one value"),
        (pl.DataFrame({"x": [], "y": []}), {"target": "y"}, NoRows, "no rows"),
    ],
)
def test_what_cannot_be_guessed_is_said(
    frame: pl.DataFrame, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        infer_columns(frame, **options)
