"""What memory a process takes, and giving back what it has freed. All figures are bytes."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_LEAST_ROOM = 16 << 20
_ARENAS = -8
"""``M_ARENA_MAX`` of mallopt(3)."""


def anonymous() -> int:
    """Return what this process holds that is no file's: cheap enough to be asked all the time."""
    resident, shared = Path("/proc/self/statm").read_bytes().split()[1:3]
    return (int(resident) - int(shared)) * _PAGE


class Taken(NamedTuple):
    """What a process takes."""

    resident: int
    share: int
    """Of what several have, its part: it is divided among them (PSS)."""


def taken_by(pid: int) -> Taken | None:
    """Return what a process takes, None where that cannot be seen. It takes a while."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return Taken(kilobytes["Rss"] * 1024, kilobytes["Pss"] * 1024)
    return None


def megabytes(count: int) -> float:
    """Return bytes as they are shown."""
    return round(count / (1 << 20), 1)


def share_of(pid: int) -> int:
    """Return a process's share of memory (PSS), 0 where it cannot be seen."""
    taken = taken_by(pid)
    return taken.share if taken else 0


def of_machine() -> int:
    """Return how much memory there is, for this machine or for the container that it is."""
    there = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for path in _LIMITS:
        with suppress(OSError, ValueError):
            there = min(there, int(path.read_text(encoding="ascii")))
    return there


def room_of(memory: int, workers: int, parent: int) -> int:
    """Return how much more this worker may take: its share of the node's memory, less what it and the parent hold.

    A little is left however small that is: a node that can open no model answers nothing.
    """
    share = (memory or of_machine() // 2) // workers
    held = share_of(os.getpid()) + share_of(parent) // workers
    return max(share - held, _LEAST_ROOM)


def share_arenas() -> None:
    """Have all threads allocate from few heaps: what one frees, another uses. Called before threads are started."""
    library = _libc()
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(_ARENAS, 2)


def trim() -> None:
    """Give back to the system what was freed (malloc_trim); other threads go on meanwhile."""
    library = _libc()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@cache
def _libc() -> Any:
    try:
        return ctypes.CDLL(None)
    except OSError:
        return None
