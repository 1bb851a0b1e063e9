"""The champion of a model: the versions that are current, and what they answer to given test rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modelmill.build.batch import BatchPart, BatchSetup
from modelmill.build.plan import Step
from modelmill.build.segment import tests_of
from modelmill.model.fitted import Floats
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


def champion_answers(
    store: Store,
    settings: Settings,
    fleet: FleetMap,
    table: Path,
    steps: Mapping[Step, Entry],
    test_share: float,
) -> Iterator[tuple[Segment, Floats]]:
    """Yield what given versions answer to the test rows of their segments, in workers, by the code archived with them."""
    parts: dict[Digest, list[BatchPart]] = {}
    for step, entry in steps.items():
        tests = tests_of(step.rows, test_share)
        part = BatchPart(step.start + step.rows - tests, tests, step.segment, entry, "", None)
        parts.setdefault(entry.code or fleet.header.code, []).append(part)
    cache = store.folder / "cache" / "code"
    cache.mkdir(parents=True, exist_ok=True)
    file, model = fleet.header.entry
    for code, some in parts.items():
        root = extract_code(store.blobs, code, cache)
        setup = BatchSetup(file=root / file, root=root, model=model, table=table, blobs=store.blobs.folder)
        yield from ((part.segment, found.numbers) for part, found in answer_parts(settings, setup, some))
