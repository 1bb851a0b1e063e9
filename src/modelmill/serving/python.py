"""The runtime of everything that is no plain array: a child process that runs the archived code of one model.

The child may crash, hang or grow: it is killed and started again. The request at which it ended has no answer - the pooled
model answers it, if there is one - and those behind it are asked again. Where it was answering several together, each of
them is asked again alone: the one at which it ended ends it once more. A segment at which it ended more than once is not
asked again in this release: every time would cost all others a second.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.errors import AnswerInvalid, BlobBroken, NodeNotReady, ProtocolUnknown, RequestError, every_error
from modelmill.model.request import Batch
from modelmill.names import Digest, Segment, format_segment
from modelmill.registry.fleet import Entry
from modelmill.release.pointers import Pointer
from modelmill.serving.frames import HEADER, OUT_OF_MEMORY, PROTOCOL, Ask, ChildSetup, Told, numbers_of
from modelmill.serving.upkeep import UPKEEP, Quarantine
from modelmill.serving.waiting import Asked, Line, asked, now, too_late

_OWN = Path(sys.executable)
_START_S = 60.0
_ANSWER_S = 30.0
_END_S = 0.5
"""How long a child that has closed its side may take to be gone by itself."""
_FATAL = 2
"""How often a segment's model may end the child."""
_TRIES = 5
_TOLD = {kind.code: kind for kind in every_error() if issubclass(kind, RequestError | BlobBroken)}


class Place(NamedTuple):
    """Where a child runs."""

    python: Path = _OWN
    """Its interpreter, with the packages that the model needs."""
    lock: Digest | None = None
    """The lock of versions whose packages these are."""
    is_shadow: bool = False
    """Whether it has the processor only when nobody else wants it."""
    quarantine: Quarantine | None = None
    """What is known of the ends of such children before this one; None begins anew."""


_HERE = Place()


