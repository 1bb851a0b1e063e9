"""Shadows: releases that answer copies of the requests, behind the answers and in the time that these leave.

What was answered is put into a queue when its answer is on its way. The event loop empties it in turns so short that no
request waits for one to speak of; where more copies come than there is time for, copies are dropped and counted, never
requests. A shadow whose models run in another process has a child of its own, which the kernel runs when nobody else wants
the processor. Whatever a shadow does or fails to do, no answer, no error and no connection of a client changes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from time import perf_counter
from typing import NamedTuple

import numpy as np

from modelmill.artifact.saved import Saved
from modelmill.artifact.tracing import Program, open_program
from modelmill.errors import NodeNotReady
from modelmill.model.fitted import Floats, as_matrix
from modelmill.model.request import Batch
from modelmill.names import ModelName, Segment, format_segment
from modelmill.registry.fleet import FAILED, check_answer_alike
from modelmill.release.pointers import Shadow
from modelmill.serving.choices import Found
from modelmill.serving.served import Answered, ServedModel
from modelmill.serving.split import entity_places
from modelmill.serving.tallies import Tally

MOST_WAITING = 5_000
"""Copies that may wait in a worker; what does not fit is dropped."""
_MOST_BEHIND = 256
"""Copies that may wait for a shadow's child process."""
_TURN_S = 25e-6
"""How long a turn of the event loop may go to copies at least."""
_BUSY_SHARE = 0.25
"""Which share of the time since the turn before it may take, where the loop is busy; so copies are answered at full load."""
_LONGEST_S = 500e-6
_ROWS = 64
"""Rows that are answered at once, of a request that has many."""
_PAUSE_S = 1.0
"""After a child could not be started."""
_MOST_SEGMENTS = 100_000
_WHOLE = 2.0**64


class Rows(NamedTuple):
    """Some rows of one request, all of one segment, with the answers that were given."""

    batch: Batch
    segment: Segment
    numbers: Floats
    """(rows,) or (rows, classes)"""


Item = Found | Rows


class Opened(NamedTuple):
    """What answers for one segment."""

    model: Saved
    before: Program | None
    tally: Tally


