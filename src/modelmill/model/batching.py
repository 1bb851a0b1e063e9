"""Declared batching: how many rows a `@predict` may be asked at once, and how long the first of them waits for others."""

from __future__ import annotations

import math

import msgspec

from modelmill.errors import DeclarationInvalid
from modelmill.model.conditions import parse_duration

_MOST_ROWS = 4096
_LONGEST_S = 1.0


class Batching(msgspec.Struct, frozen=True, array_like=True):
    """What the author of a model says of its rows: that its answer to one does not depend on those beside it."""

    rows: int
    """At most so many together."""
    wait_s: float = 0.0
    """For how long a request waits for others, at most, in seconds."""

    def __str__(self) -> str:
        waits = f"a request waits for others for up to {1000 * self.wait_s:g} ms" if self.wait_s else "nobody waits"
        return f"up to {self.rows:,} rows together, {waits}"


def read_batching(batch: int | None, wait: str, where: str) -> Batching | None:
    """Return what `predict(batch=64, wait="5ms")` declares, None where it declares nothing."""
    if batch is None:
        if wait:
            raise DeclarationInvalid("@predict waits for others only where `batch` says for how many", where=where)
        return None
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= _MOST_ROWS:
        raise DeclarationInvalid(
            f"`batch` is {batch!r}", where=where, expected=f"a number of rows from 1 to {_MOST_ROWS:,}"
        )
    try:
        seconds = parse_duration(wait).total_seconds() if wait else 0.0
    except DeclarationInvalid:  # it is told with its place
        seconds = math.inf
    if seconds > _LONGEST_S:
        raise DeclarationInvalid(f"`wait` is {wait!r}", where=where, expected='like "5ms", at most "1s"')
    return Batching(batch, seconds)
