"""The parent of a node: it owns the listening socket for its whole life, and keeps its workers alive.

Run as ``python -m modelmill.serving.node`` with the socket inherited. It imports everything and loads the kernels once;
workers are forks of it, ready in milliseconds, which share its memory. It runs no event loop and no thread, so a fork of
it is safe. A worker that dies is replaced at once: what waits in the socket's queue is answered by the others, or by its
successor. SIGTERM drains: workers finish what they hold. SIGHUP makes the parent start anew, with whatever code is
installed by then, and replace its workers one after the other: no request fails.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from modelmill.data.journal import is_closed, list_journals
from modelmill.errors import ModelmillError
from modelmill.release.pointers import find_published
from modelmill.serving.control import NodeOrder, node_command, node_file
from modelmill.serving.state import FREE, MOST_WORKERS, NodeState, make_state
from modelmill.serving.worker import WorkerOrder, run_worker
from modelmill.store.blobs import pointers_of

_POLL_S = 0.05
_DRAIN_S = 15.0
_READY_S = 30.0
_SETTLE_S = 60.0
"""How often the node looks whether a journal was closed."""
_WATCH_S, _WATCH_MOST_S = 1.0, 30.0
"""How often the node looks whether a canary runs that nobody watches; where who did so has failed, twice as long each time."""
_MOST_FILES = 65_536
_CRASH_LOOP_S = 2.0
"""A worker that dies younger than this, and before it has served, is replaced only after as long."""


class Node:
    """The parent's loop."""

    def __init__(self, order: NodeOrder) -> None:
        """Take the socket and the description of the node."""
        self.info = msgspec.structs.replace(order.info, pid=os.getpid())
        self.store, self.listening, self.reserved = Path(order.store), order.listening, order.reserved
        self.state_descriptor = make_state() if order.state is None else order.state
        self.state = NodeState(self.state_descriptor)
        self.workers: dict[int, int] = {}
        """The pid of the worker in each slot."""
        self.born: dict[int, float] = {}
        self.old = dict(order.workers)
        self.signals: set[int] = set()
        self.settler: subprocess.Popen[bytes] | None = None
        self.settles_at = time.monotonic() + _SETTLE_S
        self.watcher: subprocess.Popen[bytes] | None = None
        self.watches_at, self.watch_pause_s = 0.0, _WATCH_S

    def run(self) -> None:
        """Keep the workers alive until a signal ends the node, or makes it start anew."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        try:
            self._replace_old()
            while not self._is_stopping():
                self._keep_alive()
                self._settle_log()
                self._watch_canaries()
                if signal.SIGHUP in self.signals:
                    self._start_anew()
                time.sleep(_POLL_S)
            self._drain()
        finally:
            for pid in (*self.workers.values(), *self.old.values()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(FileNotFoundError):
                node_file(self.store, self.info.environment).unlink()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signals.add(number)

    def _is_stopping(self) -> bool:
        return bool(self.signals & {signal.SIGTERM, signal.SIGINT})

    # ---------------------------------------------------------------- workers

    def _keep_alive(self) -> None:
        for slot in [slot for slot, pid in self.workers.items() if _has_ended(pid)]:
            if self.state.at(slot).revision >= 0:  # it has served: what ended it was no fault of its start
                del self.born[slot]
            del self.workers[slot]
            self.state.retire(slot)
        young = [slot for slot, born in self.born.items() if slot not in self.workers and _age(born) < _CRASH_LOOP_S]
        while len(self.workers) + len(young) < self.info.workers:
            self._spawn()

    def _spawn(self) -> int:
        """Fork a worker into the first free slot; return that slot."""
        slot = next(slot for slot in range(MOST_WORKERS) if slot not in self.workers and slot not in self.old)
        self.state.write(slot, FREE)
        order = WorkerOrder(
            store=str(self.store),
            environment=self.info.environment,
            slot=slot,
            socket=self.listening,
            state=self.state_descriptor,
            parent=os.getpid(),
            hot=self.info.hot,
            node=msgspec.to_builtins(self.info),
        )
        pid = os.fork()
        if not pid:
            _become_worker(order)
        self.workers[slot], self.born[slot] = pid, time.monotonic()
        return slot

    # ---------------------------------------------------------------- the prediction log

    def _settle_log(self) -> None:
        """Have closed journals turned into a dataset, by a process of its own; what it cannot do, the next one does."""
        if self.settler is not None and self.settler.poll() is None:
            return
        if time.monotonic() < self.settles_at or not self.info.log.settle:
            return
        self.settles_at = time.monotonic() + _SETTLE_S
        if any(map(_is_closed, list_journals(Path(self.info.log.folder)))):
            self.settler = subprocess.Popen(self.info.log.settle, stdin=subprocess.DEVNULL)  # noqa: S603 - our own module

    def _watch_canaries(self) -> None:
        """Have canaries watched while there are any, by a process of its own; one that has ended is started again."""
        if time.monotonic() < self.watches_at or not self.info.watch:
            return
        ended = self.watcher.poll() if self.watcher is not None else 0
        # While the database is away nobody can watch: a process a second would only take from those who answer.
        self.watch_pause_s = min(2 * self.watch_pause_s, _WATCH_MOST_S) if ended else _WATCH_S
        self.watches_at = time.monotonic() + self.watch_pause_s
        if self.watcher is not None and ended is None:
            return
        if _has_canary(self.store, self.info.environment):
            self.watcher = subprocess.Popen(self.info.watch, stdin=subprocess.DEVNULL)  # noqa: S603 - our own module

    # ---------------------------------------------------------------- starting anew

    def _start_anew(self) -> None:
        """Become the code that is installed now; the workers serve on, and are replaced by that."""
        order = NodeOrder(
            self.info, str(self.store), self.listening, self.state_descriptor, self.workers, self.reserved
        )
        for descriptor in (self.listening, self.state_descriptor, self.reserved):
            if descriptor is not None:
                os.set_inheritable(descriptor, True)  # noqa: FBT003 - the name says it
        os.execv(sys.executable, [sys.executable, *node_command(order)])  # noqa: S606 - our own module

    def _replace_old(self) -> None:
        """Replace the workers of the parent before, one after the other: each ends when its successor is ready.

        It may do so while the successor of the next one starts.
        """
        ending: list[int] = []
        for slot, pid in list(self.old.items()):
            if self._is_stopping():
                return
            self._await_applied(self._spawn())
            _tell_to_end(pid)
            ending.append(slot)
            if len(ending) > 1:
                self._await_end(ending.pop(0))
        for slot in ending:
            self._await_end(slot)

    def _await_end(self, slot: int) -> None:
        _await_end(self.old.pop(slot))
        self.state.retire(slot)

    def _await_applied(self, slot: int) -> None:
        """Wait until a new worker has applied as much as the old ones, or takes too long for it."""
        wanted = max((state.revision for state in self.state.read()), default=-1)
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and not self._is_stopping() and not _has_ended(self.workers[slot]):
            if self.state.at(slot).revision >= wanted and self.state.at(slot).pid:
                return
            time.sleep(_POLL_S / 5)

    def _drain(self) -> None:
        for pid in (*self.workers.values(), *self.old.values()):
            _tell_to_end(pid)
        deadline = time.monotonic() + _DRAIN_S
        for pid in (*self.workers.values(), *self.old.values()):
            while not _has_ended(pid) and time.monotonic() < deadline:
                time.sleep(_POLL_S)


def _become_worker(order: WorkerOrder) -> None:
    """Serve, and end without going back into the parent's code."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        run_worker(order)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
        sys.stderr.write(f"worker {os.getpid()}: {type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def _tell_to_end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _await_end(pid: int) -> None:
    """Wait until a worker has finished what it holds; kill it when it does not."""
    deadline = time.monotonic() + _DRAIN_S
    while not _has_ended(pid):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _has_ended(pid: int) -> bool:
    """Return whether a child has ended, and take note of it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _is_closed(journal: Path) -> bool:
    """Return whether a journal is there, and nobody writes to it."""
    try:
        return is_closed(journal)
    except ModelmillError:
        return False


def _has_canary(store: Path, environment: str) -> bool:
    """Return whether a release takes traffic beside another."""
    try:
        published = find_published(pointers_of(store), environment)
    except ModelmillError:
        return False
    return published is not None and any(pointer.is_watched for pointer in published.models.values())


def _age(born: float) -> float:
    return time.monotonic() - born


def _allow_connections() -> None:
    """Let workers hold as many connections as they may: by default a process has 1,024 files, and slow clients take them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _warm() -> None:
    """Load the kernels and run each once, so that no worker and no request does."""
    from modelmill.artifact.warming import warm

    warm()
    gc.collect()
    gc.freeze()  # no collection looks at it again, and workers go on sharing its pages


def main(argv: list[Any] | None = None) -> None:
    """Run the node that was ordered."""
    order = msgspec.json.decode((argv or sys.argv[1:])[0], type=NodeOrder)
    _allow_connections()
    _warm()
    Node(order).run()


if __name__ == "__main__":
    main()
