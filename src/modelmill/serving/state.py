"""What each worker of a node has applied and answered, as a few shared bytes that any worker can read."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from modelmill.serving.meters import CLASSES

_SLOT = struct.Struct(f"<8q{CLASSES}q{CLASSES}q")
_NUMBERS = 8
MOST_WORKERS = 64
SIZE = _SLOT.size * (MOST_WORKERS + 1)
_RETIRED = MOST_WORKERS
"""The slot in which the counts of workers that have ended are added up: a counter never goes back."""


class WorkerState(NamedTuple):
    """One worker."""

    pid: int = 0
    """0 in a slot that nobody has."""
    revision: int = -1
    """-1 until it has applied something."""
    answered: int = 0
    refused: int = 0
    failed: int = 0
    models: int = 0
    opened: int = 0
    """Packed models that were asked, and therefore opened."""
    window_ms: int = 0
    """Over which time the recent latencies were counted."""
    recent: tuple[int, ...] = (0,) * CLASSES
    """Requests by class of their latency, see `meters`."""
    latencies: tuple[int, ...] = (0,) * CLASSES
    """The same since the worker began."""

    @property
    def requests(self) -> int:
        """Return how many requests it was sent."""
        return self.answered + self.refused + self.failed


FREE = WorkerState()


class NodeState:
    """The slots of all workers of a node, in memory that they share."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory file that the parent made."""
        self._memory = mmap.mmap(descriptor, SIZE)

    def write(self, slot: int, state: WorkerState) -> None:
        """Replace one worker's state."""
        numbers = (*state[:_NUMBERS], *state.recent, *state.latencies)
        _SLOT.pack_into(self._memory, slot * _SLOT.size, *numbers)

    def retire(self, slot: int) -> None:
        """Free the slot of a worker that has ended, and keep what it counted."""
        ended, kept = self.at(slot), self.retired()
        counts = {name: getattr(ended, name) + getattr(kept, name) for name in ("answered", "refused", "failed")}
        latencies = tuple(one + other for one, other in zip(ended.latencies, kept.latencies, strict=True))
        self.write(_RETIRED, FREE._replace(**counts, latencies=latencies))
        self.write(slot, FREE)

    def retired(self) -> WorkerState:
        """Return what all workers that have ended counted."""
        return self.at(_RETIRED)

    def at(self, slot: int) -> WorkerState:
        """Return the state in one slot."""
        numbers = _SLOT.unpack_from(self._memory, slot * _SLOT.size)
        end = _NUMBERS + CLASSES
        return WorkerState(*numbers[:_NUMBERS])._replace(recent=numbers[_NUMBERS:end], latencies=numbers[end:])

    def read(self) -> list[WorkerState]:
        """Return the workers that live."""
        return list(self._living())

    def _living(self) -> Iterator[WorkerState]:
        for slot in range(MOST_WORKERS):
            if _PID.unpack_from(self._memory, slot * _SLOT.size)[0]:
                yield self.at(slot)


_PID = struct.Struct("<q")


def make_state() -> int:
    """Return the descriptor of a fresh memory file for a node's state."""
    descriptor = os.memfd_create("modelmill-node")
    os.ftruncate(descriptor, SIZE)
    memory = NodeState(descriptor)
    for slot in range(MOST_WORKERS + 1):
        memory.write(slot, FREE)
    return descriptor
