"""The champion of a model: the versions that are current, and what any versions answer to the rows that test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modelmill.build.batch import BatchPart, BatchSetup
from modelmill.build.plan import Step
from modelmill.build.segment import tests_of
from modelmill.compute.forks import Template
from modelmill.model.declaration import Model
from modelmill.model.fitted import Floats
from modelmill.model.values import value_of_record
from modelmill.names import Digest, Segment
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


def test_answers(
    store: Store, settings: Settings, fleet: FleetMap, board: Board, asked: Iterable[tuple[Step, Entry]]
) -> Iterator[tuple[Segment, Entry, Floats]]:
    """Yield what given versions answer to the test rows of given segments, in workers, by the code archived with them."""
    parts: dict[Digest, list[BatchPart]] = {}
    for step, entry in asked:
        tests = tests_of(step.rows, board.test_share)
        part = BatchPart(step.start + step.rows - tests, tests, step.segment, [entry], "")
        parts.setdefault(entry.code or fleet.header.code, []).append(part)
    cache = store.folder / "cache" / "code"
    cache.mkdir(parents=True, exist_ok=True)
    file, model = fleet.header.entry
    for code, some in parts.items():
        root = extract_code(store.blobs, code, cache)
        setup = BatchSetup(file=root / file, root=root, model=model, table=board.table, blobs=store.blobs.folder)
        for part, found in answer_parts(settings, setup, some, board.template):
            yield part.segment, part.chain[0], found.numbers
