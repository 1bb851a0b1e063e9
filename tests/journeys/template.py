"""A process that has imported other people's libraries once, and forks itself into commands.

A journey starts hundreds of commands, and half of what they cost were the same imports again and again. Here only those of
others are made beforehand: modelmill itself is imported in each command anew, as `python -m modelmill` does it, so what
it imports, and in which order, is tried by every command. A command is a process of its own, with its own folder,
environment, output and exit code. That whole commands start by themselves is seen by the sessions of the documentation
and by the journeys that end one half way: these start the interpreter.

It is spoken to over one socket: a request is the JSON of `words`, `cwd` and `environ` with three file descriptors: where
the answer goes, standard output, standard error. The answer is a line with the pid, and one with the exit status.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import traceback
from typing import Any, NoReturn

# Each is imported by many commands. None starts a thread that a fork would miss while it holds a lock.
LIBRARIES = (
    "alembic.command",
    "click",
    "cloudpickle",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "httpx",
    "msgspec",
    "numba",
    "numpy",
    "pandera.polars",
    "polars",
    "pyarrow.parquet",
    "rich.progress",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
)
_MESSAGE_BYTES = 1 << 18
_DESCRIPTORS = 3


def main() -> None:
    """Import the libraries, then fork a command for each request until the tests are over."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
        if not message:
            return
        warden = os.fork()
        if warden == 0:
            control.close()
            _watch(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(order: dict[str, Any], answer: int, out: int, err: int) -> NoReturn:
    """Fork the command, and tell its pid and how it ended."""
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        _become(order, out, err)
    os.close(out)
    os.close(err)
    os.write(answer, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(order: dict[str, Any], out: int, err: int) -> NoReturn:
    """Run a command as ``python -m modelmill`` would, to the flush of its output; never return to the template."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    importlib.import_module("numpy").random.seed()
    sys.argv = ["modelmill", *order["words"]]
    sys.path[0] = order["cwd"]
    code = 1
    try:
        runpy.run_module("modelmill", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - the interpreter does so, too
        traceback.print_exc()
    sys.exit(code)


if __name__ == "__main__":
    main()
