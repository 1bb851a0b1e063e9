"""Pages that go on where the last one ended: the cursor holds the key of its last row, so page 1,000 costs what page 1 does."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Generic, TypeVar

import msgspec

from modelmill.errors import UsageError

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and the cursor that the next page begins after; None when this was the last."""

    items: tuple[T, ...]
    after: str | None = None


def write_cursor(*key: Any) -> str:
    """Return a key as text that can stand in a URL."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(key)).decode().rstrip("=")


def read_cursor(text: str, kinds: tuple[type, ...]) -> list[Any]:
    """Return the key that `write_cursor` wrote, its parts of these kinds; anything else is the caller's mistake."""
    try:
        key = msgspec.msgpack.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=list[Any])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise _not_ours(text) from error
    # It comes back from a URL: a text where a number belongs would reach the database.
    if [type(part) for part in key] != list(kinds):
        raise _not_ours(text)
    return key


def _not_ours(text: str) -> UsageError:
    return UsageError("the cursor is not one of this listing", got=text[:80], expected="the `after` of the page before")
