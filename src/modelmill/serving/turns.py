"""The event loop of a worker as one that answers: who is answered where it is read, and who waits for its turn.

A packed model is answered inside the loop, and while it is, nothing is read. What is small is therefore answered at once:
to refuse it would cost as much. What takes longer is answered at once, too, until a turn of the loop has lasted for a while;
from then on it stands in a line of its model, the lines are answered in turn, and between two short times of that the loop
reads what has come: the small is answered, and whoever would wait for too long learns it within milliseconds.

How long a turn has lasted is not asked of the loop, but noticed: `until` is the moment up to which nobody need look, and one
callback at the end of a turn that was looked at says where the next one begins. So a small request pays for one comparison.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from modelmill.serving.waiting import BATCH_BYTES, Asked, Kind, Line, now, too_late

HEAVY_S = 250e-6
"""What takes longer waits where others do; what takes less costs less than a refusal and a second visit."""
LATE_S = 0.01
"""How long a turn of the loop may last before what is heavy waits."""
_LOOK_S = 0.005
"""How often the loop is looked at, and a request measured, where nobody waits."""
_SHORT_S = 0.001
"""A turn that is not worth a second look."""
_SLICE_S = 0.005
"""How long those who wait are answered before the loop reads again."""
T = TypeVar("T")


class Lines(NamedTuple):
    """Those who wait for one model: requests of few rows, and those of many."""

    few: Line
    many: Line

    def of(self, length: int) -> Line:
        """Return the line of a request by the length of its body."""
        return self.many if length > BATCH_BYTES else self.few


class _Waiting(NamedTuple, Generic[T]):
    who: Asked
    work: Callable[[], T]
    told: asyncio.Future[T]


class Turns:
    """The turns of one worker's loop."""

    def __init__(
        self, schedule: Callable[[Callable[[], None]], bool] | None = None, clock: Callable[[], float] = now
    ) -> None:
        """Take what has a function called in the loop's next turn, and says whether; the running loop by default."""
        self._schedule, self._clock = schedule or _soon, clock
        self.until = 0.0
        """When to look again."""
        self._began = 0.0
        """When this turn of the loop began, where it is watched."""
        self._is_watching = False
        self._queues: dict[Line, deque[_Waiting[object]]] = {}
        """The lines in which somebody waits; the one whose turn is next stands first."""

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits."""
        return bool(self._queues)

    @property
    def share(self) -> int:
        """Return among how many lines the loop is divided, for one who comes."""
        return max(1, len(self._queues))

    # ---------------------------------------------------------------- who waits

    def holds(self, line: Line, moment: float) -> bool:
        """Return whether a request has to wait for its turn; called when it could be answered now."""
        if moment > self.until:
            self._look(moment)
        if line.pace.seconds < HEAVY_S:
            if not self._queues and moment - self._began > LATE_S:
                self.until = (
                    moment + _LOOK_S
                )  # small ones after one another make a long turn, too, and are not looked at each
            return False
        return bool(self._queues) or (self._is_watching and moment - self._began > LATE_S)

    def _look(self, moment: float) -> None:
        """Note where a turn begins, as far as can be seen from here."""
        if not self._is_watching:
            self._is_watching, self._began = self._schedule(self._end_turn), moment
        self.until = self._began + LATE_S

    def _end_turn(self) -> None:
        """Note that a turn is over; look at the next one where this one was long, or somebody waits."""
        moment = self._clock()
        lasted, self._began = moment - self._began, moment
        if self._queues or lasted > _SHORT_S:
            self.until = moment if self._queues else moment + _LOOK_S
            self._schedule(self._end_turn)
        else:
            self._is_watching, self.until = False, moment + _LOOK_S

    # ---------------------------------------------------------------- waiting

    async def take(self, line: Line, who: Asked, work: Callable[[], T]) -> T:
        """Return what the work gives, done when it is its turn; raises what refuses it, or `DeadlinePassed`."""
        refusal = line.refusal(who, self._clock(), self.share)
        if refusal is not None:
            raise refusal
        told: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._queues:
            self._schedule(self._work)
        self._queues.setdefault(line, deque()).append(_Waiting(who, work, told))  # type: ignore[arg-type]  # any T
        line.waiting += 1
        self.until = 0.0
        return await told

    def _work(self) -> None:
        """Answer those who wait for a short time, one of each line in turn."""
        until = self._clock() + _SLICE_S
        while self._queues:
            line, queue = next(iter(self._queues.items()))
            del self._queues[line]
            one = queue.popleft()
            if queue:
                self._queues[line] = queue  # behind all others
            line.waiting -= 1
            self._answer(line, one)
            if self._clock() > until:
                break
        if self._queues:
            self._schedule(self._work)

    def _answer(self, line: Line, one: _Waiting[object]) -> None:
        if one.told.done():  # nobody waits for it any more
            return
        began = self._clock()
        if one.who.until and began > one.who.until:
            one.told.set_exception(too_late())
            return
        try:
            one.told.set_result(one.work())
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            one.told.set_exception(error)
        line.pace.add(self._clock() - began)


def kind_of(length: int) -> Kind:
    """Return what a request is by the length of its body."""
    return Kind.BATCH if length > BATCH_BYTES else Kind.PLAIN


def _soon(turn: Callable[[], None]) -> bool:
    """Have a function called in the loop's next turn; return whether there is a loop. Without one nobody waits."""
    try:
        asyncio.get_running_loop().call_soon(turn)
    except RuntimeError:
        return False
    return True
