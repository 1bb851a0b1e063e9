"""In a worker: rows by the thousand are answered as training sees them - mapped columns, the archived file's own functions.

Nothing here is the way a node answers: no request is parsed, and no function of the user's is replaced by its program.
Where both ways give the same answers, what was trained is what is served.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelmill.artifact.saving import decode
from modelmill.build.levels import Places
from modelmill.data.build_table import BuildTable
from modelmill.model.fitted import Floats, answer, make_x
from modelmill.model.loading import load_model_file
from modelmill.model.rows import Rows
from modelmill.model.safe import safe_answers
from modelmill.names import POOLED, Digest, Segment
from modelmill.registry.fleet import SAFE, Entry
from modelmill.store.blobs import FolderBlobs
from modelmill.store.packs import PackReader

_KEPT = 8
"""How many models stay open: those that answer for many segments, and the one that is asked row by row."""


class BatchSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts share; a worker gets it once."""

    file: Path
    """The archived model file."""
    root: Path
    model: str
    table: Path
    """As `build_table` writes it, sorted by segment."""
    blobs: Path
    safe: tuple[float, ...] = ()
    """The declared safe answer to a row."""


class BatchPart(msgspec.Struct, frozen=True):
    """Neighbouring rows of one segment."""

    start: int
    rows: int
    segment: Segment
    chain: list[Entry]
    """Who is asked, one after the other until one gives a usable answer."""
    why: str
    """Why the first of them is not the segment's own model; empty where it is."""
    which: Places | None = None
    """Which of the rows are meant, from the first; all where it is None."""
    parent: Segment = POOLED
    """The parent whose rows of the segment these are; empty where all are meant."""


class BatchAnswers(msgspec.Struct, frozen=True):
    """The answers to one part."""

    numbers: Floats
    """(rows,), or (rows, classes)."""
    fell_back: dict[int, int]
    """Which of the rows another than the first of the chain answered, since those before gave no usable answer; which one."""


def open_batch(setup: BatchSetup) -> Callable[[list[BatchPart], Callable[[int], None]], list[BatchAnswers]]:
    """Import the archived file in this worker and return what answers parts; `LocalCompute` calls this once a worker."""
    return _Batch(setup).work


class _Batch:
    def __init__(self, setup: BatchSetup) -> None:
        self._model = load_model_file(setup.file, setup.root).models[setup.model]
        self._table = BuildTable(setup.table, self._model.spec)
        self._blobs = FolderBlobs(setup.blobs)
        self._packs: dict[Digest, PackReader] = {}
        self._open = lru_cache(maxsize=_KEPT)(self._read)
        self._safe = setup.safe

    def work(self, parts: list[BatchPart], at: Callable[[int], None]) -> list[BatchAnswers]:
        """Answer some parts."""
        found = []
        for position, part in enumerate(parts):
            at(position)
            found.append(self._answer(part))
        return found

    def _answer(self, part: BatchPart) -> BatchAnswers:
        rows = self._table.rows(part.start, part.start + part.rows)
        rows = rows if part.which is None else rows.take(part.which)
        try:
            return BatchAnswers(self._ask(part.chain[0], rows, part.segment), {})
        except Exception:
            if len(part.chain) == 1:
                raise
        return self._one_by_one(part, rows)

    def _one_by_one(self, part: BatchPart, rows: Rows) -> BatchAnswers:
        """Answer each row by itself, as single requests would be: one bad row is no reason to distrust the others."""
        answers, fell_back = [], {}
        for place in range(len(rows)):
            answered, found = self._down(part, rows.take(slice(place, place + 1)))
            answers.append(found)
            if answered:
                fell_back[place] = answered
        return BatchAnswers(np.concatenate(answers), fell_back)

    def _down(self, part: BatchPart, row: Rows) -> tuple[int, Floats]:
        """Return who of the chain has an answer to a row, and the answer."""
        for place, entry in enumerate(part.chain[:-1]):
            with suppress(Exception):  # whatever the user's code raises, a node would ask the next
                return place, self._ask(entry, row, part.segment)
        return len(part.chain) - 1, self._ask(part.chain[-1], row, part.segment)

    def _ask(self, entry: Entry, rows: Rows, segment: Segment) -> Floats:
        if entry.state == SAFE:
            return safe_answers(self._safe, len(rows))
        model, fitted = self._model, self._open(entry)
        x = make_x(model.role("features"), model.spec, rows)
        return answer(fitted, model.role("predict"), len(model.labels), x, rows, segment)

    def _read(self, entry: Entry) -> Any:
        if entry.pack not in self._packs:
            self._packs[entry.pack] = PackReader(self._blobs.open(entry.pack))
        return decode(entry.format, self._packs[entry.pack].entry(entry.offset, entry.length, entry.artifact))
