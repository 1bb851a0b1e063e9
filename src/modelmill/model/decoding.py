"""The fast way from a body to rows: a decoder that msgspec compiles for a schema; what it accepts is right.

What it does not accept is told by None, or by an error of msgspec's: then it is read value by value, to be told which field of
which row is wrong - or to be accepted, where the decoder is stricter than we are (a date may be written ``20240131``).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from modelmill.errors import BodyUnreadable
from modelmill.model.columns import Column
from modelmill.model.values import INT64, without_zone
from modelmill.names import Segment

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What reading JSON raises; a text that is no UTF-8 is noticed only where the text is read."""
_NAME_END = re.compile(rb'"\s*:')
_MOST_ADDRESSES = 100_000
MOST_ROWS = 100_000
_MOST_PARTS = 4 * MOST_ROWS
_LARGE_BYTES = 1 << 20
_TYPES: dict[str, Any] = {"float": float, "int": int, "bool": bool, "str": str, "date": date, "datetime": datetime}

Values = tuple[Any, ...]
"""One row: a plain value a request column, in the schema's order, then one a subject column; None where there is none."""


class RowDecoder:
    """Reads rows of named fields by a compiled decoder; made once a model."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        subjects: Mapping[str, Column],
        required: frozenset[str],
        by: tuple[str, ...],
        keys_of: Callable[[Segment], Values],
    ) -> None:
        """Take the columns of a request, the fields that may not be left out, the keys, and what types those of an address."""
        self._columns, self._subjects, self._required, self._by = columns, subjects, required, by
        self._keys_of = keys_of
        places = {name: place for place, name in enumerate(columns)}
        self.key_places = tuple(places[name] for name in by)
        self._times = tuple(place for place, c in enumerate(columns.values()) if c.kind == "datetime")

    def one(self, body: bytes, address: Segment | None) -> Values | None:
        """Return the one object of a body; None, or an error of msgspec's, where it has to be read value by value."""
        values = self._plain(self._decode_one(body), address)
        if values is None or may_repeat(body, len(values) - values.count(None)):
            return None
        return values

    def many(self, body: bytes, address: Segment | None) -> list[Values] | None:
        """Return the objects of a list as `one` does."""
        rows = [self._plain(item, address) for item in self._decode_list(body)]
        found = [row for row in rows if row is not None]
        given = sum(len(row) - row.count(None) for row in found)
        return None if len(found) < len(rows) or may_repeat(body, given) else found

    def convert(self, row: Mapping[str, Any], address: Segment | None) -> Values | None:
        """Return plain values by field as `one` does."""
        return self._plain(msgspec.convert(row, self._row_type), address)

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
                changed[place] = without_zone(changed[place])
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
            return self._keys_of(address)
        except BodyUnreadable:
            return None

    @cached_property
    def _row_type(self) -> type[msgspec.Struct]:
        fields: list[Any] = [(f"f{place}", *self._field(column)) for place, column in enumerate(self._columns.values())]
        names = {f"f{place}": name for place, name in enumerate(self._columns)}
        for place, (name, column) in enumerate(self._subjects.items()):
            fields.append((f"s{place}", _type_of(column) | None, None))
            names[f"s{place}"] = name
        return msgspec.defstruct("Row", fields, rename=names, kw_only=True, forbid_unknown_fields=True)

    def _field(self, column: Column) -> tuple[Any, ...]:
        kind = _type_of(column)
        if column.name in self._by:
            return kind | UnsetType, UNSET
        if column.nullable:
            return kind | None, None
        return (kind,) if column.name in self._required else (kind | UnsetType, UNSET)

    @cached_property
    def _decode_one(self) -> Callable[[bytes], msgspec.Struct]:
        return msgspec.json.Decoder(self._row_type).decode

    @cached_property
    def _decode_list(self) -> Callable[[bytes], list[msgspec.Struct]]:
        return msgspec.json.Decoder(list[self._row_type]).decode  # type: ignore[name-defined]


def read_json(body: bytes) -> Any:
    """Return a body of JSON; raises `BodyUnreadable` where it is none, names a field twice, or has too many rows."""
    refuse_too_many(body)
    try:
        decoded = msgspec.json.decode(body)
    except UNREADABLE as error:
        raise BodyUnreadable("the body is not valid JSON", got=str(error)[:200]) from None
    refuse_duplicates(body)
    return decoded


def refuse_too_many(body: bytes) -> None:
    """Raise `BodyUnreadable` for a large body of more objects and lists than rows need: each takes 20 times its bytes."""
    if len(body) > _LARGE_BYTES and body.count(b"{") + body.count(b"[") > _MOST_PARTS:
        raise BodyUnreadable(f"a request has 1 to {MOST_ROWS} rows")


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
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
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
            bounds["gt"] = -INT64
        if "le" not in bounds and "lt" not in bounds:
            bounds["le"] = INT64 - 1
    return Annotated[kind, msgspec.Meta(**bounds)]
