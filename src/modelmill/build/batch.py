"""In a worker: rows by the thousand are answered as training sees them - mapped columns, the archived file's own functions.

Nothing here is the way a node answers: no request is parsed, and no function of the user's is replaced by its program.
Where both ways give the same answers, what was trained is what is served.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelmill.artifact.saving import decode
from modelmill.data.build_table import BuildTable
from modelmill.model.fitted import Floats, answer, make_x
from modelmill.model.loading import load_model_file
from modelmill.model.rows import Rows
from modelmill.names import Digest, Segment
from modelmill.registry.fleet import Entry
from modelmill.store.blobs import FolderBlobs
from modelmill.store.packs import PackReader


class BatchSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts share; a worker gets it once."""

    file: Path
    """The archived model file."""
    root: Path
    model: str
    table: Path
    """As `build_table` writes it, sorted by segment."""
    blobs: Path


class BatchPart(msgspec.Struct, frozen=True):
    """Neighbouring rows of one segment."""

    start: int
    rows: int
    segment: Segment
    entry: Entry
    why: str
    """Why that is the pooled model; empty where it is the segment's own."""
    pooled: Entry | None
    """What answers where the entry gives no usable answer."""


class BatchAnswers(msgspec.Struct, frozen=True):
    """The answers to one part."""

    numbers: Floats
    """(rows,), or (rows, classes)."""
    fell_back: list[int]
    """Which of the rows the pooled model answered, since the segment's own gave no usable answer."""


def open_batch(setup: BatchSetup) -> Callable[[list[BatchPart], Callable[[int], None]], list[BatchAnswers]]:
    """Import the archived file in this worker and return what answers parts; `LocalCompute` calls this once a worker."""
    return _Batch(setup).work


class _Batch:
    def __init__(self, setup: BatchSetup) -> None:
        self._model = load_model_file(setup.file, setup.root).models[setup.model]
        self._table = BuildTable(setup.table, self._model.spec)
        self._blobs = FolderBlobs(setup.blobs)
        self._packs: dict[Digest, PackReader] = {}
        self._pooled: tuple[Digest, Any] | None = None

    def work(self, parts: list[BatchPart], at: Callable[[int], None]) -> list[BatchAnswers]:
        """Answer some parts."""
        found = []
        for position, part in enumerate(parts):
            at(position)
            found.append(self._answer(part))
        return found

    def _answer(self, part: BatchPart) -> BatchAnswers:
        rows = self._table.rows(part.start, part.start + part.rows)
        fitted = self._open(part.entry)
        try:
            return BatchAnswers(self._ask(fitted, rows, part.segment), [])
        except Exception:
            if part.pooled is None or part.entry == part.pooled:
                raise
        return self._one_by_one(part, fitted, rows)

    def _one_by_one(self, part: BatchPart, fitted: Any, rows: Rows) -> BatchAnswers:
        """Answer each row by itself, as single requests would be: one bad row is no reason to distrust the others."""
        assert part.pooled is not None  # noqa: S101 - the caller has looked
        answers, fell_back = [], []
        for place in range(len(rows)):
            row = rows.take(slice(place, place + 1))
            try:
                answers.append(self._ask(fitted, row, part.segment))
            except Exception:  # noqa: BLE001 - whatever the user's code raises, a node would ask the pooled model
                fell_back.append(place)
                answers.append(self._ask(self._open(part.pooled), row, part.segment))
        return BatchAnswers(np.concatenate(answers), fell_back)

    def _ask(self, fitted: Any, rows: Rows, segment: Segment) -> Floats:
        model = self._model
        x = make_x(model.role("features"), model.spec, rows)
        return answer(fitted, model.role("predict"), len(model.labels), x, rows, segment)

    def _open(self, entry: Entry) -> Any:
        if self._pooled is not None and self._pooled[0] == entry.artifact:
            return self._pooled[1]
        if entry.pack not in self._packs:
            self._packs[entry.pack] = PackReader(self._blobs.open(entry.pack))
        content = self._packs[entry.pack].entry(entry.offset, entry.length, entry.artifact)
        fitted = decode(entry.format, content)
        if not entry.segment:
            self._pooled = entry.artifact, fitted
        return fitted
