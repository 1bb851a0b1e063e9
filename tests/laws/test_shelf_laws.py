"""What a shelf of graphs keeps, whatever is asked: never more than fits, one opening for all who wait, the hot for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.artifact.graph import Graph, GraphHeader
from modelmill.errors import BlobBroken
from modelmill.names import Digest, digest_of
from modelmill.serving.shelf import Shelf

HEADER = GraphHeader(1, None, (b"", b""), single=False, made_by="")
SIZE = 1 << 20
WEIGHT = SIZE + (32 << 10)


class Echo:
    """A session that answers with what it was asked."""

    def run(self, _: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [inputs["x"]]


def loaded() -> Graph:
    graph = Graph(HEADER)
    graph.session = Echo()
    return graph


def digest(number: int) -> Digest:
    return digest_of(str(number).encode())


class Asker:
    """A shelf with room for so many graphs, and what it was asked."""

    def __init__(self, room: int) -> None:
        self.shelf, self.room = Shelf(lambda: room * WEIGHT + 1, measure=self.measure), room
        self.loads: list[int] = []

    def measure(self) -> int:
        return self.shelf.counts().opened * WEIGHT if hasattr(self, "shelf") else 0

    async def ask(self, number: int) -> None:
        def load() -> Graph:
            self.loads.append(number)
            return loaded()

        graph = await self.shelf.open(digest(number), SIZE, load)
        assert graph.one(np.array([[7.0]])) == [7.0]
        assert self.shelf.counts().opened <= self.room
        assert self.shelf.counts().used <= self.shelf.limit


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 30), max_size=120))
def test_no_more_is_open_than_fits_and_counts_are_right(room: int, numbers: list[int]) -> None:
    asker = Asker(room)

    async def all_of_them() -> None:
        for number in numbers:
            await asker.ask(number)

    asyncio.run(all_of_them())
    counts = asker.shelf.counts()
    assert counts.loads == len(asker.loads)
    assert counts.loads - counts.evictions == counts.opened <= room
    assert len(set(numbers)) <= counts.loads <= len(numbers)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 20), st.integers(1, 3), st.lists(st.integers(100, 10_000), min_size=50, max_size=300))
def test_what_is_asked_again_and_again_is_never_closed(room: int, hot: int, others: list[int]) -> None:
    asker = Asker(room)

    async def mixed() -> None:
        for number in [*range(hot), *range(hot)]:
            await asker.ask(number)
        for other in others:
            for number in range(hot):
                await asker.ask(number)
            await asker.ask(other)

    asyncio.run(mixed())
    assert [asker.loads.count(number) for number in range(hot)] == [1] * hot


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_all_who_wait_for_one_have_it_opened_once(room: int, numbers: list[int]) -> None:
    asker = Asker(6)

    async def at_once() -> None:
        await asyncio.gather(*(asker.ask(number) for number in numbers))

    asyncio.run(at_once())
    assert sorted(asker.loads) == sorted(set(numbers))
    assert asker.shelf.counts().waits == len(numbers) - len(set(numbers))


def test_what_cannot_be_opened_is_told_to_all_who_wait_and_tried_again() -> None:
    shelf, tried = Shelf(), []

    def broken() -> Graph:
        tried.append(1)
        raise BlobBroken("a graph cannot be opened")

    async def both() -> Sequence[object]:
        first = await asyncio.gather(*(shelf.open(digest(1), SIZE, broken) for _ in range(5)), return_exceptions=True)
        await shelf.open(digest(1), SIZE, loaded)
        return first

    assert [type(one) for one in asyncio.run(both())] == [BlobBroken] * 5
    assert (len(tried), shelf.counts().opened) == (1, 1)


def test_a_graph_larger_than_the_room_is_opened_all_the_same() -> None:
    shelf = Shelf(lambda: SIZE, measure=lambda: 0)
    asyncio.run(shelf.open(digest(1), 40 * SIZE, loaded))
    assert shelf.counts().opened == 1


def test_what_the_process_takes_counts_and_not_what_was_reckoned() -> None:
    taken = [0]
    shelf = Shelf(lambda: 100 * WEIGHT, measure=lambda: taken[0])

    async def ask() -> None:
        for number in range(20):
            await shelf.open(digest(number), SIZE, loaded)
        taken[0] = 20 * 10 * WEIGHT  # ten times as much as was reckoned: twice as much as there is room for
        await shelf.look()

    asyncio.run(ask())
    assert shelf.counts().opened == 10
    assert shelf.counts().evictions == 10
