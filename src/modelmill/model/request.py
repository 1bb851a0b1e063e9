"""Requests: strict types, ranges and names, so that a caller's mistake is told with its field.

A body of named fields is read twice at most: by the compiled decoder of `decoding`, and then, where that does not accept it,
value by value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.errors import BodyUnreadable, FieldInvalid, FieldMissing, FieldUnknown, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.decoding import UNREADABLE, RowDecoder, Values, read_json, refuse_too_many
from modelmill.model.fitted import Floats, column_array, make_x
from modelmill.model.rows import Rows
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import CHECKS, as_json, key_of_text, refuse, row_text, text_of
from modelmill.names import Parent, Segment, format_segment

_pack = msgspec.msgpack.Encoder().encode
_AS_JSON = frozenset({float, int, str, bool})


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
            return [tuple([text_of(value) for value in row]) for row in self._keys]
        return [self._parser.segment_of(row) for row in self._values]

    def texts(self, names: Sequence[str]) -> list[tuple[str | None, ...]]:
        """Return the values of some key columns of each row as segments hold them; None where a row does not have them."""
        if self._x is not None or not names:
            return [(None,) * len(names)] * len(self)
        places = [list(self._parser.columns).index(name) for name in names]
        return [tuple([None if row[p] is None else text_of(row[p]) for p in places]) for row in self._values]

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
            return [_object_of(names, row) for row in self._values]
        rows = [self.rows.row(place) for place in range(len(self))]
        return [{name: as_json(value) for name, value in row.items() if value == value} for row in rows]  # noqa: PLR0124 - not NaN

    def identities(self, places: Sequence[int]) -> list[bytes]:
        """Return a few bytes that stand for each row: its values at some places, or its features where it has only these."""
        if self._x is not None:
            keys = self._keys or [()] * len(self._x)
            return [identity_of((*key, row.tobytes()), None) for key, row in zip(keys, self._x, strict=True)]
        return [identity_of(row, places) for row in self._values]

    def take(self, places: Sequence[int]) -> Batch:
        """Return some of the rows."""
        if self._x is not None:
            return Batch(self._parser, (), self._x[list(places)], [self._keys[place] for place in places])
        return Batch(self._parser, [self._values[place] for place in places], None, ())


def _object_of(names: Sequence[str], row: Values) -> dict[str, Any]:
    if _AS_JSON.issuperset(map(type, row)):  # most rows: nothing is left out, nothing changed
        return dict(zip(names, row, strict=False))
    return {name: as_json(value) for name, value in zip(names, row, strict=False) if value is not None}


def identity_of(values: Values, places: Sequence[int] | None) -> bytes:
    """Return bytes that stand for some of a row's values."""
    return _pack(values if places is None else [values[place] for place in places])


class RequestParser:
    """Turns requests into batches; made once a model, from nothing but its schema."""

    def __init__(self, spec: SchemaSpec, required: Iterable[str], by: Sequence[str] = ()) -> None:
        """Take the schema, the fields that may not be left out, and those that name the segment."""
        self.spec, self.by = spec, tuple(by)
        self.columns = {column.name: column for column in spec.request_columns}
        self.required = frozenset(required)
        self._subjects = {column.name: column for column in spec.with_role("subject")}
        self._accepted = self.columns.keys() | self._subjects.keys()
        self._checks = {name: CHECKS[column.kind] for name, column in self.columns.items()}
        places = {name: place for place, name in enumerate(self.columns)}
        self._decoder = RowDecoder(self.columns, self._subjects, self.required, self.by, self.keys_of)
        self.read_one, self.convert_one = self._decoder.one, self._decoder.convert
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
        refuse_too_many(body)
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

    def _read_fast_list(self, body: bytes, address: Segment | None) -> tuple[Batch, bool] | None:
        try:
            found = self._decoder.many(body, address)
        except UNREADABLE:
            return None
        return None if found is None else (Batch(self, found, None, ()), True)

    def segment_of(self, values: Values) -> Segment:
        """Return the segment of a row."""
        return tuple([text_of(values[place]) for place in self._decoder.key_places])

    def parse_rows(self, objects: Sequence[Mapping[str, Any]]) -> Rows:
        """Return rows of plain objects; raises `FieldMissing`, `FieldUnknown` or `FieldInvalid`, naming field and row."""
        return self.batch(objects).rows

    def rows_again(self, objects: Sequence[Mapping[str, Any]]) -> Rows:
        """Return rows of plain objects that a parser of the same schema has accepted: they are not looked at so closely."""
        try:
            values = [self.convert_one(item, None) for item in objects]
        except msgspec.ValidationError:
            return self.parse_rows(objects)
        accepted = [row for row in values if row is not None]
        return Batch(self, accepted, None, ()).rows if len(accepted) == len(values) else self.parse_rows(objects)

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
        if len(address) != len(self.by) or isinstance(address, Parent):
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
            raise refuse(self.spec.features[place], x[row, place].item(), row if len(x) > 1 else None)
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
            raise FieldInvalid("a row is a JSON object", got=type(item).__name__, where=row_text(index))
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
            values.append(None if value is None else CHECKS[column.kind](column, value, index))
        return tuple(values)

    def _allowed(self, item: Mapping[str, Any]) -> bool:
        return item.keys() <= self.columns.keys() or item.keys() <= self._accepted

    def _check_absent(self, name: str, column: Column, item: Mapping[str, Any], index: int | None) -> None:
        if name in item and (column.nullable or name not in self.required):
            return
        if name in item:
            raise FieldInvalid(f"field `{name}` is null", where=row_text(index), expected=column.rule())
        if name in self.required and not column.nullable:
            raise FieldMissing(
                f"field `{name}` is missing",
                where=row_text(index),
                got=", ".join(item),
                expected=", ".join(self.columns),
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
                where=row_text(index),
                got=", ".join(item)[:200],
                likely=f"`{shown}` was meant to be `{wanted}`",
            )
        return FieldUnknown(f"field `{shown}` is not known", where=row_text(index), likely=hint)


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


def parser_of(spec: SchemaSpec, by: Iterable[str], feature_names: Sequence[str]) -> RequestParser:
    """Return a model's parser; `feature_names` are the columns that are the features as they stand.

    Then a request must have the keys and these. Where there are none, a @features function may read any column.
    """
    every = (column.name for column in spec.request_columns)
    keys = tuple(by)
    return RequestParser(spec, (*keys, *feature_names) if feature_names else every, keys)
