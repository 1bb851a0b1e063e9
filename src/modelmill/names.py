"""The small frozen values that every room speaks: digests, model names, segments, version ids.

A segment is a tuple of texts, one a key column. It is written ``arrival-delay[UA,ORD]``, on the command line
and in a URL alike; every character outside ``A-Z a-z 0-9 . _ ~ -`` and non-ASCII letters is percent-encoded, so
``New York`` is written ``New%20York``. The empty tuple is the pooled model, written ``arrival-delay[pooled]``; a
segment whose only value is the word `pooled` is written ``%70ooled``. A parent, the model of a level's value, is written with
the names of its columns, ``arrival-delay[carrier=UA]``: in a segment's value the equals sign is percent-encoded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple, NewType, Self
from urllib.parse import quote, unquote

from modelmill.errors import NameInvalid

Digest = NewType("Digest", str)
"""64 lower-case hexadecimal digits: the SHA-256 of some bytes."""

ModelName = NewType("ModelName", str)

Segment = tuple[str, ...]
"""The values of a fleet's key columns as text; empty for the pooled model."""


class Parent(tuple[str, ...]):
    """A value of a level, such as ``("carrier=UA",)``: its model is fitted from all rows that have it.

    A tuple of texts like a segment, and stored where segments are, but never equal to one, whatever texts that holds.
    """

    __slots__ = ()

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """Return the parent that has these values, column by column."""
        return cls(f"{name}={value}" for name, value in values.items())

    def values(self) -> dict[str, str]:
        """Return its values by column."""
        return {name: value for name, _, value in (part.partition("=") for part in self)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parent) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Parent, *self))


POOLED: Segment = ()
POOLED_WORD = "pooled"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PLAIN = re.compile(r"[A-Za-z0-9._~-]*")
_TARGET = re.compile(r"(?P<model>[^\[\]]+)(?:\[(?P<key>[^\[\]]*)\])?")


class VersionId(NamedTuple):
    """One immutable fitted result: ``arrival-delay[UA,ORD] 3``."""

    model: ModelName
    segment: Segment
    number: int

    def __str__(self) -> str:
        return f"{format_target(self.model, self.segment)} {self.number}"


def digest_of(content: bytes | memoryview) -> Digest:
    """Return the SHA-256 of `content`."""
    return Digest(hashlib.sha256(content).hexdigest())


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest; anything but 64 lower-case hexadecimal digits is refused."""
    if not _DIGEST.fullmatch(text):
        raise NameInvalid(f"`{text[:80]}` is not a digest", expected="64 lower-case hexadecimal digits")
    return Digest(text)


def parse_model_name(text: str) -> ModelName:
    """Return `text` as a model's name: lower-case letters, digits and hyphens, at most 63."""
    if not _MODEL_NAME.fullmatch(text):
        raise NameInvalid(
            f"`{text[:80]}` is not a model name", expected="lower-case letters, digits and hyphens, at most 63"
        )
    return ModelName(text)


def format_segment(segment: Segment) -> str:
    """Return the one canonical text of a segment: ``UA,ORD``."""
    if not segment:
        return POOLED_WORD
    if isinstance(segment, Parent):
        return ",".join(f"{_quote_value(name)}={_quote_value(value)}" for name, value in segment.values().items())
    text = ",".join(_quote_value(value) for value in segment)
    return "%70ooled" if text == POOLED_WORD else text


def parse_segment(text: str) -> Segment:
    """Return the segment that `format_segment` wrote as `text`."""
    if text == POOLED_WORD:
        return POOLED
    parts = text.split(",")
    if "=" in text:
        return _parse_parent(text, parts)
    return tuple(unquote(part, errors="strict") for part in parts) if "%" in text else tuple(parts)


def _parse_parent(text: str, parts: list[str]) -> Parent:
    pairs = [part.partition("=") for part in parts]
    values = {unquote(name, errors="strict"): unquote(value, errors="strict") for name, _, value in pairs}
    if len(values) < len(pairs) or not all(equals and name for name, equals, _ in pairs):
        raise NameInvalid(
            f"`{text[:80]}` is no segment",
            expected="values alone, or a level's columns with their values, such as carrier=UA",
            next="write an equals sign that belongs to a value as %3D",
        )
    return Parent.of(values)


def is_shared(segment: Segment) -> bool:
    """Return whether the model of this name is fitted from several segments' rows: the pooled model, or a parent."""
    return not segment or isinstance(segment, Parent)


def format_target(model: str, segment: Segment | None = None) -> str:
    """Return ``model`` or ``model[segment]``."""
    return model if segment is None else f"{model}[{format_segment(segment)}]"


def parse_target(text: str) -> tuple[ModelName, Segment | None]:
    """Split ``model[segment]``; the segment is None where none was written."""
    match = _TARGET.fullmatch(text)
    if not match:
        raise NameInvalid(f"`{text[:80]}` is not written as a model", expected="`model` or `model[value,value]`")
    key = match["key"]
    try:
        return parse_model_name(match["model"]), None if key is None else parse_segment(key)
    except UnicodeDecodeError as error:
        raise NameInvalid(f"`{text[:80]}` holds an impossible percent-encoding") from error


def _quote_value(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "".join(c if ord(c) > 127 and c.isalnum() else quote(c, safe="-._~") for c in value)
