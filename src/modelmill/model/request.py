"""Requests with named fields: strict types, ranges and names, so that a caller's mistake is told with its field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from modelmill.errors import FieldInvalid, FieldMissing, FieldUnknown, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.fitted import column_array
from modelmill.model.rows import Rows
from modelmill.model.schema import SchemaSpec
from modelmill.names import Segment

_INT64 = 2**63


class RequestParser:
    """Turns JSON objects into `Rows`; made once a model, from nothing but its schema."""

    def __init__(self, spec: SchemaSpec, required: Iterable[str]) -> None:
        """Take the schema and the fields that may not be left out."""
        self.columns = {column.name: column for column in spec.request_columns}
        self.required = frozenset(required)
        self._subjects = frozenset(column.name for column in spec.with_role("subject"))
        self._checks = {name: _CHECKS[column.kind] for name, column in self.columns.items()}

    def parse_rows(self, objects: Sequence[Mapping[str, Any]]) -> Rows:
        """Return a batch; raises `FieldMissing`, `FieldUnknown` or `FieldInvalid`, naming field and row."""
        parsed = [self._parse(item, index if len(objects) > 1 else None) for index, item in enumerate(objects)]
        arrays = {
            name: column_array(column, [row[name] for row in parsed])
            for name, column in self.columns.items()
            if name in self.required or any(row[name] is not None for row in parsed)
        }
        return Rows(arrays, len(parsed))

    def example(self, typical: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request that the parser accepts, from a typical row."""
        return {name: as_json(typical.get(name)) for name in self.columns if name in self.required}

    def _parse(self, item: Mapping[str, Any], index: int | None) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise FieldInvalid("a row is a JSON object", got=type(item).__name__, where=_row(index))
        if not self._allowed(item):
            raise self._unknown(item, index)
        values: dict[str, Any] = {}
        for name, column in self.columns.items():
            value = item.get(name)
            if value is None:
                self._check_absent(name, column, item, index)
            values[name] = None if value is None else self._checks[name](column, value, index)
        return values

    def _allowed(self, item: Mapping[str, Any]) -> bool:
        return item.keys() <= self.columns.keys() or item.keys() <= self.columns.keys() | self._subjects

    def _check_absent(self, name: str, column: Column, item: Mapping[str, Any], index: int | None) -> None:
        if name in item and (column.nullable or name not in self.required):
            return
        if name in item:
            raise FieldInvalid(f"field `{name}` is null", where=_row(index), expected=column.rule())
        if name in self.required and not column.nullable:
            raise FieldMissing(
                f"field `{name}` is missing", where=_row(index), got=", ".join(item), expected=", ".join(self.columns)
            )

    def _unknown(self, item: Mapping[str, Any], index: int | None) -> FieldUnknown | FieldMissing:
        name = next(n for n in item if n not in self.columns and n not in self._subjects)
        missing = [n for n in self.required if n not in item]
        hint = did_you_mean(name, missing or self.columns)
        shown = name[:80]
        if missing and hint.startswith("did you mean"):
            wanted = hint.split("`")[1]
            return FieldMissing(
                f"field `{wanted}` is missing",
                where=_row(index),
                got=", ".join(item)[:200],
                likely=f"`{shown}` was meant to be `{wanted}`",
            )
        return FieldUnknown(f"field `{shown}` is not known", where=_row(index), likely=hint)


def parser_of(spec: SchemaSpec, by: Iterable[str], feature_names: Sequence[str]) -> RequestParser:
    """Return a model's parser; `feature_names` are the columns that are the features as they stand.

    Then a request must have the keys and these. Where there are none, a @features function may read any column.
    """
    every = (column.name for column in spec.request_columns)
    return RequestParser(spec, (*by, *feature_names) if feature_names else every)


def segments_of(rows: Rows, by: Sequence[str]) -> list[Segment]:
    """Return the segment of each row."""
    if not by:
        return [()] * len(rows)
    texts = [[key_text(value) for value in rows[name].tolist()] for name in by]
    return list(zip(*texts, strict=True))


def key_text(value: Any) -> str:
    """Return a key's value as the text that segments hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date) else str(value)


def as_json(value: Any) -> Any:
    """Return a value of a row as JSON has it."""
    plain = value.item() if hasattr(value, "item") else value
    return plain.isoformat() if isinstance(plain, date) else plain


def _row(index: int | None) -> str:
    return "" if index is None else f"row {index}"


def _refuse(column: Column, value: Any, index: int | None) -> FieldInvalid:
    return FieldInvalid(
        f"field `{column.name}` has an impossible value",
        where=_row(index),
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
    if type(value) is int and abs(value) < _INT64:
        value = float(value)
    if type(value) is not float or not math.isfinite(value) or not _in_range(column, value):
        raise _refuse(column, value, index)
    return value


def _int(column: Column, value: Any, index: int | None) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) >= _INT64 or not _in_range(column, value):
        raise _refuse(column, value, index)
    return value


def _bool(column: Column, value: Any, index: int | None) -> bool:
    if type(value) is not bool:
        raise _refuse(column, value, index)
    return value


def _str(column: Column, value: Any, index: int | None) -> str:
    if type(value) is not str:
        raise _refuse(column, value, index)
    return value


def _category(column: Column, value: Any, index: int | None) -> str:
    if type(value) is not str or value not in column.values:
        error = _refuse(column, value, index)
        raise FieldInvalid(error.what, **{**error.parts, "likely": did_you_mean(str(value), column.values)})
    return value


def _datetime(column: Column, value: Any, index: int | None) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _refuse(column, value, index) from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _date(column: Column, value: Any, index: int | None) -> date:
    try:
        return value if isinstance(value, date) else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise _refuse(column, value, index) from None


_CHECKS: dict[str, Callable[[Column, Any, int | None], Any]] = {
    "float": _float,
    "int": _int,
    "bool": _bool,
    "str": _str,
    "category": _category,
    "datetime": _datetime,
    "date": _date,
}
