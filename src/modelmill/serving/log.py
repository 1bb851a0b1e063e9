"""The prediction log of one worker: what it was asked and answered, written to journals beside the answers.

Nothing waits for it, but at the level `fsync`; what it cannot keep it drops and counts. Three counts lie in memory that the
workers share, so that the node knows exactly what a killed worker had not yet written.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from random import random
from time import perf_counter
from typing import Any, Literal, Protocol

import msgspec

from modelmill.data.journal import Answerer, Journal, list_journals

Level = Literal["off", "memory", "os", "fsync"]
"""How far a record has come when its answer leaves: nowhere, to this process's memory, to the kernel, to the disk."""

FLUSH_S = 0.25
"""How long records stay in memory at the level `memory`: what is lost, at most, when the worker is killed."""
_PAUSE_S = 0.0005
"""Between the parts of what is written behind the answers."""
MOST_PENDING = 16 << 20
"""Bytes that may wait to be written; what does not fit is dropped."""
_FILE_BYTES = 64 << 20
_FILE_S = 300.0
_LOOK_S = 5.0
"""How often the folder's size is looked at."""


class LogPlan(msgspec.Struct, frozen=True):
    """What a node logs."""

    folder: str = ""
    level: Level = "off"
    sample: float = 1.0
    """The share of the requests that is logged."""
    models: dict[str, float] = {}
    """Another share for some models."""
    keep_mb: int = 1024
    """What journals may take, together; beyond it nothing is logged."""
    settle: tuple[str, ...] = ()
    """The command that turns closed journals into a dataset; the node runs it now and then."""


class Counts(Protocol):
    """Where this worker's counts lie: records accepted, written, dropped."""

    def __getitem__(self, place: int) -> int: ...
    def __setitem__(self, place: int, value: int) -> None: ...


_ACCEPTED, _WRITTEN, _DROPPED = range(3)


