"""The runtime of everything that is no plain array: a child process that runs the archived code of one model.

The child may crash, hang or grow: it is killed and started again, and the requests it held are refused with 503.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.errors import AnswerInvalid, NodeNotReady, RequestError, every_error
from modelmill.names import Digest
from modelmill.registry.fleet import Entry
from modelmill.release.pointers import Pointer
from modelmill.serving.child import HEADER, Ask, ChildSetup, Told, numbers_of
from modelmill.serving.runtime import Row

_START_S = 60.0
_ANSWER_S = 30.0
_OF_REQUESTS = {kind.code: kind for kind in every_error() if issubclass(kind, RequestError)}


class PythonRuntime:
    """Answers through a child process."""

    def __init__(self, store: Path, pointer: Pointer, code: Digest) -> None:
        """Say whose code the child runs; it starts with `start` or with the first request."""
        (store / "cache" / "code").mkdir(parents=True, exist_ok=True)
        self._setup = ChildSetup(str(store), str(store / "cache" / "code"), pointer, code, os.getpid())
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: deque[asyncio.Future[Told]] = deque()
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start the child, unless it runs; return when it is ready to answer."""
        async with self._starting:
            if self._process is not None and self._process.returncode is None and self._writer is not None:
                return
            await asyncio.wait_for(self._start(), _START_S)

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "modelmill.serving.child",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader, self._process))
        ready = await self._send(msgspec.msgpack.encode(self._setup))
        if ready.error is not None:
            raise NodeNotReady(f"the model's code cannot be opened: {ready.error['error']}", got=ready.error["code"])

    async def answer(self, entry: Entry, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return the answers to rows."""
        await self.start()
        ask = msgspec.msgpack.encode(Ask(entry.segment, [dict(row) for row in rows]))
        try:
            told = await asyncio.wait_for(self._send(ask), _ANSWER_S)
        except TimeoutError:
            self._kill()
            raise NodeNotReady(f"the model took longer than {_ANSWER_S:g} s", next="try again") from None
        if told.error is not None:
            raise _as_ours(told.error)
        return numbers_of(told)

    async def _send(self, content: bytes) -> Told:
        if self._writer is None:
            raise NodeNotReady("the model's process is starting", next="try again")
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append(told)
        self._writer.write(HEADER.pack(len(content)) + content)
        return await told

    async def _listen(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        decoder = msgspec.msgpack.Decoder(Told)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                told = decoder.decode(await reader.readexactly(length))
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_result(told)
        self._writer = None
        await process.wait()
        lost = NodeNotReady("the model's process ended while it answered", next="try again")
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(lost)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def close(self) -> None:
        """End the child."""
        self._kill()
        if self._listening is not None:
            await self._listening


def _as_ours(error: dict[str, Any]) -> RequestError:
    what = str(error.pop("error"))
    kind = _OF_REQUESTS.get(str(error.pop("code")))
    if kind is not None:
        return kind(what, **error)
    # What the user's code raised is for its owner: the caller learns that there is no answer, not why.
    return AnswerInvalid(f"the model gave no answer: {what}"[:300])
