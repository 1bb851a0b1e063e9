"""Supervised processes of this machine. The standard pools are not used: one killed worker breaks or hangs them.

The builder watches each worker: an item over its time, memory or output is ended by killing the process, since a hang
in C hears no signal. A lost worker is replaced in milliseconds, by another fork of the template.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Self

from modelmill.compute.compute import Done, Limits, Lost, Task
from modelmill.compute.forks import Template
from modelmill.compute.worker import PROGRESS, Progress
from modelmill.errors import ComputeLost

_POLL_S = 0.05
_NEWS_S = 2.0
"""What the template may take to tell how a worker ended."""
_QUEUED = 2
_AHEAD_BYTES = 64 << 10
"""Tasks a worker holds: one runs while the next waits, so that it never waits for the builder's commit."""
_RESPAWNS_IN_A_ROW = 20
_OUTSIDE_S = 60.0
"""What a worker may take outside any item, where a task is prepared and put away as a whole, at least."""


class _Worker:
    """One process as the builder sees it."""

    def __init__(self, pid: int, connection: Connection, output: int, progress: int) -> None:
        self.pid, self.connection, self.output = pid, connection, output
        self.progress = Progress(progress)
        self.progress.begin(-1, -1)
        os.close(progress)
        self.tasks: deque[Task] = deque()
        self.ready = False
        self.seen: tuple[int, int, float] | None = None
        """Its progress when it was last judged."""
        self.verdict: tuple[str, str] | None = None
        """Why the builder killed it, when it did."""

    def close(self) -> None:
        self.connection.close()
        self.progress.close()
        os.close(self.output)


