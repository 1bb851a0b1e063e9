"""The champion of a model: the versions that are current, and what any versions answer to the rows that test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelmill.build.batch import BatchPart, BatchSetup
from modelmill.build.levels import Places
from modelmill.build.plan import Step
from modelmill.build.segment import tests_of
from modelmill.compute.forks import Template
from modelmill.model.declaration import Model
from modelmill.model.fitted import Floats
from modelmill.model.values import value_of_record
from modelmill.names import POOLED, Digest, Segment
from modelmill.orchestrator.batch import answer_parts
from modelmill.registry.facts import extract_code
from modelmill.registry.fleet import Entry, FleetMap, decode
from modelmill.registry.records import Run
from modelmill.settings import Settings
from modelmill.store.opening import Store


def champion_map(store: Store, run: Run) -> FleetMap:
    """Return the fleet map of such a run."""
    assert run.map is not None  # noqa: S101 - the caller has looked
    return decode(store.blobs.get(run.map))


def champion_parameters(model: Model, declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model file's parameters, with those that ``--set`` gave the champion; `declared` is its declaration."""
    values, defaults = declared["values"], declared["parameters"]
    given = {name: text for name, text in values.items() if name in model.parameters and text != defaults.get(name)}
    return {**model.parameters, **{name: value_of_record(name, text) for name, text in given.items()}}


class Board(NamedTuple):
    """The rows on which versions are compared, and how they are asked."""

    table: Path
    """As `build_table` writes it."""
    test_share: float
    template: Template | None = None
    """The process that workers are forked from, where one runs already."""


class Asked(NamedTuple):
    """Rows of one segment, and the version that is to answer them."""

    segment: Segment
    places: Places
    """Where they lie in the table, ascending."""
    entry: Entry
    parent: Segment = POOLED
    """The parent whose rows of the segment these are, where they are not all that test."""

    def part(self) -> BatchPart:
        """Return the same as a worker is asked."""
        first, last = int(self.places[0]), int(self.places[-1])
        together = last - first + 1 == len(self.places)
        which = None if together else self.places - first
        return BatchPart(first, last - first + 1, self.segment, [self.entry], "", which, self.parent)


def test_places(step: Step, share: float) -> Places:
    """Return where the test rows of a segment lie in the table."""
    end = step.start + step.rows
    return np.arange(end - tests_of(step.rows, share), end)


def test_answers(
    store: Store, settings: Settings, fleet: FleetMap, board: Board, asked: Iterable[Asked]
) -> Iterator[tuple[BatchPart, Floats]]:
    """Yield what given versions answer to given rows of the board, in workers, by the code archived with them."""
    parts: dict[Digest, list[BatchPart]] = {}
    for one in asked:
        parts.setdefault(one.entry.code or fleet.header.code, []).append(one.part())
    cache = store.folder / "cache" / "code"
    cache.mkdir(parents=True, exist_ok=True)
    file, model = fleet.header.entry
    for code, some in parts.items():
        root = extract_code(store.blobs, code, cache)
        setup = BatchSetup(file=root / file, root=root, model=model, table=board.table, blobs=store.blobs.folder)
        for part, found in answer_parts(settings, setup, some, board.template):
            yield part, found.numbers
