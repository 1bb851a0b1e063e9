"""The runtime of graphs: sessions of ONNX Runtime in the worker's own process, opened when they are first asked.

What is open answers at once, as packed models do. What is not is opened in a thread, once for all who wait for it, while
others are answered; `shelf` says what is closed for it.
"""

from __future__ import annotations

import asyncio
import mmap
from functools import partial
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.graph import Graph, onnxruntime, open_session, split
from modelmill.artifact.saved import Cold
from modelmill.artifact.saving import ONNX
from modelmill.errors import GraphRuntimeMissing
from modelmill.model.request import Batch
from modelmill.names import Digest
from modelmill.registry.fleet import Entry, FleetMap
from modelmill.serving.packed import answer_of
from modelmill.serving.shelf import Shelf
from modelmill.store.blobs import Blobs
from modelmill.store.packs import PackReader


class OnnxRuntime:
    """Opens the graphs of one release."""

    def __init__(self, blobs: Blobs, shelf: Shelf) -> None:
        """Take where the packs are, and what holds the graphs of all releases of this process."""
        self._blobs, self._shelf = blobs, shelf
        self._packs: dict[Digest, memoryview] = {}
        self._asked: dict[Digest, Graph] = {}

    async def start(self) -> None:
        """Import the library, so that no request waits for it; raises `GraphRuntimeMissing`."""
        await asyncio.to_thread(onnxruntime)

    def known(self, entry: Entry) -> Graph:
        """Return a graph that was asked before, open or not; raises `Cold` where it was not."""
        graph = self._asked.get(entry.artifact)
        if graph is None:
            graph = self._asked[entry.artifact] = self._shelf.join(entry.artifact)
        return graph

    async def answer(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        """Return the answers to a batch, opening the graph first where it is not open.

        Raises `AnswerInvalid` where it gives none, `BlobBroken` where its bytes are not what was recorded, or no graph.
        """
        while True:
            await self._shelf.open(entry.artifact, entry.length, partial(self._load, entry))
            try:
                return answer_of(self.known(entry), batch)
            except Cold:  # others needed the room in the meantime
                continue

    def _load(self, entry: Entry) -> Graph:
        """Return a graph, open; runs in a thread."""
        if entry.pack not in self._packs:
            self._packs[entry.pack] = self._blobs.open(entry.pack)
        pack = self._packs[entry.pack]
        header, ort = split(PackReader(pack).entry(entry.offset, entry.length, entry.artifact))
        graph = Graph(header)
        graph.session = open_session(header, ort)
        _forget(pack)
        return graph

    async def close(self) -> None:
        """Let go of all graphs; those that no other release asks for are closed, and their memory is given back."""
        for digest in self._asked:
            self._shelf.leave(digest)
        self._asked.clear()
        await self._shelf.look()


def _forget(pack: memoryview) -> None:
    """Have the process let go of mapped bytes that it has read: a graph is a copy of them, and what is needed is read again."""
    if isinstance(pack.obj, mmap.mmap):
        pack.obj.madvise(mmap.MADV_DONTNEED)


def check_graphs_open(fleet: FleetMap) -> None:
    """Raise `GraphRuntimeMissing` where a map has graphs, and what opens them is not installed."""
    if ONNX in fleet.formats() and find_spec("onnxruntime") is None:
        raise GraphRuntimeMissing(
            f"version {fleet.header.run} of `{fleet.header.model}` has models for ONNX Runtime, which is not installed",
            next="pip install 'modelmill[onnx]'",
            safe="what was served before is served on",
        )
