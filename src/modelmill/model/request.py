"""Requests: strict types, ranges and names, so that a caller's mistake is told with its field.

A body of named fields is read twice at most. First by a decoder that msgspec compiles for the schema: what it accepts is
right. What it does not accept is read again value by value, to be told which field of which row is wrong - or to be
accepted, where the decoder is stricter than we are (a date may be written ``20240131``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from modelmill.errors import BodyUnreadable, FieldInvalid, FieldMissing, FieldUnknown, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.fitted import Floats, column_array, make_x
from modelmill.model.rows import Rows
from modelmill.model.schema import SchemaSpec
from modelmill.names import Segment, format_segment

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What reading JSON raises; a text that is no UTF-8 is noticed only where the text is read."""
_INT64 = 2**63
_WHOLE = re.compile(r"-?\d{1,18}")
_NAME_END = re.compile(rb'"\s*:')
_MOST_WHOLE = 1 << 1023
_MOST_ADDRESSES = 100_000
_TYPES: dict[str, Any] = {"float": float, "int": int, "bool": bool, "str": str, "date": date, "datetime": datetime}

Values = tuple[Any, ...]
"""One row: a plain value a request column, in the schema's order, then one a subject column; None where there is none."""


class Batch:
    """The rows of one request, checked: as plain values, or as one matrix of features."""

    def __init__(
        self, parser: RequestParser, values: Sequence[Values], x: Floats | None, keys: Sequence[Values]
    ) -> None:
        """Take rows as values, or, where `x` is given, as features; `keys` are the keys of each row then."""
        self._parser, self._values, self._x, self._keys = parser, values, x, keys

    def __len__(self) -> int:
        return len(self._values) if self._x is None else len(self._x)

    def segments(self) -> list[Segment]:
        """Return the segment of each row."""
        if not self._parser.by:
            return [()] * len(self)
        if self._x is not None:
            return [tuple([_text_of(value) for value in row]) for row in self._keys]
        return [self._parser.segment_of(row) for row in self._values]

    @cached_property
    def rows(self) -> Rows:
        """Return the rows as arrays."""
        parser = self._parser
        columns = parser.columns.values()
        if self._x is not None:
            return parser.rows_of_matrix(self._x, self._keys)
        parsed = {column.name: [row[place] for row in self._values] for place, column in enumerate(columns)}
        return Rows(
            {
                name: column_array(parser.columns[name], values)
                for name, values in parsed.items()
                if name in parser.required or any(value is not None for value in values)
            },
            len(self._values),
        )

    def features(self) -> Floats:
        """Return ``x``, (rows, features), for a model whose features are its columns as they stand."""
        if self._x is not None:
            return self._x
        places, codes = self._parser.feature_places, self._parser.codes
        if places is None:
            return make_x(None, self._parser.spec, self.rows)
        picked = [[row[place] for place in places] for row in self._values]
        for index, code_of in codes:
            for row in picked:
                row[index] = code_of.get(row[index])
        return np.array(picked, dtype=np.float64).reshape(len(picked), len(places))  # None becomes NaN

    def logged(self) -> bytes | Sequence[Values]:
        """Return the rows as the prediction log keeps them."""
        return self._values if self._x is None else self._x.astype("<f8", copy=False).tobytes()

    def objects(self) -> list[dict[str, Any]]:
        """Return the rows as objects of JSON, without their subjects."""
        if self._x is None:
            names = list(self._parser.columns)
            return [{n: as_json(v) for n, v in zip(names, row, strict=False) if v is not None} for row in self._values]
        rows = [self.rows.row(place) for place in range(len(self))]
        return [{name: as_json(value) for name, value in row.items() if value == value} for row in rows]  # noqa: PLR0124 - not NaN

    def take(self, places: Sequence[int]) -> Batch:
        """Return some of the rows."""
        if self._x is not None:
            return Batch(self._parser, (), self._x[list(places)], [self._keys[place] for place in places])
        return Batch(self._parser, [self._values[place] for place in places], None, ())