class LocalCompute:
    """`Compute` on the cores of this machine."""

    def __init__(
        self,
        entry: str,
        setup: Any,
        *,
        workers: int = 0,
        template: Template | None = None,
        keep: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Start the workers; each calls `entry`, a ``module:function``, with `setup`, and runs what that returns.

        Returns when all are ready; what a worker raises while it gets ready is raised here.
        `workers`: 0 means one a core. `template`: one that was started before, with what they need imported; it is
        closed with them, unless its owner is to `keep` it for others.
        """
        self._entry, self._limits = entry, limits
        self._setup = pickle.dumps(setup)
        self._workers: dict[int, _Worker] = {}
        self._backlog: deque[Task] = deque()
        self._ended: deque[Done | Lost] = deque()
        self._lost_in_a_row = 0
        self._count = workers or len(os.sched_getaffinity(0))
        self._template, self._keep = template or Template(), keep
        try:
            for _ in range(self._count):
                self._spawn()
            while not all(worker.ready for worker in self._workers.values()):
                self._turn()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- the promise

    def capacity(self) -> int:
        """Return how many more tasks keep every worker busy."""
        held = sum(len(worker.tasks) for worker in self._workers.values()) + len(self._backlog)
        return self._count * _QUEUED - held

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._backlog.append(task)
        self._hand_out()

    def wait(self) -> Done | Lost:
        """Return the next task that ended."""
        while not self._ended:
            if not self._backlog and not any(worker.tasks for worker in self._workers.values()):
                raise ComputeLost("there is no task to wait for")
            self._turn()
        return self._ended.popleft()

    def close(self) -> None:
        """Kill what still runs; nothing of it was promised to anybody."""
        for worker in self._workers.values():
            _kill(worker.pid)
            worker.close()
        self._workers.clear()
        if not self._keep:
            self._template.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pids(self) -> list[int]:
        """Return the workers' process ids."""
        return list(self._workers)

    # ---------------------------------------------------------------- one turn of the loop

    def _turn(self) -> None:
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        ready = wait([*by_connection, self._template.control], timeout=_POLL_S)
        # The template first: whoever buries a worker hears it too, and then what was ready is read already.
        if self._template.control in ready:
            self._template.hear()
        for source in ready:
            if isinstance(source, Connection):
                self._hear_worker(by_connection[source])
        self._judge()
        self._hand_out()

    def _hear_worker(self, worker: _Worker) -> None:
        try:
            task, kind, content, cpu_s = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "error":
            raise content
        worker.ready = True
        if task >= 0:
            self._lost_in_a_row = 0
            self._ended.append(Done(worker.tasks.popleft(), content, cpu_s))

    def _hand_out(self) -> None:
        for worker in sorted(self._workers.values(), key=lambda worker: len(worker.tasks)):
            if not self._backlog or not worker.ready or len(worker.tasks) >= _QUEUED:
                continue
            task = self._backlog[0]
            content = ForkingPickler.dumps((task.id, task.payload))
            # A worker at work reads nothing, and may itself wait until we read its result: what is sent to it must fit into
            # the socket's buffer, or both would wait for ever. One that has nothing to do reads.
            if worker.tasks and len(content) > _AHEAD_BYTES:
                continue
            worker.tasks.append(self._backlog.popleft())
            with suppress(OSError):  # it is dying; `_bury` gives its tasks back
                worker.connection.send_bytes(content)

    def _judge(self) -> None:
        """Kill every worker whose item has had its time, memory or output."""
        for worker in self._workers.values():
            if worker.verdict is None and worker.tasks:
                worker.verdict = self._verdict_of(worker)
                if worker.verdict:
                    _kill(worker.pid)

    def _verdict_of(self, worker: _Worker) -> tuple[str, str] | None:
        limits, seen = self._limits, worker.progress.read()
        # The worker writes while we read: only what was the same at the last look is a fact.
        steady, worker.seen = seen == worker.seen, seen
        task, item, since = seen
        seconds = limits.seconds * worker.tasks[0].patience
        if item < 0:
            seconds = max(seconds, _OUTSIDE_S)
        if steady and task == worker.tasks[0].id and time.monotonic() - since > seconds:
            return "time", f"it took longer than {seconds:g} s"
        if _own_mb(worker.pid) > limits.memory_mb:
            return "memory", f"it needed more than {limits.memory_mb} MB"
        if os.fstat(worker.output).st_size > limits.output_mb << 20:
            return "output", f"it printed more than {limits.output_mb} MB"
        return None

    # ---------------------------------------------------------------- death and birth

    def _bury(self, worker: _Worker) -> None:
        del self._workers[worker.pid]
        reason, detail = worker.verdict or self._cause(worker.pid)
        if worker.tasks:
            task, (at, item, _) = worker.tasks.popleft(), worker.progress.read()
            self._ended.append(Lost(task, item if at == task.id else -1, reason, detail))
        self._backlog.extendleft(reversed(worker.tasks))
        worker.close()
        self._lost_in_a_row += 1
        if self._lost_in_a_row > _RESPAWNS_IN_A_ROW * self._count:
            raise ComputeLost(f"{self._lost_in_a_row} workers in a row were lost: {detail}", next="modelmill check")
        self._spawn()

    def _cause(self, pid: int) -> tuple[str, str]:
        status = self._template.status_of(pid, _NEWS_S)
        if status is None:
            return "exit", "the worker is gone"
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return "signal", f"the process died of {name}"
        return "exit", f"the process ended itself with status {os.waitstatus_to_exitcode(status)}"

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        output, progress = os.memfd_create("output"), os.memfd_create("progress")
        os.ftruncate(progress, max(PROGRESS.size, resource.getpagesize()))
        os.set_blocking(ours.fileno(), True)
        order = {"entry": self._entry, "builder": os.getpid(), "memory_mb": self._limits.memory_mb}
        pid = self._template.fork(order, [theirs.fileno(), output, progress])
        theirs.close()
        worker = _Worker(pid, Connection(ours.detach()), output, progress)
        with suppress(OSError):  # killed as soon as it was born: the next turn hears of it
            worker.connection.send_bytes(self._setup)
        self._workers[pid] = worker


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _own_mb(pid: int) -> int:
    """Return the resident memory of a process without the pages of mapped files, which it shares with all others."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize() >> 20