class Run:
    """One shadow of one model in one worker."""

    def __init__(self, shadow: Shadow, model: ServedModel) -> None:
        """Take what is published of it, and its release, opened; no child is started before the first copy."""
        self.shadow, self.model = shadow, model
        self.whole = Tally()
        """What no segment has: the copies that were dropped."""
        self._tallies: dict[Segment, Tally] = {}
        self._open = lru_cache(maxsize=_MOST_SEGMENTS)(self._find)
        self._labels = bool(model.header.labels)
        self._places = entity_places(model)
        self._salt = shadow.salt.encode()[:64]
        self._behind = None if model.is_packed else _Behind(self)

    # ---------------------------------------------------------------- which rows, and what is counted

    def drawn(self, item: Item) -> Item | None:
        """Return the rows whose copies are answered: a function of each row and of what is published."""
        if self.shadow.share >= 1:
            return item
        batch = _batch_of(item, self.model)
        places = [place for place, key in enumerate(batch.identities(self._places)) if self._draws(key)]
        if len(places) == len(batch):
            return item
        return _some(item, batch, places) if places else None

    def _draws(self, key: bytes) -> bool:
        number = int.from_bytes(blake2b(key, digest_size=8, key=self._salt).digest(), "little")
        return number < self.shadow.share * _WHOLE

    def drop(self, item: Item) -> None:
        """Count copies that there was no time for."""
        drawn = self.drawn(item)
        if drawn is not None:
            self.whole.dropped += len(drawn.batch) if isinstance(drawn, Rows) else 1

    def tally(self, segment: Segment) -> Tally:
        """Return where a segment's copies are counted."""
        found = self._tallies.get(segment)
        if found is None:
            found = self._tallies[segment] = Tally()
        return found

    def take(self) -> dict[str, Tally]:
        """Return what was counted of each segment, and of none, since this was last called."""
        counted = {format_segment(segment): tally for segment, tally in self._tallies.items() if tally.count}
        found = {name: _emptied(tally) for name, tally in counted.items()}
        if self.whole.dropped:
            found.setdefault("", Tally()).dropped += _emptied(self.whole).dropped
        return found

    # ---------------------------------------------------------------- answering

    def answer(self, item: Item) -> None:
        """Answer copies and count what became of them; nothing is raised."""
        if self._behind is not None:
            self._behind.keep(_rows_of(item, self.model))
        elif isinstance(item, Found):
            self._answer_one(item)
        else:
            self._answer_rows(item)

    def _answer_one(self, found: Found) -> None:
        began = perf_counter()
        choice = found.choice
        try:
            opened = self._open(choice.segment)
            x = found.x if opened.before is choice.before else _features(_batch_of(found, self.model), opened.before)
            numbers = opened.model.one(x)
        except Exception:  # noqa: BLE001 - a shadow's failure is counted, and is nobody else's
            self.tally(choice.segment).fail(perf_counter() - began)
            return
        for number in numbers:
            if not isfinite(number):
                opened.tally.fail(perf_counter() - began)
                return
        opened.tally.add(numbers, found.numbers, perf_counter() - began, labels=self._labels)

    def _find(self, segment: Segment) -> Opened:
        entry, _ = self.model.entry_for(segment)
        model = self.model.open_here(entry)
        before = open_program(model.programs.before) if model.programs.before else None
        return Opened(model, before, self.tally(segment))

    def _answer_rows(self, rows: Rows) -> None:
        began = perf_counter()
        try:
            answered = self.model.answer_now(rows.batch)
        except Exception:  # noqa: BLE001 - as above
            answered = None
        self.count(rows, answered, perf_counter() - began, again=self._answer_rows)

    def count(self, rows: Rows, answered: Answered | None, seconds: float, *, again: Callable[[Rows], None]) -> None:
        """Count the answers to rows; of several of which one has none, each is asked alone."""
        tally, count = self.tally(rows.segment), len(rows.batch)
        if answered is None or any(part.why == FAILED for part in answered.parts):
            if count == 1:
                tally.fail(seconds)
                return
            for place in range(count):
                again(Rows(rows.batch.take([place]), rows.segment, rows.numbers[place : place + 1]))
            return
        found, given = (numbers.reshape(count, -1).tolist() for numbers in (answered.numbers(), rows.numbers))
        for one, other in zip(found, given, strict=True):
            tally.add(one, other, seconds / count, labels=self._labels)

    async def close(self) -> None:
        """End what answered."""
        if self._behind is not None:
            await self._behind.close()
        await self.model.close()


class _Behind:
    """Asks a shadow's child process, one copy after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: deque[Rows] = deque()
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    def keep(self, rows: Iterable[Rows]) -> None:
        """Have copies answered later, or drop them."""
        for one in rows:
            if len(self._waiting) >= _MOST_BEHIND or self._closed:
                self._run.whole.dropped += len(one.batch)
            else:
                self._waiting.append(one)
        if self._waiting and (self._working is None or self._working.done()):
            self._working = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            await self._answer(self._waiting.popleft())

    async def _answer(self, rows: Rows) -> None:
        began, answered = perf_counter(), None
        try:
            answered = await self._run.model.answer(rows.batch)
        except NodeNotReady:  # its process does not start: it is tried again, and not at once
            await asyncio.sleep(_PAUSE_S)
        except Exception:  # noqa: BLE001 - as above
            answered = None
        self._run.count(rows, answered, perf_counter() - began, again=self._waiting.append)

    async def close(self) -> None:
        self._closed = True
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError):
                await self._working


class Copies:
    """The copies that wait in one worker, of all models."""

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object] | None = None,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what has a function called when the event loop comes to it; the running loop's `call_soon` by default.

        And what says whether requests wait for the loop: copies are the first to go.
        """
        self._schedule, self._is_busy = schedule or _soon, is_busy
        self._waiting: deque[tuple[Sequence[Run], Item]] = deque()
        self._is_due = False
        self._ended = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, runs: Sequence[Run], item: Item) -> None:
        """Take what was answered, for shadows to answer it too; called while a client waits."""
        if len(self._waiting) >= MOST_WAITING or self._is_busy():
            self._drop(runs, item)
            return
        self._waiting.append((runs, item))
        if not self._is_due:
            self._is_due = True
            self._schedule(self._turn)

    def _drop(self, runs: Sequence[Run], item: Item) -> None:
        for run in runs:
            with suppress(Exception):  # a client waits: whatever cannot be copied, its answer goes out
                run.drop(item)

    def keep_answered(self, runs: Sequence[Run], answered: Answered, *, is_busy: bool = False) -> None:
        """Take the answers to a request of the general way, a group of rows at a time; none where its model is busy."""
        with suppress(Exception):  # as above
            for rows in _grouped(answered):
                (self._drop if is_busy else self.keep)(runs, rows)

    def _turn(self) -> None:
        """Answer copies for a short time, and again when the loop has looked for requests."""
        began = perf_counter()
        while self._waiting and self._is_busy():
            self._drop(*self._waiting.popleft())
        until = began + min(max(_TURN_S, _BUSY_SHARE * (began - self._ended)), _LONGEST_S)
        while self._waiting and perf_counter() < until:
            self._answer(*self._waiting.popleft())
        self._ended = perf_counter()
        self._is_due = bool(self._waiting)
        if self._is_due:
            self._schedule(self._turn)

    def _answer(self, runs: Sequence[Run], item: Item) -> None:
        for run in runs:
            with suppress(Exception):  # a row that cannot even be drawn is not worth a worker
                drawn = run.drawn(item)
                if drawn is not None:
                    run.answer(drawn)

    def settle(self) -> None:
        """Answer all copies that wait, at once."""
        while self._waiting:
            self._answer(*self._waiting.popleft())


