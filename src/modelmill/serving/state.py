"""What each worker of a node has applied and answered, as a few shared bytes that any worker can read."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

_SLOT = struct.Struct("<qqqqq")
MOST_WORKERS = 64
SIZE = _SLOT.size * MOST_WORKERS


class WorkerState(NamedTuple):
    """One worker; `revision` is -1 until it has applied something."""

    pid: int
    revision: int
    requests: int
    errors: int
    models: int


class NodeState:
    """The slots of all workers of a node, in memory that they share."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory file that the parent made."""
        self._memory = mmap.mmap(descriptor, SIZE)

    def write(self, slot: int, state: WorkerState) -> None:
        """Replace one worker's state."""
        _SLOT.pack_into(self._memory, slot * _SLOT.size, *state)

    def at(self, slot: int) -> WorkerState:
        """Return the state in one slot."""
        return WorkerState(*_SLOT.unpack_from(self._memory, slot * _SLOT.size))

    def read(self) -> list[WorkerState]:
        """Return the workers that live."""
        states = [self.at(slot) for slot in range(MOST_WORKERS)]
        return [state for state in states if state.pid]


def make_state() -> int:
    """Return the descriptor of a fresh memory file for a node's state."""
    descriptor = os.memfd_create("modelmill-node")
    os.ftruncate(descriptor, SIZE)
    return descriptor
