"""The tests' end of the template: it has a command forked, and waits for its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

_TEMPLATE = Path(__file__).parent / "template.py"


class Template:
    """A process that forks itself into commands; see `template.py`. Several threads may ask it at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Start it and return at once: the first command waits for its imports."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, str(_TEMPLATE), str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environ, stdin=subprocess.DEVNULL)
        theirs.close()

    def run(self, words: Sequence[str], cwd: Path, environ: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code and all that it and its children wrote.

        Raises `subprocess.TimeoutExpired` where it takes longer: it is ended then.
        """
        order = json.dumps({"words": words, "cwd": str(cwd), "environ": dict(environ)}).encode()
        pipes = [os.pipe() for _ in range(3)]
        socket.send_fds(self._control, [order], [theirs for _, theirs in pipes])
        for _, theirs in pipes:
            os.close(theirs)
        answer, out, err = [os.fdopen(ours, encoding="utf-8") for ours, _ in pipes]
        pid, end = int(answer.readline()), time.monotonic() + seconds
        whole = [_Reading(file) for file in (answer, out, err)]
        for reading in whole:
            reading.join(max(end - time.monotonic(), 0))
            if reading.is_alive():
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), seconds)
        code, written, said = [reading.text for reading in whole]
        return int(code), written, said

    def close(self) -> None:
        """End it; a command that still runs goes on."""
        self._control.close()
        self._process.wait()


class _Reading(threading.Thread):
    """Reads a pipe to its end, be it that of a child that outlives its command; nobody has to wait for it."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(daemon=True)
        self._file, self.text = file, ""
        self.start()

    def run(self) -> None:
        with self._file as file:
            self.text = file.read()