def open_run(shadow: Shadow, model: ServedModel, live: ServedModel) -> Run:
    """Return a shadow; raises `ReleasesDiffer` where requests to what serves are none to it."""
    check_answer_alike(live.map, model.map)
    return Run(shadow, model)


def taken(runs: Mapping[ModelName, Sequence[Run]]) -> Iterator[tuple[ModelName, int, dict[str, Tally]]]:
    """Yield of each shadow what it has counted: its model, its release, and a tally a segment."""
    for model, several in runs.items():
        for run in several:
            counted = run.take()
            if counted:
                yield model, run.shadow.release, counted


def _soon(function: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(function)


def _emptied(tally: Tally) -> Tally:
    """Return what was counted, and begin anew in the same place: whoever keeps it need not look for it again."""
    found = Tally()
    found.merge(tally)
    for name in ("count", "failed", "equal", "agreed", "dropped"):
        setattr(tally, name, 0)
    tally.total = tally.largest = 0.0
    tally.classes = {}
    return found


def _batch_of(item: Item, model: ServedModel) -> Batch:
    """Return the rows of what was answered."""
    if isinstance(item, Rows):
        return item.batch
    if isinstance(item.inputs, bytes):
        x = np.frombuffer(item.inputs).reshape(1, -1)
        return Batch(model.parser, (), x, [model.parser.keys_of(item.choice.segment)])
    return Batch(model.parser, item.inputs, None, ())


def _some(item: Item, batch: Batch, places: list[int]) -> Item:
    """Return some of the rows of what was answered."""
    if isinstance(item, Found):
        return item
    return Rows(batch.take(places), item.segment, item.numbers[places])


def _rows_of(item: Item, model: ServedModel) -> Iterator[Rows]:
    """Yield each row of what was answered alone, as a caller would ask it."""
    if isinstance(item, Found):
        yield Rows(_batch_of(item, model), item.choice.segment, np.array([item.numbers]))
        return
    for place in range(len(item.batch)):
        yield Rows(item.batch.take([place]), item.segment, item.numbers[place : place + 1])


def _features(batch: Batch, before: Program | None) -> Floats:
    return as_matrix(before.run(batch.rows)) if before is not None else batch.features()


def _grouped(answered: Answered) -> Iterator[Rows]:
    """Yield the rows of a request, some at a time."""
    for part in answered.parts:
        batch = answered.batch if part.places is None else answered.batch.take(part.places)
        if len(batch) <= _ROWS:
            yield Rows(batch, part.segment, part.numbers)
            continue
        for first in range(0, len(batch), _ROWS):
            places = range(first, min(first + _ROWS, len(batch)))
            yield Rows(batch.take(places), part.segment, part.numbers[first : first + _ROWS])
