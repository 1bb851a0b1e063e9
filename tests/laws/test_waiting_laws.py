"""Laws of waiting, for whatever comes in whatever order: bounds are kept, and each line has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from modelmill.serving.turns import Turns
from modelmill.serving.waiting import FEW, MOST_WAITING, PATIENCE_S, Asked, Kind, Line

STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(Kind), st.floats(0, 5), st.integers(1, 5)), max_size=300)


@given(st.floats(1e-5, 3), STEPS)
def test_never_more_wait_than_may(seconds: float, steps: list[tuple[bool, Kind, float, int]]) -> None:
    line, now = Line(), 1000.0
    for _ in range(20):
        line.pace.add(seconds)
    for comes, kind, waits_s, share in steps:
        if not comes:
            line.waiting = max(0, line.waiting - 1)
            continue
        who = Asked(kind, now + waits_s if waits_s else 0.0)
        wait_s, was = line.wait_s(share), line.waiting
        if line.refusal(who, now, share) is not None:
            assert was  # nobody is refused where nobody waits
            continue
        line.waiting += 1
        assert line.waiting <= MOST_WAITING
        assert was < FEW or wait_s <= PATIENCE_S
        assert not (was and who.until) or now + wait_s <= who.until


@given(st.lists(st.integers(0, 30), min_size=2, max_size=6), st.floats(1e-4, 0.02))
def test_a_line_is_never_passed_twice(lengths: list[int], seconds: float) -> None:
    """Between two answers to one line no other that waits has more than one more."""

    async def run() -> None:
        at = 0.0
        soon: list[Callable[[], None]] = []

        def schedule(turn: Callable[[], None]) -> bool:
            soon.append(turn)
            return True

        turns = Turns(schedule, lambda: at)
        order: list[int] = []

        def work(name: int) -> None:
            nonlocal at
            at += seconds
            order.append(name)

        lines = [Line() for _ in lengths]
        tasks = [
            asyncio.ensure_future(turns.take(line, Asked(), partial(work, name)))
            for name, (line, length) in enumerate(zip(lines, lengths, strict=True))
            for _ in range(length)
        ]
        await asyncio.sleep(0)
        while turns.is_busy:
            due, soon[:] = list(soon), []
            for turn in due:
                turn()
        await asyncio.gather(*tasks)
        left = list(lengths)
        since = [0] * len(lengths)
        for name in order:
            for other in range(len(lengths)):
                since[other] += other != name and left[other] > 0
            assert since[name] < len(lengths)
            since[name] = 0
            left[name] -= 1
        assert not any(left)

    asyncio.run(run())
