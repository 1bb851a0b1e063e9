"""The drill: bad values are planted into good rows, one promise of the contract after the other, and each has to be caught.

A promise that was never seen to fail may be none. What a @check promises cannot be read off it: its rows are spoiled in
several ways that the contract allows, and it is told whether it noticed any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import polars as pl

from modelmill.data.checks import ask_check
from modelmill.data.contract import check
from modelmill.errors import DataError
from modelmill.model.columns import Column
from modelmill.model.roles import RoleFunction
from modelmill.model.schema import SchemaSpec

_ROWS = 200
_LARGE = 1e9
_NO_VALUE = "no such value"


class Planted(msgspec.Struct, frozen=True):
    """One bad value, or one way to spoil rows."""

    promise: str
    """``distance int 1..6000 mile``, ``rows differ in (store, at)`` or ``check sizes_are_known``"""
    bad: str
    """``6001``"""
    caught: bool | None
    """None where a @check did not notice: it may look for something else."""


def drill(spec: SchemaSpec, rows: pl.DataFrame, checks: Mapping[str, RoleFunction]) -> list[Planted]:
    """Plant bad values into a copy of some of these rows, which keep the contract, and return what became of each."""
    some = rows.head(_ROWS)
    found = [Planted(promise, bad, _refuses(spec, frame)) for promise, bad, frame in _bad_frames(spec, some)]
    return [*found, *(_noticed(spec, name, function, some) for name, function in checks.items())]


def _refuses(spec: SchemaSpec, frame: pl.DataFrame) -> bool:
    try:
        check(spec, frame)
    except DataError:
        return True
    return False


def _bad_frames(spec: SchemaSpec, rows: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    for column in spec.columns:
        promise = f"{column.name} {column.rule()}"
        yield f"there is a column {column.name}", "it is missing", rows.drop(column.name)
        for bad, value in _bad_values(column):
            yield promise, bad, _with_first(rows, column, value)
    if spec.unique:
        yield f"rows differ in ({', '.join(spec.unique)})", "a row twice", pl.concat([rows, rows.head(1)])


def _bad_values(column: Column) -> Iterator[tuple[str, Any]]:
    """Yield values that break one promise of a column each."""
    if column.kind not in ("str", "category"):
        yield f"`{_NO_VALUE}`", _NO_VALUE
    if column.kind == "category":
        yield f"`{_NO_VALUE}`", _NO_VALUE
    if column.role == "key" or not column.nullable:
        yield "null", None
    if column.kind == "float":
        yield "infinity", float("inf")
    step = 1 if column.kind == "int" else 0.5
    bounds = ((column.ge, -step), (column.gt, 0), (column.le, step), (column.lt, 0))
    for bound, beyond in bounds:
        if bound is not None:
            value = bound + beyond * max(1.0, abs(bound) / _LARGE)  # one more or less is nothing to a huge bound
            yield f"{value:g}", int(value) if column.kind == "int" else float(value)


def _with_first(rows: pl.DataFrame, column: Column, value: Any) -> pl.DataFrame:
    """Return the rows with another value in the first one, as a file might hold it."""
    old = rows[column.name]
    if isinstance(value, str):
        texts = [value, *(None if one is None else str(one) for one in old.to_list()[1:])]
        return rows.with_columns(pl.Series(column.name, texts, dtype=pl.String))
    return rows.with_columns(pl.Series(column.name, [value, *old.to_list()[1:]], dtype=old.dtype, strict=False))


# ------------------------------------------------------------------ checks


def _noticed(spec: SchemaSpec, name: str, function: RoleFunction, rows: pl.DataFrame) -> Planted:
    for bad, frame in _spoiled(spec, rows):
        try:
            ask_check(function, frame)
        except AssertionError:
            return Planted(f"check {name}", bad, caught=True)
        except Exception:  # noqa: BLE001, S112 - it cannot look at such rows: that says nothing of what it notices
            continue
    return Planted(f"check {name}", "columns shuffled, constant, extreme, null; half of the rows, one row", caught=None)


def _spoiled(spec: SchemaSpec, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield rows that keep their types, each spoiled in one way."""
    yield "one row", rows.head(1)
    yield "half of the rows", rows.head(max(1, len(rows) // 2))
    yield "all rows twice", pl.concat([rows, rows])
    for column in spec.columns:
        for bad, series in _spoiled_columns(column, rows[column.name]):
            yield f"{column.name} {bad}", rows.with_columns(series)


def _spoiled_columns(column: Column, old: pl.Series) -> Iterator[tuple[str, pl.Series]]:
    yield "shuffled", old.shuffle(seed=0)
    yield "constant", pl.Series(column.name, [old[0]] * len(old), dtype=old.dtype)
    if column.nullable:
        yield "null", pl.Series(column.name, [None] * len(old), dtype=old.dtype)
    if column.numeric:
        low, high = column.ge if column.ge is not None else column.gt, column.le if column.le is not None else column.lt
        for name, bound in (("at its minimum", low), ("at its maximum", high)):
            value = old.min() if bound is None and name == "at its minimum" else old.max() if bound is None else bound
            yield name, pl.Series(column.name, [value] * len(old), dtype=old.dtype, strict=False)
    if column.kind in ("date", "datetime"):
        yield "a hundred years later", old + timedelta(days=36_525)
        yield "a hundred years earlier", old - timedelta(days=36_525)
