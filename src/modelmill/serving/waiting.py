"""Who may wait, and who is refused at once: the rule for everybody who stands before one who answers them one after the other.

That is a child process, or a worker's own event loop. How long the next one would wait is known: as many as stand there, times
how long one has taken of late. Whoever would wait for longer than is bearable, or than its caller waits, is refused before
anything is done for it: a queue without a bound answers everybody, and all of them too late. Who finds nobody waiting is always
let in, so that what was measured once does not shut the door for ever.

As the queue fills, it closes to some before others: first to copies, which nobody waits for, then to batches, then to what
a canary would answer, and in the end to all.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import NamedTuple

from modelmill.errors import DeadlinePassed, DeadlineTooShort, ModelBusy, NodeOverloaded

PATIENCE_S = 2.5
"""How long a request may wait for its turn where its caller does not say how long it waits: half of the five seconds after
which clients give up that were told nothing."""
_WORSE = 2.0
"""How much longer than foreseen waiting may take: refusing others takes time, too, and so does whoever shares the machine."""
MOST_WAITING = 1_000
"""Requests that may wait for one, however fast it is."""
FEW = 4
"""So many may always wait, be they slow ones: of a model that takes five seconds nobody could be asked a second time."""
BATCH_BYTES = 32 << 10
"""A request with a larger body has many rows; which is known before it is read."""
_FIRST = 3
"""Answers that say nothing of how long one takes: they import libraries, and open models."""
_KNOWN = 7
"""Answers after these from which on it is known."""
_FADES = 0.98
"""How much of what was measured counts when the next request is answered."""
_RISES = (0.25, 0.5, 0.75)
_FALLS = (0.1, 0.3, 0.6)
"""How full a line is where its pressure rises to the next one, and where it falls: apart, so that it does not flicker."""


class Kind(IntEnum):
    """What a request is, as the pressure from which on it is refused."""

    COPY = 1
    BATCH = 2
    CANARY = 3
    PLAIN = 4


class Asked(NamedTuple):
    """What is known of the request for which this task works."""

    kind: Kind = Kind.PLAIN
    until: float = 0.0
    """When its caller waits no more, on the clock of `time.perf_counter`; 0 where it did not say."""


REASONS = ("busy", "deadline", "late", "batch", "canary")
"""Why requests are refused: too many wait, the caller waits for less, or no more; or their kind, under pressure."""
refused: Counter[str] = Counter()
"""Whom this process refused, by reason; a worker is a process."""
_NOTHING = Asked()
_asked: ContextVar[Asked] = ContextVar("asked", default=_NOTHING)


def asked() -> Asked:
    """Return what is known of the request for which this task works."""
    return _asked.get()


@contextmanager
def asking(kind: Kind = Kind.PLAIN, until: float = 0.0) -> Iterator[None]:
    """Say so for a block: of two kinds the one that is refused sooner counts, of two deadlines the earlier."""
    known = _asked.get()
    ends = min(filter(None, (known.until, until)), default=0.0)
    token = _asked.set(Asked(min(known.kind, kind), ends))
    try:
        yield
    finally:
        _asked.reset(token)


class Pace:
    """How long a request takes, of late, while others wait; of those that are answered together each takes its part."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._busy_s = self._answered = 0.0
        self._first = _FIRST

    def add(self, seconds: float) -> None:
        """Note how long one took."""
        if self._first:
            self._first -= 1
            return
        self._busy_s, self._answered = _FADES * self._busy_s + seconds, _FADES * self._answered + 1

    @property
    def seconds(self) -> float:
        """Return how long one takes; 0 until that is known."""
        return self._busy_s / self._answered if self._answered > _KNOWN else 0.0


class Line:
    """Those who wait for one that answers."""

    def __init__(self, longest_s: float = 30.0, patience_s: float = PATIENCE_S) -> None:
        """Say how long one may wait: at most, and where more than a few do."""
        self._longest_s, self._patience_s = longest_s, min(longest_s, patience_s)
        self.pace = Pace()
        self.waiting = 0
        """How many stand in it, with the one that is being answered."""
        self._pressure = 0

    def wait_s(self, share: int = 1) -> float:
        """Return how long the next one would wait; `share` lines are answered in turn."""
        return self.waiting * self.pace.seconds * share

    def pressure(self, share: int = 1) -> int:
        """Return how full it is, from 0 to 3."""
        filled = max(self.wait_s(share) / self._patience_s, self.waiting / MOST_WAITING) if self.waiting >= FEW else 0.0
        while self._pressure < len(_RISES) and filled >= _RISES[self._pressure]:
            self._pressure += 1
        while self._pressure and filled < _FALLS[self._pressure - 1]:
            self._pressure -= 1
        return self._pressure

    def refusal(self, who: Asked, now: float, share: int = 1) -> ModelBusy | None:
        """Return why somebody may not wait, None where it may; it is counted."""
        if not self.waiting:
            return None
        wait_s, pressure = self.wait_s(share), self.pressure(share)
        error: ModelBusy | None = None
        if who.until and now + _WORSE * wait_s + self.pace.seconds > who.until:
            error, reason = (
                DeadlineTooShort("the answer would come later than its caller waits for it", next="try again"),
                "deadline",
            )
        elif self.waiting >= MOST_WAITING or wait_s > (self._longest_s if self.waiting < FEW else self._patience_s):
            error, reason = (
                ModelBusy("more requests wait for this model than it answers in time", next="try again"),
                "busy",
            )
        elif who.kind <= pressure:
            error = NodeOverloaded(
                f"{_SHED[who.kind]} are not answered while others wait for this model", next="try again"
            )
            reason = who.kind.name.lower()
        if error is not None:
            error.after_s = wait_s
            refused[reason] += 1
        return error


_SHED = {Kind.COPY: "copies", Kind.BATCH: "large requests", Kind.CANARY: "requests that a canary would answer"}


def too_late() -> DeadlinePassed:
    """Return what is told where a caller waits no more; it is counted."""
    refused["late"] += 1
    return DeadlinePassed("the caller waits no more", safe="the model was not asked, or its answer is not waited for")


def now() -> float:
    """Return the time on the clock of all deadlines here; it is that of the system, the same in all processes."""
    return time.perf_counter()