class RequestParser:
    """Turns requests into batches; made once a model, from nothing but its schema."""

    def __init__(self, spec: SchemaSpec, required: Iterable[str], by: Sequence[str] = ()) -> None:
        """Take the schema, the fields that may not be left out, and those that name the segment."""
        self.spec, self.by = spec, tuple(by)
        self.columns = {column.name: column for column in spec.request_columns}
        self.required = frozenset(required)
        self._subjects = {column.name: column for column in spec.with_role("subject")}
        self._accepted = self.columns.keys() | self._subjects.keys()
        self._checks = {name: _CHECKS[column.kind] for name, column in self.columns.items()}
        places = {name: place for place, name in enumerate(self.columns)}
        self.key_places = tuple(places[name] for name in self.by)
        self._times = tuple(place for place, c in enumerate(self.columns.values()) if c.kind == "datetime")
        plain = all(column.kind not in ("date", "datetime") for column in spec.features)
        self.feature_places = tuple(places[column.name] for column in spec.features) if plain else None
        self.codes = tuple(
            (index, {value: code for code, value in enumerate(column.values)})
            for index, column in enumerate(spec.features)
            if column.kind == "category"
        )

    # ---------------------------------------------------------------- named fields

    def read(self, body: bytes, address: Segment | None = None) -> tuple[Batch, bool]:
        """Return the rows of a body of named fields, and whether it was a list.

        `address` is the segment that stands in the address: rows need no keys then. Raises `BodyUnreadable`,
        `FieldMissing`, `FieldUnknown` or `FieldInvalid`, naming field and row.
        """
        found = self._read_fast(body, address)
        if found is not None:
            return found
        decoded = read_json(body)
        items = decoded if isinstance(decoded, list) else [decoded]
        if address is not None:
            items = [self.with_segment(address, item) for item in items]
        return Batch(self, self._parse_all(items), None, ()), isinstance(decoded, list)

    def _read_fast(self, body: bytes, address: Segment | None) -> tuple[Batch, bool] | None:
        """Return what `read` does where the compiled decoder accepts all of it, else None."""
        try:
            values = self.read_one(body, address)
            return None if values is None else (Batch(self, (values,), None, ()), False)
        except msgspec.ValidationError:
            return self._read_fast_list(body, address)
        except UNREADABLE:
            return None

    def read_one(self, body: bytes, address: Segment | None) -> Values | None:
        """Return the one object of a body; None, or an error of msgspec's, where it has to be read value by value."""
        values = self._plain(self._decode_one(body), address)
        if values is None or may_repeat(body, len(values) - values.count(None)):
            return None
        return values

    def convert_one(self, row: Mapping[str, Any], address: Segment | None) -> Values | None:
        """Return plain values by field as `read_one` does."""
        return self._plain(msgspec.convert(row, self._row_type), address)

    def segment_of(self, values: Values) -> Segment:
        """Return the segment of a row."""
        return tuple([_text_of(values[place]) for place in self.key_places])

    def _read_fast_list(self, body: bytes, address: Segment | None) -> tuple[Batch, bool] | None:
        try:
            items = self._decode_list(body)
        except UNREADABLE:
            return None
        rows = [self._plain(item, address) for item in items]
        found = [row for row in rows if row is not None]
        given = sum(len(row) - row.count(None) for row in found)
        if len(found) < len(rows) or may_repeat(body, given):
            return None
        return Batch(self, found, None, ()), True

    def _plain(self, item: msgspec.Struct, address: Segment | None) -> Values | None:
        """Return a decoded row as values; None where the slow way has to look at it."""
        values = msgspec.structs.astuple(item)
        if address is None and UNSET not in values and not self._times:
            return values
        changed = list(values)
        if address is not None and not self._fill(changed, address):
            return None
        for place in self._times:
            if isinstance(changed[place], datetime):
                changed[place] = _without_zone(changed[place])
        if any(changed[place] is UNSET for place in self.key_places):
            return None
        return tuple([None if value is UNSET else value for value in changed])

    def _fill(self, values: list[Any], address: Segment) -> bool:
        """Put the keys of the address into a row; return whether that row has none or the same."""
        keys = self._keys_at(address)
        if keys is None:
            return False
        for place, value in zip(self.key_places, keys, strict=True):
            if values[place] not in (UNSET, value):
                return False
            values[place] = value
        return True

    @cached_property
    def _keys_at(self) -> Callable[[Segment], Values | None]:
        return lru_cache(maxsize=_MOST_ADDRESSES)(self._find_keys)

    def _find_keys(self, address: Segment) -> Values | None:
        try:
            return self.keys_of(address)
        except BodyUnreadable:
            return None

    @cached_property
    def _row_type(self) -> type[msgspec.Struct]:
        fields: list[Any] = [(f"f{place}", *self._field(column)) for place, column in enumerate(self.columns.values())]
        names = {f"f{place}": name for place, name in enumerate(self.columns)}
        for place, (name, column) in enumerate(self._subjects.items()):
            fields.append((f"s{place}", _type_of(column) | None, None))
            names[f"s{place}"] = name
        return msgspec.defstruct("Row", fields, rename=names, kw_only=True, forbid_unknown_fields=True)

    def _field(self, column: Column) -> tuple[Any, ...]:
        kind = _type_of(column)
        if column.name in self.by:
            return kind | UnsetType, UNSET
        if column.nullable:
            return kind | None, None
        return (kind,) if column.name in self.required else (kind | UnsetType, UNSET)

    @cached_property
    def _decode_one(self) -> Callable[[bytes], msgspec.Struct]:
        return msgspec.json.Decoder(self._row_type).decode

    @cached_property
    def _decode_list(self) -> Callable[[bytes], list[msgspec.Struct]]:
        return msgspec.json.Decoder(list[self._row_type]).decode  # type: ignore[name-defined]

    def parse_rows(self, objects: Sequence[Mapping[str, Any]]) -> Rows:
        """Return rows of plain objects; raises `FieldMissing`, `FieldUnknown` or `FieldInvalid`, naming field and row."""
        return self.batch(objects).rows

    def batch(self, objects: Sequence[Mapping[str, Any]]) -> Batch:
        """Return plain objects as a batch; raises as `parse_rows` does."""
        return Batch(self, self._parse_all(objects), None, ())

    def _parse_all(self, objects: Sequence[Any]) -> list[Values]:
        return [self._parse(item, index if len(objects) > 1 else None) for index, item in enumerate(objects)]

    def with_segment(self, address: Segment, item: Any) -> Any:
        """Return a row with the keys of its address; raises where it has others."""
        if not isinstance(item, dict) or not address:
            return item
        keys = dict(zip(self.by, self.keys_of(address), strict=True))
        for name, value in keys.items():
            if item.get(name, value) != value:
                raise FieldInvalid(
                    f"field `{name}` differs from the address", expected=repr(value)[:80], got=repr(item[name])[:80]
                )
        return keys | item

    def keys_of(self, address: Segment) -> Values:
        """Return the keys that an address names, typed as the schema says."""
        if len(address) != len(self.by):
            raise BodyUnreadable(
                f"`{format_segment(address)}` is no segment of this model", expected=", ".join(self.by)
            )
        return tuple(key_of_text(self.columns[name], text) for name, text in zip(self.by, address, strict=True))

    # ---------------------------------------------------------------- columns

    def of_columns(self, columns: Mapping[str, Sequence[Any]], address: Segment | None) -> Batch:
        """Return rows that are given column by column, NaN for a missing value; raises as `read` does."""
        given = {name: [None if value != value else value for value in values] for name, values in columns.items()}  # noqa: PLR0124
        rows = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
        if address is not None:
            rows = [self.with_segment(address, row) for row in rows]
        return self.batch(rows)

    def check_keys(self, columns: Mapping[str, Sequence[Any]]) -> list[Values]:
        """Return the keys of each row, given column by column; raises `FieldInvalid` naming field and row."""
        several = len(next(iter(columns.values()))) > 1
        checked = [
            [
                self._checks[name](self.columns[name], value, row if several else None)
                for row, value in enumerate(columns[name])
            ]
            for name in self.by
        ]
        return list(zip(*checked, strict=True))

    @cached_property
    def takes_matrix(self) -> bool:
        """Whether a request may be one matrix: all features are numbers, and nothing else but the keys is asked."""
        numbers = all(column.kind in ("float", "int", "bool") for column in self.spec.features)
        others = self.required - {column.name for column in self.spec.features} - set(self.by)
        return numbers and bool(self.spec.features) and not others

    def of_matrix(self, x: Floats, keys: Sequence[Values]) -> Batch:
        """Return rows given as (rows, features); raises `FieldInvalid` naming field and row."""
        if self.is_outside(x):
            row, place = np.argwhere(self._limits.broken(x))[0].tolist()
            raise _refuse(self.spec.features[place], x[row, place].item(), row if len(x) > 1 else None)
        return Batch(self, (), x, keys)

    @cached_property
    def has_promises(self) -> bool:
        """Whether a feature promises more than to be a number."""
        return self._limits.any

    def is_outside(self, x: Floats) -> bool:
        """Return whether a value of a matrix breaks its column's promise."""
        limits = self._limits
        # Whatever is infinite or missing makes the sum so: one look at all values, where most are as they should be.
        looked_at = limits.any or not math.isfinite(x.sum())
        return looked_at and bool(limits.broken(x).any())

    @cached_property
    def _limits(self) -> _Limits:
        return _Limits(self.spec.features)

    def rows_of_matrix(self, x: Floats, keys: Sequence[Values]) -> Rows:
        """Return the rows of a matrix as arrays, each of its column's type."""
        arrays: dict[str, NDArray[Any]] = {}
        for place, column in enumerate(self.spec.features):
            values = x[:, place]
            whole = np.bool_ if column.kind == "bool" else np.int64
            arrays[column.name] = values if column.kind == "float" or column.nullable else values.astype(whole)
        for place, name in enumerate(self.by):
            arrays[name] = column_array(self.columns[name], [row[place] for row in keys])
        return Rows(arrays, len(x))

    def example(self, typical: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request that the parser accepts, from a typical row."""
        return {name: as_json(typical.get(name)) for name in self.columns if name in self.required}

    def _parse(self, item: Mapping[str, Any], index: int | None) -> Values:
        if not isinstance(item, dict):
            raise FieldInvalid("a row is a JSON object", got=type(item).__name__, where=_row(index))
        if not self._allowed(item):
            raise self._unknown(item, index)
        values = []
        for name, column in self.columns.items():
            value = item.get(name)
            if value is None:
                self._check_absent(name, column, item, index)
            values.append(None if value is None else self._checks[name](column, value, index))
        for name, column in self._subjects.items():
            value = item.get(name)
            values.append(None if value is None else _CHECKS[column.kind](column, value, index))
        return tuple(values)

    def _allowed(self, item: Mapping[str, Any]) -> bool:
        return item.keys() <= self.columns.keys() or item.keys() <= self._accepted

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
        name = next(n for n in item if n not in self._accepted)
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


class _Limits:
    """What features promise, as arrays over columns."""

    def __init__(self, features: Sequence[Column]) -> None:
        lows = [c.ge if c.ge is not None else _above(c.gt) for c in features]
        highs = [c.le if c.le is not None else _below(c.lt) for c in features]
        self.low, self.high = np.array(lows), np.array(highs)
        self.nullable = np.array([column.nullable for column in features], dtype=np.bool_)
        self.whole = np.array([column.kind in ("int", "bool") for column in features], dtype=np.bool_)
        truths = np.array([column.kind == "bool" for column in features], dtype=np.bool_)
        self.low[truths], self.high[truths] = 0.0, 1.0
        self.any = bool(self.whole.any() or np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def broken(self, x: Floats) -> NDArray[np.bool_]:
        """Return which values break a promise."""
        missing = np.isnan(x)
        fraction = self.whole & (x != np.floor(x)) & ~missing
        found: NDArray[np.bool_] = missing & ~self.nullable | np.isinf(x) | (x < self.low) | (x > self.high) | fraction
        return found


def _above(bound: float | None) -> float:
    return -math.inf if bound is None else math.nextafter(bound, math.inf)


def _below(bound: float | None) -> float:
    return math.inf if bound is None else math.nextafter(bound, -math.inf)


def read_json(body: bytes) -> Any:
    """Return a body of JSON; raises `BodyUnreadable` where it is none, or names a field twice."""
    try:
        decoded = msgspec.json.decode(body)
    except UNREADABLE as error:
        raise BodyUnreadable("the body is not valid JSON", got=str(error)[:200]) from None
    refuse_duplicates(body)
    return decoded


def may_repeat(body: bytes, names: int) -> bool:
    """Return whether objects of valid JSON, in which so many different names were found, may name a field twice.

    Each name has a colon, and a quotation mark before it: where there are no more of those, nothing stands twice.
    """
    return body.count(b":") > names and len(_NAME_END.findall(body)) > names


def refuse_duplicates(body: bytes) -> None:
    """Raise `BodyUnreadable` where an object of valid JSON names a field twice: which of them is meant?"""
    try:
        json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # a decoder of fewer fields did not look at all of it
        raise BodyUnreadable("the body is not valid JSON", got=str(error)[:200]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BodyUnreadable(f"`{twice[:80]}` stands twice in one object")
    return found


def _type_of(column: Column) -> Any:
    """Return the type by which msgspec checks a column's values, its range included."""
    if column.kind == "category":
        return Literal[column.values]
    kind = _TYPES[column.kind]
    if column.kind not in ("int", "float"):
        return kind
    bounds = {name: getattr(column, name) for name in ("ge", "gt", "le", "lt") if getattr(column, name) is not None}
    if column.kind == "int":
        bounds = {name: math.ceil(b) if name in ("ge", "lt") else math.floor(b) for name, b in bounds.items()}
        if "ge" not in bounds and "gt" not in bounds:
            bounds["gt"] = -_INT64
        if "le" not in bounds and "lt" not in bounds:
            bounds["le"] = _INT64 - 1
    return Annotated[kind, msgspec.Meta(**bounds)]


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


def parser_of(spec: SchemaSpec, by: Iterable[str], feature_names: Sequence[str]) -> RequestParser:
    """Return a model's parser; `feature_names` are the columns that are the features as they stand.

    Then a request must have the keys and these. Where there are none, a @features function may read any column.
    """
    every = (column.name for column in spec.request_columns)
    keys = tuple(by)
    return RequestParser(spec, (*keys, *feature_names) if feature_names else every, keys)


def _text_of(value: Any) -> str:
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
    if type(value) is int and abs(value) < _MOST_WHOLE:
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
    return _without_zone(moment)


def _without_zone(moment: datetime) -> datetime:
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
