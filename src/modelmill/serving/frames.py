"""What a node and the process of a model say to each other: frames of msgpack over one socket, each behind its length.

Both sides may be of different versions of modelmill. Nothing here opens a model.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np

from modelmill.names import Digest
from modelmill.release.pointers import Pointer

HEADER = struct.Struct("<I")
PROTOCOL = 1
"""What both sides speak. A child may be of another modelmill than its node, that of its version's environment: with any
change of what the frames mean, this number changes. The setup stays a map, of which an older child reads what it knows, and
the number stays where it is in what is told."""
ENDS = -1
"""Told instead of a number of requests by a child that ends between two of them: what else has come is for its successor."""
OUT_OF_MEMORY = 77
"""The exit code of a child that has grown to its limit."""


class ChildSetup(msgspec.Struct, frozen=True):
    """What a child is started with."""

    store: str
    cache: str
    pointer: Pointer
    code: Digest
    parent: int
    is_shadow: bool = False
    """Whether nobody waits for its answers."""
    lock: Digest | None = None
    """That of versions whose packages this child has: it opens one of them before it is asked."""
    memory_mb: int = 0
    """What the process may have of its own; 0 for as much as there is."""
    protocol: int = PROTOCOL
    """What the node speaks."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """One request to a child."""

    key: str
    """The segment of the entry that is asked, as it is written."""
    rows: list[dict[str, Any]]
    alone: bool = False
    """Whether it is answered by itself: it was among others at which the child ended."""
    until: float = 0.0
    """When its caller waits no more, as `serving.waiting` has it."""

    @property
    def kind(self) -> tuple[str, frozenset[str]] | None:
        """Return what requests have in common that may be answered together: the model, and which fields are given."""
        given = {frozenset(row) for row in self.rows}
        return (self.key, given.pop()) if len(given) == 1 and not self.alone else None


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One answer of a child: numbers with their shape, or an error's class, code, sentence and parts.

    Or that so many of the next requests are now answered `together`, which is no answer; `ENDS` where none will be.
    """

    numbers: bytes = b""
    shape: tuple[int, ...] = ()
    error: dict[str, Any] | None = None
    together: int = 0
    protocol: int = 0
    """In the first frame, what the child speaks; 0 of one that is older than these numbers."""
    is_late: bool = False
    """Whether the model was not asked, since the caller waits no more."""


def numbers_of(told: Told) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the answers that a child told."""
    return np.frombuffer(told.numbers, dtype="<f8").reshape(told.shape)
