"""One value of a row: what its column allows, and how it is written as text or JSON."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from modelmill.errors import FieldInvalid, NotRecorded, did_you_mean
from modelmill.model.columns import Column

INT64 = 2**63
_WHOLE = re.compile(r"-?\d{1,18}")
_MOST_WHOLE = 1 << 1023


def key_of_text(column: Column, text: str) -> Any:
    """Return a key that an address or a BYTES tensor gives as text; as it is where it is none of its type."""
    if column.kind == "int" and _WHOLE.fullmatch(text):
        return int(text)
    return text == "true" if column.kind == "bool" and text in ("true", "false") else text


def value_of_text(column: Column, text: str) -> Any:
    """Return a value that a command line or a CSV file gives as text, in the column's type; raises `FieldInvalid`."""
    try:
        if column.kind in ("int", "float"):
            return float(text) if column.kind == "float" else int(text)
    except ValueError:
        raise FieldInvalid(f"field `{column.name}` is no number", expected=column.rule(), got=text[:80]) from None
    if column.kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


def value_of_record(name: str, text: str) -> Any:
    """Return a hyperparameter from what its record holds of it, its `repr`; raises `NotRecorded` where that says too little."""
    try:
        return float(text) if text in ("inf", "-inf", "nan") else ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise NotRecorded(
            f"parameter `{name}` cannot be read back from its record", got=text[:120], next="give it a plain default"
        ) from error


def text_of(value: Any) -> str:
    """Return a key's value as `key_text` does; most are texts already."""
    return value if type(value) is str else key_text(value)


def key_text(value: Any) -> str:
    """Return a key's value as the text that segments hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date) else str(value)


def as_json(value: Any) -> Any:
    """Return a value of a row as JSON has it."""
    plain = value.item() if hasattr(value, "item") else value
    return plain.isoformat() if isinstance(plain, date) else plain


def row_text(index: int | None) -> str:
    """Return which row an error is about; nothing where there is only one."""
    return "" if index is None else f"row {index}"


def refuse(column: Column, value: Any, index: int | None) -> FieldInvalid:
    """Return the refusal of a value that its column does not allow."""
    return FieldInvalid(
        f"field `{column.name}` has an impossible value",
        where=row_text(index),
        expected=column.rule(),
        got=repr(value)[:80],
    )


def _in_range(column: Column, value: float) -> bool:
    return (
        (column.ge is None or value >= column.ge)
        and (column.le is None or value <= column.le)
        and (column.gt is None or value > column.gt)
        and (column.lt is None or value < column.lt)
    )


def _float(column: Column, value: Any, index: int | None) -> float:
    if type(value) is int and abs(value) < _MOST_WHOLE:
        value = float(value)
    if type(value) is not float or not math.isfinite(value) or not _in_range(column, value):
        raise refuse(column, value, index)
    return value


def _int(column: Column, value: Any, index: int | None) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) >= INT64 or not _in_range(column, value):
        raise refuse(column, value, index)
    return value


def _bool(column: Column, value: Any, index: int | None) -> bool:
    if type(value) is not bool:
        raise refuse(column, value, index)
    return value


def _str(column: Column, value: Any, index: int | None) -> str:
    if type(value) is not str:
        raise refuse(column, value, index)
    return value


def _category(column: Column, value: Any, index: int | None) -> str:
    if type(value) is not str or value not in column.values:
        error = refuse(column, value, index)
        raise FieldInvalid(error.what, **{**error.parts, "likely": did_you_mean(str(value), column.values)})
    return value


def _datetime(column: Column, value: Any, index: int | None) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise refuse(column, value, index) from None
    return without_zone(moment)


def without_zone(moment: datetime) -> datetime:
    """Return a moment in UTC, without saying so; one that names no zone is taken for UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _date(column: Column, value: Any, index: int | None) -> date:
    try:
        return value if isinstance(value, date) else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise refuse(column, value, index) from None


CHECKS: dict[str, Callable[[Column, Any, int | None], Any]] = {
    "float": _float,
    "int": _int,
    "bool": _bool,
    "str": _str,
    "category": _category,
    "datetime": _datetime,
    "date": _date,
}
