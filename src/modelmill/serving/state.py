"""What each worker of a node has applied and answered, as a few shared bytes that any worker can read."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modelmill.serving.meters import CLASSES
from modelmill.serving.waiting import REASONS

_SLOT = struct.Struct(f"<8q{CLASSES}q{CLASSES}q")
_NUMBERS = 8
MOST_WORKERS = 64
_COUNTS = struct.Struct("<3q")
_COUNTS_AT = _SLOT.size * (MOST_WORKERS + 1)
_CHILDREN = struct.Struct("<3q")
_CHILDREN_AT = _COUNTS_AT + _COUNTS.size * (MOST_WORKERS + 1)
"""Behind what earlier versions have: a node that takes over finds theirs where it was."""
_REFUSED = struct.Struct(f"<{len(REASONS)}q")
_REFUSED_AT = _CHILDREN_AT + _CHILDREN.size * (MOST_WORKERS + 1)
_SHELF = struct.Struct("<6q")
_SHELF_AT = _REFUSED_AT + _REFUSED.size * (MOST_WORKERS + 1)
_BROKEN = struct.Struct("<q")
_BROKEN_AT = _SHELF_AT + _SHELF.size * (MOST_WORKERS + 1)
SIZE = _BROKEN_AT + _BROKEN.size * MOST_WORKERS
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
    """Models that were asked, and are open in its process."""
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


class LogCounts(NamedTuple):
    """How many records of the prediction log there were."""

    accepted: int = 0
    written: int = 0
    dropped: int = 0

    @property
    def lost(self) -> int:
        """Return how many a worker that has ended took with it: they were neither written nor dropped."""
        return self.accepted - self.written - self.dropped


class ChildCounts(NamedTuple):
    """What became of the processes that run Python for a worker."""

    ended: int = 0
    """Those that ended although nobody had wanted it."""
    over_memory: int = 0
    """Those of them that had grown to their limit."""
    quarantined: int = 0
    """Those that are not started now, after they have ended again and again."""


class ShelfCounts(NamedTuple):
    """What a worker holds of models that have to be opened, and what became of them; see `shelf`."""

    opened: int = 0
    used: int = 0
    """Bytes, as they were measured of all together."""
    limit: int = 0
    """Bytes; 0 for none."""
    loads: int = 0
    waits: int = 0
    """Requests that waited for a model that another was having opened."""
    evictions: int = 0

    def after(self, ended: ShelfCounts) -> ShelfCounts:
        """Return these with what another has counted that holds nothing any more."""
        counted = {name: getattr(self, name) + getattr(ended, name) for name in ("loads", "waits", "evictions")}
        return self._replace(**counted)


class NodeState:
    """The slots of all workers of a node, in memory that they share."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory file that the parent made."""
        if os.fstat(descriptor).st_size < SIZE:  # made by an earlier version, of which this one took over
            os.ftruncate(descriptor, SIZE)
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
        cells = self.log_cells(_RETIRED)
        for place, count in enumerate(self.log_at(slot)):
            cells[place] += count
        self.clear_log(slot)
        gone, before = self._children_at(slot), self._children_at(_RETIRED)
        self.write_children(_RETIRED, ChildCounts(gone.ended + before.ended, gone.over_memory + before.over_memory))
        self.write_children(slot, ChildCounts())
        self.write_refused(_RETIRED, _added(self._refused_at(_RETIRED), self._refused_at(slot)))
        self.write_refused(slot, {})
        self.write_shelf(_RETIRED, self.shelf_at(_RETIRED).after(self.shelf_at(slot)))
        self.write_shelf(slot, ShelfCounts())
        self.write_broken(slot, 0)

    def write_broken(self, slot: int, count: int) -> None:
        """Replace how many models one worker cannot open."""
        _BROKEN.pack_into(self._memory, _BROKEN_AT + slot * _BROKEN.size, count)

    def broken(self) -> dict[int, int]:
        """Return how many models each worker cannot open, by its pid."""
        return {
            self.at(slot).pid: _BROKEN.unpack_from(self._memory, _BROKEN_AT + slot * _BROKEN.size)[0]
            for slot in self._slots()
        }

    def write_children(self, slot: int, counts: ChildCounts) -> None:
        """Replace what one worker's children have come to."""
        _CHILDREN.pack_into(self._memory, _CHILDREN_AT + slot * _CHILDREN.size, *counts)

    def _children_at(self, slot: int) -> ChildCounts:
        return ChildCounts(*_CHILDREN.unpack_from(self._memory, _CHILDREN_AT + slot * _CHILDREN.size))

    def children(self) -> ChildCounts:
        """Return what the children of all workers have come to, of those that have ended as well."""
        every = [self._children_at(slot) for slot in (*self._slots(), _RETIRED)]
        return ChildCounts(*map(sum, zip(*every, strict=True)))

    def write_refused(self, slot: int, counts: Mapping[str, int]) -> None:
        """Replace what one worker has refused, by reason."""
        told = [counts.get(reason, 0) for reason in REASONS]
        _REFUSED.pack_into(self._memory, _REFUSED_AT + slot * _REFUSED.size, *told)

    def refused(self) -> dict[str, int]:
        """Return how many requests were refused by each reason, by all workers that there have been."""
        return _added(self._refused_at(_RETIRED), *map(self._refused_at, self._slots()))

    def _refused_at(self, slot: int) -> dict[str, int]:
        found = _REFUSED.unpack_from(self._memory, _REFUSED_AT + slot * _REFUSED.size)
        return dict(zip(REASONS, found, strict=True))

    def write_shelf(self, slot: int, counts: ShelfCounts) -> None:
        """Replace what one worker tells of the graphs that it holds."""
        _SHELF.pack_into(self._memory, _SHELF_AT + slot * _SHELF.size, *counts)

    def shelf_at(self, slot: int) -> ShelfCounts:
        """Return what one slot's worker tells of its graphs."""
        return ShelfCounts(*_SHELF.unpack_from(self._memory, _SHELF_AT + slot * _SHELF.size))

    def shelves(self) -> ShelfCounts:
        """Return what the workers hold together, and what became of graphs since the node began."""
        living = [self.shelf_at(slot) for slot in self._slots()]
        return ShelfCounts(*map(sum, zip(ShelfCounts(), *living, self.shelf_at(_RETIRED), strict=True)))

    def clear_log(self, slot: int) -> None:
        """Count anew in a slot."""
        _COUNTS.pack_into(self._memory, _COUNTS_AT + slot * _COUNTS.size, *LogCounts())

    def log_cells(self, slot: int) -> memoryview:
        """Return where a worker counts its records, one by one: it may be killed at any moment."""
        begin = _COUNTS_AT + slot * _COUNTS.size
        return memoryview(self._memory)[begin : begin + _COUNTS.size].cast("q")

    def log_at(self, slot: int) -> LogCounts:
        """Return what one slot's worker counted."""
        return LogCounts(*self.log_cells(slot))

    def log_living(self) -> LogCounts:
        """Return what the workers that live counted."""
        living = [self.log_at(slot) for slot in self._slots()]
        return LogCounts(*(sum(counts) for counts in zip(LogCounts(), *living, strict=True)))

    def log_retired(self) -> LogCounts:
        """Return what all workers that have ended counted."""
        return self.log_at(_RETIRED)

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
        return [self.at(slot) for slot in self._slots()]

    def _slots(self) -> Iterator[int]:
        """Yield the slots of the workers that live."""
        for slot in range(MOST_WORKERS):
            if _PID.unpack_from(self._memory, slot * _SLOT.size)[0]:
                yield slot


def _added(*several: Mapping[str, int]) -> dict[str, int]:
    return {reason: sum(counts[reason] for counts in several) for reason in REASONS}


_PID = struct.Struct("<q")


def make_state() -> int:
    """Return the descriptor of a fresh memory file for a node's state."""
    descriptor = os.memfd_create("modelmill-node")
    os.ftruncate(descriptor, SIZE)
    memory = NodeState(descriptor)
    for slot in range(MOST_WORKERS + 1):
        memory.write(slot, FREE)
    return descriptor
