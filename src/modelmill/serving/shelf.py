"""What a process holds of models that have to be opened, within a budget of memory.

What has to go when there is no room is found by S3-FIFO (Yang, Zhang, Qiu, Yue and Vinayak: "FIFO queues are all you need for
cache eviction", SOSP 2023), by bytes: a model that was opened waits in a small queue; where it is asked again it moves to the
main one, where not it goes, and is remembered for a while. Who leaves the main queue's end goes back to its start, as long as
it was asked since. So a model that is asked more often than the queue turns is never closed, however many others are asked
once; and an answer costs the queues nothing, which count up to three.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from modelmill.artifact.graph import Graph
from modelmill.artifact.saved import Cold
from modelmill.names import Digest
from modelmill.serving.memory import anonymous, share_arenas, trim
from modelmill.serving.state import ShelfCounts

LOADERS = 4
"""Models that are opened at the same time: ONNX Runtime does it beside Python."""
_FIXED = 32 << 10
"""What a session takes however small its model, at first guess."""
_SMALL = 0.1
"""Which share of the room what was asked once may have."""
_AGAIN = 2
"""Answers, the first included, that take a model to the main queue."""
_LOOK_EVERY = 16
"""After how many openings the true memory is looked at."""
_KNOWN_BYTES = 4 << 20
"""From how much on the true memory says how much a model takes: less is lost among what else a process allocates."""
_TRIM_BYTES = 64 << 20
"""How much may be freed and not given back."""


class _Held(NamedTuple):
    graph: Graph
    weight: int


class Shelf:
    """The graphs that a process has open, whichever release asks for them."""

    def __init__(self, room: Callable[[], int] | None = None, measure: Callable[[], int] = anonymous) -> None:
        """Take what tells how many bytes they may take together, and what tells how many the process takes.

        `room` is asked when the first is opened: what the process holds by then is known. Left out, there is no limit.
        """
        self._room, self._measure = room, measure
        self.limit = 0
        self._graphs: dict[Digest, Graph] = {}
        """All that are known, open or not."""
        self._users: dict[Digest, int] = {}
        self._small: OrderedDict[Digest, _Held] = OrderedDict()
        self._main: OrderedDict[Digest, _Held] = OrderedDict()
        self._gone: OrderedDict[Digest, None] = OrderedDict()
        """What was asked once, of late."""
        self._small_weight = self._main_weight = self._coming = 0
        self._scale = 1.0
        """Bytes that a byte of weight was found to take."""
        self._base: int | None = None
        self._freed = 0
        self._opening: dict[Digest, asyncio.Task[Graph]] = {}
        self._loaders: ThreadPoolExecutor | None = None
        self._turns = asyncio.Semaphore(LOADERS)
        self._loads = self._waits = self._evictions = 0

    # ---------------------------------------------------------------- asking

    def join(self, digest: Digest) -> Graph:
        """Return a graph that is known, open or not, for one more release to ask; raises `Cold` where it is not."""
        graph = self._graphs.get(digest)
        if graph is None:
            raise Cold
        self._users[digest] = self._users.get(digest, 0) + 1
        return graph

    def leave(self, digest: Digest) -> None:
        """Say that one release less asks for a graph; what nobody asks for is closed."""
        self._users[digest] -= 1
        if not self._users[digest]:
            del self._users[digest]
            self._take_out(digest)
            self._gone.pop(digest, None)
            self._graphs.pop(digest).session = None

    async def open(self, digest: Digest, size: int, load: Callable[[], Graph]) -> Graph:
        """Return a graph, open; `load` opens it in a thread, once for all who wait.

        `size` is how many bytes its artifact has. Whatever `load` raises, all who wait for it get.
        """
        graph = self._graphs.get(digest)
        if graph is not None and graph.session is not None:
            return graph
        opening = self._opening.get(digest)
        if opening is None:
            opening = self._opening[digest] = asyncio.create_task(self._open(digest, _FIXED + size, load))
            opening.add_done_callback(lambda done: self._opened(digest, done))
        else:
            self._waits += 1
        return await asyncio.shield(opening)

    def _opened(self, digest: Digest, done: asyncio.Task[Graph]) -> None:
        del self._opening[digest]
        if not done.cancelled():
            done.exception()  # whoever waits has it; nobody may be left

    async def _open(self, digest: Digest, weight: int, load: Callable[[], Graph]) -> Graph:
        if self._loaders is None:
            share_arenas()
            self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="opening")
            self._base, self.limit = self._measure(), self._room() if self._room else 0
        async with self._turns:
            self._make_room(weight)
            self._coming += weight
            try:
                loaded = await asyncio.get_running_loop().run_in_executor(self._loaders, load)
            finally:
                self._coming -= weight
        graph = self._graphs.setdefault(digest, loaded)
        graph.session, graph.hits = loaded.session, 0
        self._put(digest, _Held(graph, weight))
        self._loads += 1
        if self._loads % _LOOK_EVERY == 0:
            await self.look()
        return graph

    # ---------------------------------------------------------------- room

    def _put(self, digest: Digest, held: _Held) -> None:
        if digest in self._gone:
            del self._gone[digest]
            self._main[digest] = held
            self._main_weight += held.weight
        else:
            self._small[digest] = held
            self._small_weight += held.weight

    def _take_out(self, digest: Digest) -> None:
        """Take a graph off the queues, where it is on one."""
        held = self._small.pop(digest, None)
        if held is not None:
            self._small_weight -= held.weight
        else:
            held = self._main.pop(digest, None)
            self._main_weight -= held.weight if held else 0
        self._freed += held.weight if held else 0

    def _make_room(self, weight: int) -> None:
        """Close graphs until one of this weight fits; where it alone is more than there is room for, it stands alone."""
        while self.limit and self._bytes(weight) > self.limit and (self._small or self._main):
            if self._main and (not self._small or self._small_weight * self._scale <= _SMALL * self.limit):
                self._close_of_main()
            else:
                self._close_of_small()

    def _bytes(self, more: int = 0) -> float:
        return (self._small_weight + self._main_weight + self._coming + more) * self._scale

    def _close_of_small(self) -> None:
        """Look at what was opened first: what was asked again moves on, else it is closed."""
        digest, held = self._small.popitem(last=False)
        self._small_weight -= held.weight
        if held.graph.hits >= _AGAIN:
            held.graph.hits = 0
            self._main[digest] = held
            self._main_weight += held.weight
            return
        self._close(held)
        self._gone[digest] = None
        while len(self._gone) > max(len(self._main), len(self._small)):
            self._gone.popitem(last=False)

    def _close_of_main(self) -> None:
        """Close the first that was not asked since it was last looked at; there is one after four turns at most."""
        while True:
            digest, held = self._main.popitem(last=False)
            if not held.graph.hits:
                break
            held.graph.hits -= 1
            self._main[digest] = held
        self._main_weight -= held.weight
        self._close(held)

    def _close(self, held: _Held) -> None:
        held.graph.session = None
        self._evictions += 1
        self._freed += held.weight

    # ---------------------------------------------------------------- the true memory

    async def look(self) -> None:
        """Compare what the graphs should take with what the process takes, and make room where that is more than it may.

        What was freed is given back first, in a thread: it takes milliseconds.
        """
        if self._base is None:
            return
        if self._freed * self._scale > _TRIM_BYTES or (self.limit and self._grown() > self.limit):
            self._freed = 0
            await asyncio.get_running_loop().run_in_executor(self._loaders, trim)
        weight = self._small_weight + self._main_weight + self._coming
        if weight * self._scale > _KNOWN_BYTES or self._grown() > _KNOWN_BYTES:
            self._scale = min(max(self._grown() / max(weight, 1), 0.25), 16.0)
        self._make_room(0)

    def _grown(self) -> int:
        return self._measure() - (self._base or 0)

    def counts(self) -> ShelfCounts:
        """Return what is held, and what became of models."""
        opened = len(self._small) + len(self._main)
        return ShelfCounts(opened, int(self._bytes()), self.limit, self._loads, self._waits, self._evictions)
