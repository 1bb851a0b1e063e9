"""Who may wait, by a clock that stands still, and the turns of a loop that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmill.errors import DeadlinePassed, DeadlineTooShort, ModelBusy, NodeOverloaded
from modelmill.serving import waiting
from modelmill.serving.turns import HEAVY_S, LATE_S, Lines, Turns, kind_of
from modelmill.serving.waiting import BATCH_BYTES, FEW, MOST_WAITING, Asked, Kind, Line, asked, asking

SLOW_S = 0.004


def line_of(seconds: float = SLOW_S, waiting: int = 0) -> Line:
    """Return a line of which it is known how long one takes."""
    line = Line()
    for _ in range(20):
        line.pace.add(seconds)
    line.waiting = waiting
    return line


def reason(line: Line, who: Asked = Asked(), at: float = 100.0, share: int = 1) -> type[ModelBusy] | None:  # noqa: B008 - immutable
    """Return how somebody is refused at a moment."""
    error = line.refusal(who, at, share)
    return None if error is None else type(error)


def test_who_finds_nobody_waiting_is_let_in_whatever_was_measured_before() -> None:
    assert reason(line_of(60.0), Asked(Kind.BATCH, until=100.001)) is None


def test_who_would_wait_for_too_long_is_refused_and_told_for_how_long() -> None:
    assert reason(line_of(waiting=500)) is None
    error = line_of(waiting=700).refusal(Asked(), 100.0)
    assert type(error) is ModelBusy
    assert error.after_s == pytest.approx(700 * SLOW_S)
    assert reason(Line(), at=0.0) is None


def test_a_few_may_always_wait_but_never_for_longer_than_an_answer_may_take() -> None:
    assert reason(line_of(5.0, waiting=FEW - 1)) is None
    assert reason(line_of(5.0, waiting=FEW)) is ModelBusy
    assert reason(line_of(20.0, waiting=FEW - 1)) is ModelBusy


def test_while_nothing_is_known_the_number_is_bounded() -> None:
    line = Line()
    line.waiting = MOST_WAITING - 1
    assert reason(line, Asked(Kind.PLAIN)) is None
    line.waiting += 1
    assert reason(line, Asked(Kind.PLAIN)) is ModelBusy


def test_the_first_answers_which_import_libraries_shut_the_door_to_nobody() -> None:
    line = Line()
    line.pace.add(5.0)
    for _ in range(30):
        line.pace.add(SLOW_S)
    line.waiting = 100
    assert reason(line) is None
    assert line.wait_s() == pytest.approx(100 * SLOW_S)


def test_the_wait_is_divided_among_the_lines() -> None:
    assert reason(line_of(waiting=200), share=3) is None
    assert reason(line_of(waiting=200), share=4) is ModelBusy


def test_a_caller_that_does_not_wait_for_so_long_is_refused() -> None:
    line = line_of(waiting=10)  # 40 ms; it may become twice as much, and then the answer itself
    assert reason(line, Asked(until=100.085)) is None
    assert reason(line, Asked(until=100.083)) is DeadlineTooShort


def test_copies_go_first_then_batches_then_canaries() -> None:
    bounds = {}
    for kind in Kind:
        line = line_of()
        while reason(line, Asked(kind)) is None:
            line.waiting += 1
        bounds[kind] = line.waiting * SLOW_S / waiting.PATIENCE_S
    assert bounds == pytest.approx({Kind.COPY: 0.25, Kind.BATCH: 0.5, Kind.CANARY: 0.75, Kind.PLAIN: 1.0}, abs=0.01)


def test_a_pressure_does_not_flicker() -> None:
    line = line_of(waiting=330)
    assert line.pressure() == 2
    line.waiting = 230  # below where it rose, above where it falls
    assert line.pressure() == 2
    assert reason(line, Asked(Kind.BATCH)) is NodeOverloaded
    line.waiting = 100
    assert line.pressure() == 1
    line.waiting = 0
    assert line.pressure() == 0


def test_refusals_are_counted_by_reason() -> None:
    before = waiting.refused.copy()
    full = line_of(waiting=700)
    for who in (Asked(), Asked(Kind.BATCH), Asked(until=100.001)):
        full.refusal(who, 100.0)
    half = line_of(waiting=400)
    half.refusal(Asked(Kind.BATCH), 100.0)
    assert waiting.refused - before == {"busy": 2, "deadline": 1, "batch": 1}


def test_the_earlier_deadline_counts_and_the_kind_that_is_refused_sooner() -> None:
    assert asked() == Asked()
    with asking(Kind.CANARY, until=7.0), asking(until=9.0):
        assert asked() == Asked(Kind.CANARY, 7.0)
        with asking(Kind.BATCH, until=5.0):
            assert asked() == Asked(Kind.BATCH, 5.0)
    assert asked() == Asked()


class Clock:
    """A loop whose turns are called by hand, and the time that passes in them."""

    def __init__(self) -> None:
        self.at = 50.0
        self.soon: list[Callable[[], None]] = []
        self.turns = Turns(self.schedule, lambda: self.at)

    def schedule(self, turn: Callable[[], None]) -> bool:
        self.soon.append(turn)
        return True

    def turn(self) -> None:
        """Call what was put off, as a loop does between two looks at its sockets."""
        due, self.soon = self.soon, []
        for one in due:
            one()

    def work(self, done: list[str], name: str, seconds: float = SLOW_S) -> Callable[[], str]:
        def work() -> str:
            self.at += seconds
            done.append(name)
            return name

        return work


def run(test: Callable[[Clock], Awaitable[None]]) -> None:
    asyncio.run(test(Clock()))  # type: ignore[arg-type]  # a coroutine


async def settled() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_heavy_waits_once_a_turn_has_lasted_and_what_is_small_never() -> None:
    clock, heavy, small = Clock(), line_of(), line_of(HEAVY_S / 2)
    assert not clock.turns.holds(heavy, clock.at)
    clock.at += LATE_S / 2
    assert not clock.turns.holds(heavy, clock.at)
    clock.at += LATE_S
    assert clock.turns.holds(heavy, clock.at)
    assert not clock.turns.holds(small, clock.at)
    clock.turn()
    assert not clock.turns.holds(heavy, clock.at)


def test_a_loop_that_is_idle_is_no_turn_that_lasts() -> None:
    clock, heavy = Clock(), line_of()
    for _ in range(5):
        assert not clock.turns.holds(heavy, clock.at)
        clock.turn()
        clock.turn()
        assert not clock.soon  # nothing keeps an idle loop awake
        clock.at += 60


def test_lines_are_answered_in_turn() -> None:
    async def test(clock: Clock) -> None:
        done: list[str] = []
        hot, quiet = line_of(), line_of()
        asked_for = [clock.turns.take(hot, Asked(), clock.work(done, f"hot {place}")) for place in range(5)]
        tasks = [asyncio.ensure_future(one) for one in asked_for]
        await settled()
        tasks.append(asyncio.ensure_future(clock.turns.take(quiet, Asked(), clock.work(done, "quiet"))))
        await settled()
        assert clock.turns.share == 2
        while clock.turns.is_busy:
            clock.turn()
        assert [await task for task in tasks] == ["hot 0", "hot 1", "hot 2", "hot 3", "hot 4", "quiet"]
        assert done.index("quiet") == 1
        assert (hot.waiting, quiet.waiting) == (0, 0)

    run(test)


def test_between_slices_the_loop_reads() -> None:
    async def test(clock: Clock) -> None:
        done: list[str] = []
        line = line_of()
        tasks = [asyncio.ensure_future(clock.turns.take(line, Asked(), clock.work(done, "x"))) for _ in range(9)]
        await settled()
        before = 0
        while clock.turns.is_busy:
            clock.turn()
            assert 0 < len(done) - before <= 2  # of four milliseconds in a slice of five
            before = len(done)
        await asyncio.gather(*tasks)

    run(test)


def test_whose_deadline_has_passed_is_not_asked() -> None:
    async def test(clock: Clock) -> None:
        done: list[str] = []
        line = line_of()
        first = asyncio.ensure_future(clock.turns.take(line, Asked(), clock.work(done, "slow", 5.0)))
        late = asyncio.ensure_future(clock.turns.take(line, Asked(until=clock.at + 1), clock.work(done, "late")))
        await settled()
        while clock.turns.is_busy:
            clock.turn()
        assert await first == "slow"
        with pytest.raises(DeadlinePassed):
            await late
        assert done == ["slow"]

    run(test)


def test_who_gave_up_is_not_asked_and_what_raises_is_told() -> None:
    async def test(clock: Clock) -> None:
        done: list[str] = []
        line = line_of()
        gone = asyncio.ensure_future(clock.turns.take(line, Asked(), clock.work(done, "gone")))
        bad = asyncio.ensure_future(clock.turns.take(line, Asked(), lambda: 1 // 0))
        await settled()
        gone.cancel()
        await settled()
        while clock.turns.is_busy:
            clock.turn()
        with pytest.raises(ZeroDivisionError):
            await bad
        assert not done

    run(test)


def test_a_request_of_many_rows_is_known_by_its_length() -> None:
    lines = Lines(Line(), Line())
    assert (kind_of(BATCH_BYTES), kind_of(BATCH_BYTES + 1)) == (Kind.PLAIN, Kind.BATCH)
    assert lines.of(BATCH_BYTES) is lines.few
    assert lines.of(BATCH_BYTES + 1) is lines.many
