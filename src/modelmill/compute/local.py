"""Supervised processes of this machine. The standard pools are not used: one killed worker breaks or hangs them.

The builder watches each worker: an item over its time, memory or output is ended by killing the process, since a hang
in C hears no signal. A lost worker is replaced in milliseconds, by another fork of the template.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from modelmill.compute.compute import Done, Limits, Lost, Task
from modelmill.compute.worker import PROGRESS, Progress
from modelmill.errors import ComputeLost

_POLL_S = 0.05
_QUEUED = 2
"""Tasks a worker holds: one runs while the next waits, so that it never waits for the builder's commit."""
_RESPAWNS_IN_A_ROW = 20
_OUTSIDE_S = 60.0
"""What a worker may take outside any item, where a task is prepared and put away as a whole, at least."""
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
_MESSAGE_BYTES = 1 << 16


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
        preload: Sequence[str] = (),
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Start the workers; each calls `entry`, a ``module:function``, with `setup`, and runs what that returns.

        Returns when all are ready; what a worker raises while it gets ready is raised here.
        `workers`: 0 means one a core. `preload`: modules that the template imports once for all.
        """
        self._entry, self._limits = entry, limits
        self._setup = pickle.dumps(setup)
        self._workers: dict[int, _Worker] = {}
        self._backlog: deque[Task] = deque()
        self._ended: deque[Done | Lost] = deque()
        self._statuses: dict[int, int] = {}
        self._lost_in_a_row = 0
        self._count = workers or len(os.sched_getaffinity(0))
        self._start_template(preload)
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
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._template.wait(timeout=5)
        self._template.kill()
        self._template.wait()

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
        for source in wait([*by_connection, self._control], timeout=_POLL_S):
            if source is self._control:
                self._hear_template()
            elif isinstance(source, Connection):
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
            while worker.ready and self._backlog and len(worker.tasks) < _QUEUED:
                task = self._backlog.popleft()
                worker.tasks.append(task)
                with suppress(OSError):  # it is dying; `_bury` gives its tasks back
                    worker.connection.send((task.id, task.payload))
                break

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
        deadline = time.monotonic() + 2
        while pid not in self._statuses and time.monotonic() < deadline:
            if wait([self._control], timeout=_POLL_S):
                self._hear_template()
        status = self._statuses.pop(pid, None)
        if status is None:
            return "exit", "the worker is gone"
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return "signal", f"the process died of {name}"
        return "exit", f"the process ended itself with status {os.waitstatus_to_exitcode(status)}"

    def _start_template(self, preload: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
        environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._template = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "modelmill.compute.template", str(theirs.fileno()), *preload],
            pass_fds=[theirs.fileno()],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        output, progress = os.memfd_create("output"), os.memfd_create("progress")
        os.ftruncate(progress, max(PROGRESS.size, resource.getpagesize()))
        os.set_blocking(ours.fileno(), True)
        order = {"entry": self._entry, "builder": os.getpid(), "memory_mb": self._limits.memory_mb}
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], [theirs.fileno(), output, progress])
            pid = self._await_birth()
        except OSError as error:
            raise ComputeLost("the worker processes cannot be started", likely=str(error)) from error
        theirs.close()
        worker = _Worker(pid, Connection(ours.detach()), output, progress)
        with suppress(OSError):  # killed as soon as it was born: the next turn hears of it
            worker.connection.send_bytes(self._setup)
        self._workers[pid] = worker

    def _await_birth(self) -> int:
        while True:
            if (pid := self._hear_template()) is not None:
                return pid

    def _hear_template(self) -> int | None:
        """Read one message of the template; return the pid when it tells of a birth."""
        content = self._control.recv(_MESSAGE_BYTES)
        if not content:
            raise ComputeLost("the process that makes workers is gone", next="run the command again")
        message = json.loads(content)
        if "ended" in message:
            self._statuses[message["ended"]] = message["status"]
        born: int | None = message.get("born")
        return born


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
