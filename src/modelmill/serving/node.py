"""The parent of a node: it owns the listening socket for its whole life, and keeps its workers alive.

Run as ``python -m modelmill.serving.node`` with the socket inherited. A worker that dies is replaced at once: what waits
in the socket's queue is answered by the others, or by its successor. SIGTERM drains: workers finish what they hold.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec

from modelmill.serving.control import NodeInfo, node_file
from modelmill.serving.state import NodeState, WorkerState, make_state
from modelmill.serving.worker import WorkerOrder

_POLL_S = 0.1
_DRAIN_S = 15.0
_CRASH_LOOP_S = 2.0
"""A worker that dies younger than this is replaced only after as long."""


class Node:
    """The parent's loop."""

    def __init__(self, info: NodeInfo, store: Path, listening: int) -> None:
        """Take the socket and the description of the node."""
        self.info, self.store, self.listening = info, store, listening
        self.state_descriptor = make_state()
        self.state = NodeState(self.state_descriptor)
        self.workers: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self.stopping = False

    def run(self) -> None:
        """Keep the workers alive until a signal ends the node."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        try:
            while not self.stopping:
                self._keep_alive()
                time.sleep(_POLL_S)
            self._drain()
        finally:
            for process, _ in self.workers.values():
                process.kill()
            with suppress(FileNotFoundError):
                node_file(self.store).unlink()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _keep_alive(self) -> None:
        for slot in range(self.info.workers):
            process, born = self.workers.get(slot, (None, 0.0))
            if process is not None and process.poll() is None:
                continue
            if process is not None:
                self.state.write(slot, WorkerState(0, -1, 0, 0, 0))
                if time.monotonic() - born < _CRASH_LOOP_S:
                    continue
            self.workers[slot] = (self._spawn(slot), time.monotonic())

    def _spawn(self, slot: int) -> subprocess.Popen[bytes]:
        order = WorkerOrder(
            str(self.store),
            self.info.environment,
            slot,
            self.listening,
            self.state_descriptor,
            os.getpid(),
            msgspec.to_builtins(self.info),
        )
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "modelmill.serving.worker", msgspec.json.encode(order).decode()],
            pass_fds=[self.listening, self.state_descriptor],
            stdin=subprocess.DEVNULL,
        )

    def _drain(self) -> None:
        for process, _ in self.workers.values():
            process.terminate()
        deadline = time.monotonic() + _DRAIN_S
        for process, _ in self.workers.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(deadline - time.monotonic(), 0.1))


def main() -> None:
    """Run the node that `control.start_node` described."""
    info = msgspec.json.decode(sys.argv[1], type=NodeInfo)
    store, listening = Path(sys.argv[2]), int(sys.argv[3])
    info = msgspec.structs.replace(info, pid=os.getpid())
    Node(info, store, listening).run()


if __name__ == "__main__":
    main()
