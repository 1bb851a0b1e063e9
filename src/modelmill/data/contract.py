"""The contract: a schema as a pandera schema, checked once for a whole table before it becomes a snapshot.

Types are cast by our own strict step, which can name the row that does not fit; then pandera judges ranges, allowed
values, nulls and uniqueness, eagerly and all at once. Values of subject columns are masked before they reach a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import polars as pl

from modelmill.errors import ColumnMissing, ColumnTypeChanged, ContractBroken, DataError, NoRows, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec

_SHOWN = 5
_DTYPES: dict[str, Any] = {
    "float": pl.Float64,
    "int": pl.Int64,
    "bool": pl.Boolean,
    "str": pl.String,
    "category": pl.String,
    "date": pl.Date,
    "datetime": pl.Datetime("us"),
}
_MOMENT = "%Y-%m-%dT%H:%M:%S%.f"


def compile_contract(spec: SchemaSpec) -> Any:
    """Return a schema as a `pandera.polars.DataFrameSchema`."""
    # Pandera takes half a second to import, which a command that checks nothing should not wait for.
    pa = import_module("pandera.polars")
    columns = {column.name: _pandera_column(pa, column) for column in spec.columns}
    return pa.DataFrameSchema(columns, unique=list(spec.unique) or None)


def _pandera_column(pa: Any, column: Column) -> Any:
    checks = []
    if column.ge is not None:
        checks.append(pa.Check.ge(column.ge))
    if column.gt is not None:
        checks.append(pa.Check.gt(column.gt))
    if column.le is not None:
        checks.append(pa.Check.le(column.le))
    if column.lt is not None:
        checks.append(pa.Check.lt(column.lt))
    if column.kind == "category":
        checks.append(pa.Check.isin(list(column.values)))
    return pa.Column(_DTYPES[column.kind], checks=checks, nullable=column.nullable)


def check(spec: SchemaSpec, frame: pl.DataFrame, source: str = "") -> pl.DataFrame:
    """Return the declared columns in canonical types, or raise the `DataError` that says what is wrong where.

    Raises `NoRows`, `ColumnMissing`, `ColumnTypeChanged` or `ContractBroken`. Other columns are left out.
    """
    _check_columns(spec, frame, source)
    if frame.is_empty():
        raise NoRows("there are no rows", where=source)
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
    if series.dtype.is_float():
        series = series.fill_nan(None)
    try:
        cast = _CASTS[column.kind](series)
    except pl.exceptions.PolarsError:
        cast = pl.Series(column.name, [None] * len(series), dtype=_DTYPES[column.kind])
    lost = (cast.is_null() & series.is_not_null()).arg_true()
    if len(lost):
        raise _type_changed(series, column, lost.to_list(), source)
    return cast.alias(column.name)


def _as_float(series: pl.Series) -> pl.Series:
    return series.cast(pl.Float64, strict=False).fill_nan(None)


def _as_int(series: pl.Series) -> pl.Series:
    if series.dtype.is_integer():
        return series.cast(pl.Int64, strict=False)
    numbers = series.cast(pl.Float64, strict=False)
    whole = numbers.is_null() | (numbers == numbers.floor())
    return numbers.zip_with(whole, pl.Series([None], dtype=pl.Float64)).cast(pl.Int64, strict=False)


def _as_bool(series: pl.Series) -> pl.Series:
    if series.dtype == pl.String:
        low = series.str.to_lowercase()
        return low.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    if series.dtype == pl.Boolean:
        return series
    return series.replace_strict({0: False, 1: True}, default=None, return_dtype=pl.Boolean)


def _as_text(series: pl.Series) -> pl.Series:
    return series.cast(pl.String, strict=False)


def _as_moment(series: pl.Series) -> pl.Series:
    if series.dtype == pl.String:
        text = series.str.replace(" ", "T", literal=True).str.replace(r"(Z|\+00:00)$", "")
        text = text.str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00")
        return text.str.to_datetime(_MOMENT, time_unit="us", strict=False)
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us"), strict=False)


def _as_date(series: pl.Series) -> pl.Series:
    return series.str.to_date(strict=False) if series.dtype == pl.String else series.cast(pl.Date, strict=False)


_CASTS = {
    "float": _as_float,
    "int": _as_int,
    "bool": _as_bool,
    "str": _as_text,
    "category": _as_text,
    "datetime": _as_moment,
    "date": _as_date,
}


def _type_changed(series: pl.Series, column: Column, lost: list[int], source: str) -> ColumnTypeChanged:
    return ColumnTypeChanged(
        f"column `{column.name}` holds values that are no {column.kind}: {len(lost)} of {len(series)} rows",
        where=f"{source}, {_rows(lost)}".lstrip(", "),
        expected=column.rule(),
        got=_values([series[index] for index in lost[:_SHOWN]], column),
        likely="the export changed" if len(lost) > len(series) // 2 else "a few cells were typed by hand",
        next="correct these rows at the source, or change the column's type in the schema",
        safe=_UNCHANGED,
    )


def _broken(spec: SchemaSpec, frame: pl.DataFrame, cases: pl.DataFrame, source: str) -> DataError:
    groups: dict[tuple[str, str], list[int]] = {}
    for case in cases.iter_rows(named=True):
        column = case["column"] if case["schema_context"] == "Column" else ", ".join(spec.unique)
        groups.setdefault((str(column), str(case["check"])), []).append(case["index"])
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


def _structural(spec: SchemaSpec, frame: pl.DataFrame, name: str, rule: str, source: str) -> ContractBroken:
    if rule.startswith("not_nullable"):
        rows = frame[name].is_null().arg_true().to_list()
        what = f"column `{name}` is null in {len(rows)} of {len(frame)} rows"
        expected = spec.column(name).rule()
        remedy = f"fill them at the source, drop them in @data, or declare `{name}` nullable"
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
    if column.role == "subject":
        return "(values of a subject column are not shown)"
    return ", ".join(repr(value)[:60] for value in values)