class PythonRuntime:
    """Answers through a child process."""

    def __init__(
        self, store: Path, pointer: Pointer, code: Digest, answer_s: float = _ANSWER_S, place: Place = _HERE
    ) -> None:
        """Say whose code the child runs, how long an answer may take, and where it runs.

        It starts with `start` or the first request.
        """
        (store / "cache" / "code").mkdir(parents=True, exist_ok=True)
        self._setup = ChildSetup(
            store=str(store),
            cache=str(store / "cache" / "code"),
            pointer=pointer,
            code=code,
            parent=os.getpid(),
            is_shadow=place.is_shadow,
            lock=place.lock,
            memory_mb=UPKEEP.memory_mb,
        )
        self._python = place.python
        self._quarantine = place.quarantine or Quarantine()
        self._answer_s = answer_s
        self.line = Line(answer_s)
        """Those who wait for the child, or for its successor."""
        self._link: _Link | None = None
        self._closed = False
        self._ended: Counter[Segment] = Counter()
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Return the child that would answer now, None when there is none."""
        return self._link.process.pid if self._link is not None and self._link.lives else None

    async def start(self) -> None:
        """Start the child, unless it runs; return when it is ready to answer."""
        await self._living()

    async def _living(self) -> _Link:
        async with self._starting:
            if self._closed:
                raise NodeNotReady("this release has just been replaced", next="try again")
            if self._link is None or not self._link.lives:
                if self._link is not None:
                    await self._link.gone()  # how it has ended decides whether there is a next one
                self._quarantine.check()
                self._link = await _start_child(self._setup, self._python, self.line, self._note_end)
            return self._link

    def _note_end(self, lived_s: float, code: int) -> None:
        """Take note that a child has ended; one that was no longer wanted has done as it should."""
        if not self._closed:
            UPKEEP.ended += 1
            UPKEEP.over_memory += code == OUT_OF_MEMORY
            self._quarantine.note_end(lived_s)

    @property
    def trouble(self) -> str:
        """Return why no child is started, empty where one may be."""
        return self._quarantine.text

    async def answer(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        """Return the answers to a batch; raises `AnswerInvalid` where the child ends or raises at it."""
        if entry.segment and self._ended[entry.segment] >= _FATAL:
            raise AnswerInvalid("the model has ended its process more than once")
        ask = Ask(format_segment(entry.segment), batch.objects(), until=asked().until)
        told = await self._told(entry, ask)
        if told.is_late:
            raise too_late()
        if told.error is not None:
            raise _as_ours(told.error)
        return numbers_of(told)

    async def _told(self, entry: Entry, ask: Ask) -> Told:
        content = msgspec.msgpack.encode(ask)
        for _ in range(_TRIES):
            link = await self._living()
            try:
                return await link.send(content, self._answer_s)
            except _AmongOthers:
                content = msgspec.msgpack.encode(msgspec.structs.replace(ask, alone=True))
            except _NotReached:
                continue
            except AnswerInvalid:
                self._ended[entry.segment] += 1
                raise
        raise NodeNotReady("the model's process ends again and again", next="try again")

    async def close(self) -> None:
        """End the child; none is started again."""
        self._closed = True
        if self._link is not None:
            await self._link.end()


class _NotReached(Exception):
    """The child ended before it came to this request."""


class _AmongOthers(Exception):
    """The child ended at this request, or at one that it was answering together with it."""


class _Link(asyncio.Protocol):
    """One child process with the answers that it owes: a successor never answers what this one was asked."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line, note_end: Callable[[float, int], None]) -> None:
        self.process, self._line, self._note_end = process, line, note_end
        self._loop = asyncio.get_running_loop()
        self.lives = True
        self.ready_at: float | None = None
        """When it was ready to answer, on the monotonic clock."""
        self._owed: deque[asyncio.Future[Told]] = deque()
        self._begun = 0.0
        """When the child began with the first of them."""
        self._unsent: list[bytes] = []
        self._together = 1
        """How many of them it is answering at once."""
        self._transport: asyncio.WriteTransport | None = None
        self._come = bytearray()
        """What has come of answers that are not complete."""
        self._decode = msgspec.msgpack.Decoder(Told).decode
        self._gone: asyncio.Future[None] = self._loop.create_future()

    # ---------------------------------------------------------------- asking

    async def send(self, content: bytes, timeout_s: float, who: Asked | None = None) -> Told:
        """Return the child's answer.

        Raises `AnswerInvalid` where the child ended at this request, or worked on it for all that time, which costs it its
        life; `_AmongOthers` where it ended at this one or one beside it; `NodeNotReady` where others were before it, at
        once where that can be foreseen; `DeadlinePassed` where its caller waits no more.
        """
        if self._is_stuck(timeout_s):
            await self.end()
        if not self.lives:
            raise _NotReached
        who, began = who or asked(), now()
        refusal = self._line.refusal(who, began)
        if refusal is not None:
            raise refusal
        told: asyncio.Future[Told] = self._loop.create_future()
        if not self._owed:
            self._begun = began
        self._owed.append(told)
        self._line.waiting += 1
        self._write(HEADER.pack(len(content)) + content)
        timer = self._loop.call_later(min(timeout_s, who.until - began) if who.until else timeout_s, _expire, told)
        try:
            return await told
        except TimeoutError:
            if who.until and now() - began < timeout_s:
                raise too_late() from None
            guilty = bool(self._owed) and self._owed[0] is told and self._together == 1
            stuck = self._is_stuck(timeout_s)
            if stuck:
                await self.end()
            if stuck and guilty:
                raise AnswerInvalid(f"the model took longer than {timeout_s:g} s") from None
            raise NodeNotReady(f"no answer within {timeout_s:g} s: others are before it", next="try again") from None
        finally:
            timer.cancel()

    def _write(self, frame: bytes) -> None:
        """Send a frame with all others of this turn of the event loop: a call of the system costs more than a frame."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(frame)

    def _flush(self) -> None:
        if self.lives and self._transport is not None:  # else whoever waits has been told already
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _is_stuck(self, timeout_s: float) -> bool:
        """Return whether the child has worked on one request for longer than it may."""
        return bool(self._owed) and now() - self._begun > 0.99 * timeout_s

    # ---------------------------------------------------------------- what comes, as the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # of a socket: it writes

    def data_received(self, data: bytes) -> None:
        """Settle what is complete; a child that says what is no answer is ended."""
        self._come += data
        begin, size = 0, len(self._come)
        try:
            while begin + HEADER.size <= size:
                end = begin + HEADER.size + HEADER.unpack_from(self._come, begin)[0]
                if end > size:
                    break
                self._take(self._decode(self._come[begin + HEADER.size : end]))
                begin = end
        except (msgspec.MsgspecError, IndexError):  # an IndexError: more answers than requests
            self._kill()
        del self._come[:begin]

    def _take(self, told: Told) -> None:
        if told.together:
            self._together = told.together
        else:
            self._settle(told)
            self._together = max(1, self._together - 1)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's own
        """Tell everybody who waits, and see how the child ends."""
        self.lives = False
        self._disappoint()
        bury = self._loop.create_task(self._bury())
        bury.add_done_callback(lambda _: self._gone.set_result(None))

    # ---------------------------------------------------------------- the end

    def _kill(self) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()

    async def end(self) -> None:
        """Kill the child and return when it is gone."""
        self._kill()
        await self.gone()

    async def gone(self) -> None:
        """Return when the child is gone, and its end was taken note of."""
        await asyncio.shield(self._gone)

    async def _bury(self) -> None:
        lived_s = 0.0 if self.ready_at is None else time.monotonic() - self.ready_at
        with suppress(TimeoutError):  # how it ends by itself is worth a moment
            await asyncio.wait_for(self.process.wait(), _END_S)
        self._kill()
        self._note_end(lived_s, await self.process.wait())

    def _disappoint(self) -> None:
        """Tell everybody who waits that the child has ended: those at whom it may have ended, and those behind them."""
        several = self._together > 1
        for place in range(len(self._owed)):
            at = AnswerInvalid("the model's process ended while it answered") if not several else _AmongOthers()
            self._settle(at if place < self._together else _NotReached())

    def _settle(self, told: Told | Exception) -> None:
        owed, began, self._begun = self._owed.popleft(), self._begun, now()
        self._line.waiting -= 1
        if isinstance(told, Told) and not told.is_late:
            self._line.pace.add(self._begun - began)
        if owed.done():  # its time was up
            return
        if isinstance(told, Told):
            owed.set_result(told)
        else:
            owed.set_exception(told)


def _expire(told: asyncio.Future[Told]) -> None:
    if not told.done():
        told.set_exception(TimeoutError())


async def _start_child(setup: ChildSetup, python: Path, line: Line, note_end: Callable[[float, int], None]) -> _Link:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            str(python),
            *_switches(python),
            "-m",
            "modelmill.serving.child",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
        )
    link = _Link(process, line, note_end)
    await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
    try:
        # Whoever's request starts it, it starts for all: no caller's deadline ends that.
        ready = await link.send(msgspec.msgpack.encode(setup), _START_S, Asked())
    except (AnswerInvalid, _NotReached):
        raise NodeNotReady("the model's process ended while it started", next="see the node's log") from None
    except BaseException:
        await link.end()
        raise
    if ready.protocol != PROTOCOL:
        await link.end()
        raise ProtocolUnknown(
            "the modelmill of the version's own environment is another one, with which this node cannot speak",
            expected=f"protocol {PROTOCOL}",
            got=f"protocol {ready.protocol or 'that it does not tell'}",
            next="modelmill train --rebuild      (with the packages that are installed now)",
        )
    if ready.error is not None:
        await link.end()
        raise NodeNotReady(f"the model's code cannot be opened: {ready.error['error']}", got=ready.error["code"])
    link.ready_at = time.monotonic()
    return link


def _switches(python: Path) -> list[str]:
    """Return how an interpreter is started: the folder that the node was started in is no place to import from.

    Nor is, for another environment, what the variables of the node's own name.
    """
    return ["-P"] if python == _OWN else ["-I"]


def _as_ours(error: dict[str, Any]) -> RequestError | BlobBroken:
    what = str(error.pop("error"))
    kind = _TOLD.get(str(error.pop("code")))
    if kind is not None:
        return kind(what, **error)
    # What the user's code raised is for its owner: the caller learns that there is no answer, not why.
    return AnswerInvalid(f"the model gave no answer: {what}"[:300])
