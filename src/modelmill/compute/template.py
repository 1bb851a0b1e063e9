"""The template process: it imports the heavy libraries once, then forks itself into workers.

Run as ``python -m modelmill.compute.template``. It stays single-threaded and runs nothing of what it imported, so a
fork of it is safe, takes milliseconds and shares its memory. It exits with its builder, and takes its workers along.

It is spoken to over one socket: a request is the JSON of `entry` and `setup` with the worker's connection, output and
progress as file descriptors; the answer is the worker's pid. A worker's end is told as ``[pid, status]``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from modelmill.compute.worker import run_worker

_POLL_S = 0.02
_MESSAGE_BYTES = 1 << 16
_DESCRIPTORS = 3


def main() -> None:
    """Preload, then serve the builder on the inherited socket until it goes away."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # What was imported stays: no collection looks at it again, and the workers go on sharing its pages.
    gc.collect()
    gc.freeze()
    workers: set[int] = set()
    try:
        while _serve_once(control, workers):
            _tell_ended(control, workers)
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _serve_once(control: socket.socket, workers: set[int]) -> bool:
    readable, _, _ = select.select([control], [], [], _POLL_S)
    if not readable:
        return True
    message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
    if not message:
        return False
    pid = os.fork()
    if pid == 0:
        _become_worker(control, message, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    workers.add(pid)
    control.send(json.dumps({"born": pid}).encode())
    return True


def _become_worker(control: socket.socket, message: bytes, descriptors: list[int]) -> NoReturn:
    control.close()
    code = 1
    try:
        run_worker(json.loads(message), *descriptors)
        code = 0
    finally:
        os._exit(code)


def _tell_ended(control: socket.socket, workers: set[int]) -> None:
    for pid in list(workers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            workers.discard(pid)
            control.send(json.dumps({"ended": pid, "status": status}).encode())


if __name__ == "__main__":
    main()
