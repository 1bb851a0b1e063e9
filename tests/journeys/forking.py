"""The tests' end of the template: it has a command forked, and waits for its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
        with answer, out, err, ThreadPoolExecutor(3) as reading:
            pid = int(answer.readline())
            whole = [reading.submit(file.read) for file in (answer, out, err)]
            try:
                code, written, said = [found.result(timeout=seconds) for found in whole]
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), seconds) from None
        return int(code), written, said

    def close(self) -> None:
        """End it; a command that still runs goes on."""
        self._control.close()
        self._process.wait()
