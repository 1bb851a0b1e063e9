"""One worker: it opens the caller's function, then runs task after task, and says at which item it is.

Progress is a few bytes of shared memory, written without a system call. What user code prints goes to a file in memory
that the builder shares, so that it can be kept short, shown, and stopped when it floods.
"""

from __future__ import annotations

import importlib
import mmap
import os
import resource
import select
import struct
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

PROGRESS = struct.Struct("<qqd")
"""Task id, item, and when it began on the monotonic clock."""


class Progress:
    """Where a worker is, as shared memory."""

    def __init__(self, descriptor: int) -> None:
        """Map the shared bytes."""
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)

    def begin(self, task: int, item: int) -> None:
        """Say that an item begins now."""
        PROGRESS.pack_into(self._memory, 0, task, item, time.monotonic())

    def read(self) -> tuple[int, int, float]:
        """Return the task, the item, and when it began."""
        task, item, since = PROGRESS.unpack_from(self._memory)
        return task, item, since

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


Function = Callable[[Any, Callable[[int], None]], Any]
"""What runs tasks: it takes a payload and a callable that it tells each item's position before it begins it."""


def run_worker(order: dict[str, Any], pipe: int, output: int, progress: int) -> None:
    """Run tasks until the builder closes the connection; called in a freshly forked process."""
    threading.Thread(target=die_with, args=(order["builder"],), daemon=True).start()
    _take_output(output)
    _limit_memory(order["memory_mb"])
    connection, shared = Connection(pipe), Progress(progress)
    function = _open(order["entry"], connection)
    while function is not None:
        try:
            task, payload = connection.recv()
        except EOFError:
            return
        connection.send(_run(function, task, payload, shared))


def _run(function: Function, task: int, payload: Any, shared: Progress) -> tuple[int, str, Any, float]:
    shared.begin(task, -1)
    began = time.process_time()
    try:
        result = function(payload, lambda item: shared.begin(task, item))
    except Exception as error:  # noqa: BLE001 - the border: whatever it is, the builder is told
        return task, "error", error, time.process_time() - began
    return task, "done", result, time.process_time() - began


def _open(entry: str, connection: Connection) -> Function | None:
    """Call ``module:function`` with the setup that the builder sends first; tell it when that fails."""
    setup = connection.recv()
    try:
        module, _, name = entry.partition(":")
        function: Function = getattr(importlib.import_module(module), name)(setup)
    except Exception as error:  # noqa: BLE001 - the border: the user's file may raise anything
        connection.send((-1, "error", error, 0.0))
        return None
    connection.send((-1, "ready", None, 0.0))
    return function


def die_with(pid: int) -> None:
    """Wait for another process to end, then end this one at once, whatever its other threads do."""
    # A death signal of the parent would not do: a worker's parent is the template, not the builder.
    try:
        handle = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        os._exit(1)
    select.select([handle], [], [])
    os._exit(1)


def _take_output(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stderr = sys.stdout


def _limit_memory(megabytes: int) -> None:
    """Let one greedy allocation fail as MemoryError; slow growth is seen by the builder at half of this."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one read
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    limit = mapped + 2 * (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
