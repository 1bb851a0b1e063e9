"""A schema from a sample: what the columns hold, with bounds a little wider than what was seen, as source to be edited.

It is a beginning: a sample knows no units and no meanings, and the next rows may be wider than its bounds. Every guess stands
in the text, with what the sample held beside it.
"""

from __future__ import annotations

import keyword
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from modelmill.errors import DeclarationInvalid, NoRows, UsageError, did_you_mean
from modelmill.model.columns import Column, Kind, Role
from modelmill.model.schema import SchemaSpec

MOST_VALUES = 20
"""A text column with more distinct values than that is no category, unless it has to be one."""
_WIDER = 1.2
_SMALLEST, _LARGEST = 1e-300, 1e300
_EXACT = 2**53
_STEPS = (1, 2, 5, 10)


class Guessed(NamedTuple):
    """A column as it may be declared, and what the sample held."""

    column: Column
    held: str
    """``1.5 to 97 in the sample``"""


def infer_columns(
    frame: pl.DataFrame, *, target: str, by: Sequence[str] = (), time: str = "", most_values: int = MOST_VALUES
) -> list[Guessed]:
    """Return the columns of a sample as they may be declared; one without any value is left out.

    Raises `UsageError` for a name that is no column, or none that Python can read, `DeclarationInvalid` for a column that no
    role allows.
    """
    if frame.is_empty():
        raise NoRows("the sample has no rows")
    _check_names(frame, [target, *by, *([time] if time else [])])
    roles: dict[str, Role] = {target: "target", **dict.fromkeys(by, "key")}
    moment = time or _only_moment(frame, roles)
    if moment:
        roles[moment] = "time"
    return [
        _guessed(frame[name], roles.get(name, "feature"), most_values)
        for name in frame.columns
        if frame[name].null_count() < len(frame)
    ]


def schema_of_columns(name: str, guessed: Sequence[Guessed]) -> SchemaSpec:
    """Return guessed columns as a schema."""
    return SchemaSpec(name, "One row of the sample; without its target, one request.", tuple(g.column for g in guessed))


def schema_source(name: str, guessed: Sequence[Guessed]) -> str:
    """Return guessed columns as the source of a schema class."""
    lines = [f"class {name}(mm.Schema):", '    """One row of the sample; without its target, one request."""', ""]
    texts = [(_declared(one.column), one.held) for one in guessed]
    width = min(88, max(len(text) for text, _ in texts))
    return "\n".join([*lines, *(f"    {text:<{width}}  # {held}" for text, held in texts)])


# ------------------------------------------------------------------ guessing


def _check_names(frame: pl.DataFrame, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in frame.columns:
            raise UsageError(
                f"the sample has no column `{name}`",
                likely=did_you_mean(name, frame.columns),
                got=", ".join(frame.columns),
            )
    bad = [name for name in frame.columns if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_")]
    if bad:
        raise UsageError(
            "some columns have names that no Python attribute can have",
            got=", ".join(repr(name) for name in bad[:5]),
            next="rename them in the sample: letters, digits and underscores, a letter first",
        )


def _only_moment(frame: pl.DataFrame, roles: dict[str, Role]) -> str:
    moments = [name for name, dtype in frame.schema.items() if dtype.is_temporal() and name not in roles]
    return moments[0] if len(moments) == 1 else ""


def _guessed(series: pl.Series, role: Role, most_values: int) -> Guessed:
    kind = _kind_of(series.dtype)
    nullable = series.null_count() > 0 and role in ("feature", "target")
    present = series.drop_nulls()
    if kind == "str" and role in ("feature", "target"):
        return _guessed_text(present, role, nullable, most_values)
    column = Column(name=series.name, role=role, kind=kind, nullable=nullable)
    if kind in ("int", "float") and role == "feature":
        low, high = _wider(float(present.min()), float(present.max()))  # type: ignore[arg-type]  # numbers have both
        column = Column(name=series.name, role=role, kind=kind, nullable=nullable, ge=low, le=high)
    _check_role(column)
    return Guessed(column, _held(present))


def _guessed_text(present: pl.Series, role: Role, nullable: bool, most_values: int) -> Guessed:
    values = tuple(present.unique().sort().to_list())
    held = f"{len(values):,} values in the sample"
    if role == "target" or len(values) <= most_values:
        if role == "target" and len(values) < 2:
            raise DeclarationInvalid(f"target `{present.name}` has one value in the whole sample", got=repr(values[0]))
        return Guessed(Column(name=present.name, role=role, kind="category", nullable=nullable, values=values), held)
    return Guessed(Column(name=present.name, role="key", kind="str"), f"{held}: a key? else leave it out")


def _kind_of(dtype: pl.DataType) -> Kind:
    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer():
        return "int"
    if dtype.is_float() or dtype.is_decimal():
        return "float"
    if dtype == pl.Date:
        return "date"
    return "datetime" if dtype.is_temporal() else "str"


def _check_role(column: Column) -> None:
    allowed = {"key": ("str", "int", "bool", "date"), "time": ("datetime", "date"), "target": ("int", "float", "bool")}
    if column.role in allowed and column.kind not in allowed[column.role]:
        raise DeclarationInvalid(
            f"column `{column.name}` cannot be the {column.role}: it is a {column.kind}",
            expected=" or ".join(allowed[column.role]),
        )


def _wider(low: float, high: float) -> tuple[float, float]:
    """Return round bounds around what was seen; what was never below zero is not expected there."""
    return (0.0 if low >= 0 else -_round_up(-low * _WIDER)), (0.0 if high <= 0 else _round_up(high * _WIDER))


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below a positive value."""
    if not _SMALLEST < value < _LARGEST:  # no room is left to round in
        return min(value, sys.float_info.max)
    power = 10.0 ** math.floor(math.log10(value))
    found = next(step * power for step in _STEPS if step * power >= value * (1 - 1e-12))
    return float(f"{found:g}")


def _held(present: pl.Series) -> str:
    if _kind_of(present.dtype) in ("bool", "str"):
        return f"{present.n_unique():,} values in the sample"
    low, high = present.min(), present.max()
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{low:g} to {high:g} in the sample"
    return f"{low!s} to {high!s} in the sample"


# ------------------------------------------------------------------ as source

_TYPES = {"category": "str"}
"""Kinds whose type has another name."""


def _declared(column: Column) -> str:
    options = [repr(value) for value in column.values]
    for name in ("ge", "le"):
        bound = getattr(column, name)
        if bound is not None:
            options.append(f"{name}={_number(bound)}")
    if column.nullable:
        options.append("nullable=True")
    if column.numeric:
        options.append('unit=""')
    options.append('doc=""')
    return f"{column.name}: {_TYPES.get(column.kind, column.kind)} = mm.{_maker(column)}({', '.join(options)})"


def _number(bound: float) -> str:
    """Write a bound as people write it: 10 rather than 10.0, and 1e+300 rather than its 301 digits."""
    whole = float(bound).is_integer() and abs(bound) < _EXACT
    return str(int(bound)) if whole else repr(float(bound))


def _maker(column: Column) -> str:
    if column.kind == "category":
        return "label" if column.role == "target" else "category"
    return {"feature": "col", "key": "key", "time": "time", "target": "target"}[column.role]


def imports_of(guessed: Sequence[Guessed]) -> str:
    """Return the import line that the types need, or nothing."""
    names = sorted({one.column.kind for one in guessed} & {"date", "datetime"})
    return f"from datetime import {', '.join(names)}\n\n" if names else ""
