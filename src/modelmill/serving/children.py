"""The children of one release: one for each archive of code and each interpreter that its entries need."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelmill.model.request import Batch
from modelmill.names import Digest
from modelmill.registry.fleet import Entry, FleetMap, Home
from modelmill.release.pointers import Pointer
from modelmill.serving.interpreter import interpreter_of
from modelmill.serving.python import Place, PythonRuntime
from modelmill.serving.upkeep import UPKEEP
from modelmill.serving.waiting import Line
from modelmill.store.blobs import Blobs


class Children:
    """Answers the entries of a map that need Python; false where none does."""

    def __init__(
        self, store: Path, blobs: Blobs, pointer: Pointer, fleet: FleetMap, *, is_shadow: bool = False
    ) -> None:
        """Find the interpreters; raises `EnvironmentMissing` where one is not here. No process starts yet.

        Versions of several locks share a child where one interpreter is right for all: most often that is the node's own.
        """
        self._fleet = fleet
        homes = fleet.homes()
        self._pythons = {lock: interpreter_of(store, blobs, lock) for lock in {home.lock for home in homes}}
        self._runtimes: dict[tuple[Digest, Path], PythonRuntime] = {}
        self._at: dict[Home, PythonRuntime] = {}
        for home in sorted(homes, key=str):
            key = home.code, self._pythons[home.lock].python
            if key not in self._runtimes:
                known = UPKEEP.quarantine_of((pointer.map, *key, is_shadow))
                place = Place(key[1], home.lock, is_shadow, known)
                self._runtimes[key] = PythonRuntime(store, pointer, home.code, place=place)
            self._at[home] = self._runtimes[key]

    def __len__(self) -> int:
        return len(self._runtimes)

    @property
    def trouble(self) -> str:
        """Return why one of them is not started, empty where all may be."""
        return next(filter(None, (runtime.trouble for runtime in self._runtimes.values())), "")

    @property
    def line(self) -> Line | None:
        """Return where everybody waits, None where that is not one line."""
        lines = [runtime.line for runtime in self._runtimes.values()]
        return lines[0] if len(lines) == 1 else None

    async def start(self) -> None:
        """Start all of them; return when they are ready."""
        await asyncio.gather(*(runtime.start() for runtime in self._runtimes.values()))

    async def answer(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        """Return the answers to a batch; see `PythonRuntime.answer`."""
        return await self._at[self._fleet.home_of(entry)].answer(entry, batch)

    async def close(self) -> None:
        """End all of them; none is started again, and their environments may be removed."""
        await asyncio.gather(*(runtime.close() for runtime in self._runtimes.values()), return_exceptions=True)
        for interpreter in self._pythons.values():
            if interpreter.use is not None:
                interpreter.use.end()