class PredictionLog:
    """Takes records and writes them, a group at a time."""

    def __init__(self, plan: LogPlan, counts: Counts) -> None:
        """Take what is logged, and where it is counted; no file is opened before the first record."""
        self._plan, self._counts = plan, counts
        self.is_on = plan.level != "off"
        self.waits = plan.level == "fsync"
        """Whether an answer waits until its record is on the disk."""
        self._at_once = plan.level == "os"
        self._prefix = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{secrets.token_hex(3)}"
        self._told_prefix = f"{self._prefix}-".encode()
        self._asked = 0
        self._encode = msgspec.msgpack.Encoder().encode_into
        self._pending, self._count, self._overflow = bytearray(), 0, 0
        self._epoch = time.time() - perf_counter()
        self._journal: Journal | None = None
        self._files = 0
        self._closes_at = self._looks_at = 0.0
        self._is_over = False
        """Whether the folder holds all that it may."""
        self.trouble = ""
        """Why records were dropped last; empty once one was written again."""
        self._syncing: asyncio.Task[None] | None = None
        """What brings records to the disk now."""
        self._next: asyncio.Task[None] | None = None
        """What does so after it, with all that were kept meanwhile."""

    def share(self, model: str) -> float:
        """Return which share of a model's requests is logged."""
        return self._plan.models.get(model, self._plan.sample) if self.is_on else 0.0

    def keep(self, answerer: msgspec.Raw, share: float, exchange: Exchange, given: bytes = b"") -> bytes:
        """Take the record of a request that one model answered, and return the request's id: the one given, or ours."""
        number = self._asked = self._asked + 1
        if share >= 1.0 or random() < share:  # noqa: S311 - no secret
            self._add(answerer, given.decode() if given else number, *exchange)
        return given or b"%b%x" % (self._told_prefix, number)

    def keep_parts(self, parts: Sequence[LoggedPart], share: float, given: bytes = b"") -> bytes:
        """Take the records of one request, one for each model that answered, and return the request's id."""
        number = self._asked = self._asked + 1
        if share >= 1.0 or random() < share:  # noqa: S311 - no secret
            for answerer, exchange, rows in parts:
                self._add(answerer, given.decode() if given else number, *exchange, rows)
        return given or b"%b%x" % (self._told_prefix, number)

    def _add(self, answerer: msgspec.Raw, name: int | str, began: float, *rest: Any) -> None:
        self._counts[_ACCEPTED] += 1
        if len(self._pending) > MOST_PENDING:
            self._overflow += 1
            return
        length = len(self._pending)
        try:
            self._encode((answerer, name, began + self._epoch, *rest), self._pending, -1)
        except (TypeError, ValueError, OverflowError):  # no answer may fail for its record
            del self._pending[length:]
            self._overflow += 1
            return
        self._count += 1
        if self._at_once:
            self._write(*self._taken())

    # ---------------------------------------------------------------- writing

    async def flush(self) -> None:
        """Write what is pending, and end a file that is old enough; a worker calls this again and again."""
        if self.waits:
            await self.settled()
        elif self._at_once:
            self._write(*self._taken())
        elif self._count or self._journal is not None:
            await asyncio.to_thread(self._write, *self._taken())

    async def settled(self) -> None:
        """Return once all that was kept is on the disk, or dropped; all that wait share one flush."""
        if self._next is None:
            self._next = asyncio.create_task(self._sync_after(self._syncing))
        await asyncio.shield(self._next)

    async def _sync_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        self._syncing, self._next = self._next, None
        await asyncio.to_thread(self._write, *self._taken())

    def _taken(self) -> tuple[bytearray, int, int]:
        taken = self._pending, self._count, self._overflow
        self._pending, self._count, self._overflow = bytearray(), 0, 0
        self._epoch = time.time() - perf_counter()
        return taken

    def _write(self, payload: bytearray, count: int, overflow: int) -> None:
        """Write one group; whatever stands in its way, its records are counted as dropped, and the node answers on."""
        try:
            if count:
                self._put(payload, count)
                self.trouble = ""
            self._tend()
        except OSError as error:
            overflow += count
            self.trouble = f"predictions are not logged: {os.strerror(error.errno) if error.errno else error}"
        self._counts[_DROPPED] += overflow

    def _put(self, payload: bytearray, count: int) -> None:
        if self._is_over:
            raise OSError(f"{self._plan.folder} holds {self._plan.keep_mb} MB already")
        journal = self._journal or self._begin()
        pause = 0.0 if self.waits or self._at_once else _PAUSE_S
        journal.write(payload, self._counts[_WRITTEN] + self._counts[_DROPPED], count, pause)
        if self.waits:
            journal.sync()
        self._counts[_WRITTEN] += count

    def _begin(self) -> Journal:
        self._files += 1
        self._journal = Journal(Path(self._plan.folder), self._prefix, self._files)
        self._closes_at = time.monotonic() + _FILE_S
        return self._journal

    def _tend(self) -> None:
        """End a file that is large or old, and look now and then how much there is."""
        now = time.monotonic()
        journal = self._journal
        if journal is not None and (journal.size > _FILE_BYTES or now > self._closes_at):
            self.close()
        if now > self._looks_at:
            self._looks_at = now + _LOOK_S
            used = sum(path.stat().st_size for path in list_journals(Path(self._plan.folder)))
            self._is_over = used > self._plan.keep_mb << 20

    def finish(self) -> None:
        """Write what is left, at the worker's end."""
        self._write(*self._taken())
        self.close()

    def close(self) -> None:
        """End the file, so that it can be turned into a dataset."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()


Exchange = tuple[float, float, "bytes | Sequence[Any]", "bytes | list[float]"]
"""When a request began, on the clock of `perf_counter`; how many seconds it took; inputs and answers, see `Record`."""
LoggedPart = tuple[msgspec.Raw, Exchange, "list[int] | None"]
"""What answered some rows of a request, and which rows those are."""


@lru_cache(maxsize=10_000)
def as_logged(answerer: Answerer) -> msgspec.Raw:
    """Return what answered as it stands in a record: encoded once, not once a request."""
    return msgspec.Raw(msgspec.msgpack.encode(answerer))
