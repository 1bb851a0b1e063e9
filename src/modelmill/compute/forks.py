"""The builder's end of the template: it starts that process, asks it for workers, and hears how they ended.

Starting it takes as long as the imports it makes, and waits for nothing: rows can be read meanwhile.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from modelmill.errors import ComputeLost

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
_MESSAGE_BYTES = 1 << 16


class Template:
    """A process that imports the heavy libraries once and forks itself into workers; see `template`."""

    def __init__(self, preload: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> None:
        """Start it, with the modules that it imports, and what its environment has beside ours; return at once."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), **(variables or {})}
        environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "modelmill.compute.template", str(theirs.fileno()), *preload],
            pass_fds=[theirs.fileno()],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._statuses: dict[int, int] = {}

    def fork(self, order: dict[str, Any], descriptors: list[int]) -> int:
        """Return the pid of a new worker, which gets the order and the descriptors; waits until it is born."""
        try:
            socket.send_fds(self.control, [json.dumps(order).encode()], descriptors)
            while (pid := self.hear()) is None:
                pass
        except OSError as error:
            raise ComputeLost("the worker processes cannot be started", likely=str(error)) from error
        return pid

    def hear(self) -> int | None:
        """Take one message; return the pid where it tells of a birth."""
        content = self.control.recv(_MESSAGE_BYTES)
        if not content:
            raise ComputeLost("the process that makes workers is gone", next="run the command again")
        message = json.loads(content)
        if "ended" in message:
            self._statuses[message["ended"]] = message["status"]
        born: int | None = message.get("born")
        return born

    def status_of(self, pid: int, seconds: float) -> int | None:
        """Return how a worker ended, as `waitpid` tells it, waiting a moment for the news."""
        while pid not in self._statuses and wait([self.control], timeout=seconds):
            self.hear()
        return self._statuses.pop(pid, None)

    def close(self) -> None:
        """End it; its workers end when their connections do."""
        self.control.close()
        self._process.kill()
        self._process.wait()
