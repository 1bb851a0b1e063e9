"""The contract: a schema as a pandera schema, checked once for a whole table before it becomes a snapshot.

Types are cast by our own strict step, which can name the row that does not fit; then pandera judges ranges, allowed
values, nulls and uniqueness, eagerly and all at once. Values of subject and sensitive columns are masked before they reach
a message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import polars as pl

from modelmill.data.casting import DTYPES, cast, lost
from modelmill.errors import ColumnMissing, ColumnTypeChanged, ContractBroken, DataError, NoRows, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec

_SHOWN = 5
_BOUNDS = ("ge", "gt", "le", "lt")
_FINITE = {"ge": -sys.float_info.max, "le": sys.float_info.max}
"""No model can learn from infinity, whatever the schema allows."""


def compile_contract(spec: SchemaSpec) -> Any:
    """Return a schema as a `pandera.polars.DataFrameSchema`."""
    # Pandera takes half a second to import, which a command that checks nothing should not wait for.
    pa = import_module("pandera.polars")
    columns = {column.name: _pandera_column(pa, column) for column in spec.columns}
    return pa.DataFrameSchema(columns, unique=list(spec.unique) or None)


def _pandera_column(pa: Any, column: Column) -> Any:
    bounds = {name: getattr(column, name) for name in _BOUNDS if getattr(column, name) is not None}
    if column.kind == "float":
        bounds = _FINITE | bounds
    checks = [getattr(pa.Check, name)(bound) for name, bound in bounds.items()]
    if column.kind == "category":
        checks.append(pa.Check.isin(list(column.values)))
    return pa.Column(DTYPES[column.kind], checks=checks, nullable=column.nullable and column.role != "key")


def check(spec: SchemaSpec, frame: pl.DataFrame, source: str = "") -> pl.DataFrame:
    """Return the declared columns in canonical types, or raise the `DataError` that says what is wrong where.

    Raises `NoRows`, `ColumnMissing`, `ColumnTypeChanged` or `ContractBroken`. Other columns are left out.
    """
    if frame.is_empty():
        raise NoRows("there are no rows", where=source, safe=_UNCHANGED)
    _check_columns(spec, frame, source)
    typed = frame.select([_cast(frame[column.name], column, source) for column in spec.columns])
    contract = compile_contract(spec)
    try:
        contract.validate(typed, lazy=True)
    except import_module("pandera.errors").SchemaErrors as error:
        raise _broken(spec, typed, error.failure_cases, source) from None
    return typed


def _check_columns(spec: SchemaSpec, frame: pl.DataFrame, source: str) -> None:
    for column in spec.columns:
        if column.name not in frame.columns:
            raise ColumnMissing(
                f"column `{column.name}` is missing",
                where=source,
                expected=", ".join(c.name for c in spec.columns),
                got=", ".join(frame.columns)[:300],
                likely=did_you_mean(column.name, frame.columns),
                safe=_UNCHANGED,
            )


_UNCHANGED = "no snapshot was made; everything that is served is unchanged"


def _cast(series: pl.Series, column: Column, source: str) -> pl.Series:
    found = cast(series, column)
    unfit = lost(series, found)
    if unfit:
        raise _type_changed(series, column, unfit, source)
    return found


def _type_changed(series: pl.Series, column: Column, unfit: list[int], source: str) -> ColumnTypeChanged:
    return ColumnTypeChanged(
        f"column `{column.name}` holds values that are no {column.kind}: {len(unfit)} of {len(series)} rows",
        where=f"{source}, {_rows(unfit)}".lstrip(", "),
        expected=column.rule(),
        got=_values([series[index] for index in unfit[:_SHOWN]], column),
        likely="the export changed" if len(unfit) > len(series) // 2 else "a few cells were typed by hand",
        next="correct these rows at the source, or change the column's type in the schema",
        safe=_UNCHANGED,
    )


def _broken(spec: SchemaSpec, frame: pl.DataFrame, cases: pl.DataFrame, source: str) -> DataError:
    groups = _grouped(spec, cases)
    (name, rule), rows = max(groups.items(), key=lambda item: len(item[1]))
    if rule.startswith(("not_nullable", "multiple_fields_uniqueness")) or name not in frame.columns:
        return _structural(spec, frame, name, rule, source)
    column = spec.column(name)
    located = [row for row in rows if row is not None]
    others = [f"{n}: {r} ({len(found)} rows)" for (n, r), found in groups.items() if (n, r) != (name, rule)]
    return ContractBroken(
        f"column `{name}` breaks the contract in {len(rows)} of {len(frame)} rows",
        where=f"{source}, {_rows(located)}".lstrip(", "),
        expected=column.rule(),
        got=_values([frame[name][row] for row in located[:_SHOWN]], column),
        likely=f"also broken: {'; '.join(others[:3])}" if others else "",
        next="correct these rows at the source, or widen the promise in the schema",
        safe=_UNCHANGED,
    )


def _grouped(spec: SchemaSpec, cases: pl.DataFrame) -> dict[tuple[str, str], list[int | None]]:
    """Return the rows that fail, by column and rule."""
    found = cases.group_by("schema_context", "column", "check", maintain_order=True).agg("index")
    return {
        (str(column) if context == "Column" else ", ".join(spec.unique), str(rule)): rows
        for context, column, rule, rows in found.iter_rows()
    }


def _structural(spec: SchemaSpec, frame: pl.DataFrame, name: str, rule: str, source: str) -> ContractBroken:
    if rule.startswith("not_nullable"):
        rows = frame[name].is_null().arg_true().to_list()
        what = f"column `{name}` is null in {len(rows)} of {len(frame)} rows"
        expected = spec.column(name).rule()
        widen = "" if spec.column(name).role == "key" else f", or declare `{name}` nullable"
        remedy = f"fill them at the source or drop them in @data{widen}"
    else:
        rows = frame.select(list(spec.unique)).is_duplicated().arg_true().to_list()
        what = f"rows repeat ({', '.join(spec.unique)}): {len(rows)} of {len(frame)} rows"
        expected = f"unique=[{', '.join(spec.unique)}]"
        remedy = "drop the repeated rows at the source or in @data"
    where = f"{source}, {_rows(rows)}".lstrip(", ")
    return ContractBroken(what, where=where, expected=expected, next=remedy, safe=_UNCHANGED)


def _rows(indices: Iterable[int]) -> str:
    """Return row numbers as a person counts them: the first row of data is row 1."""
    found = [index + 1 for index in indices]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{'rows' if len(found) > 1 else 'row'} {', '.join(map(str, found[:_SHOWN]))}{more}"


def _values(values: list[Any], column: Column) -> str:
    if column.hidden:
        return "(its values are not shown)"
    return ", ".join(repr(value)[:60] for value in values)
