"""Two fleet maps are asked the same rows: how answers move from one to the other."""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelmill.build.segment import tests_of
from modelmill.data.snapshot import Segments
from modelmill.data.taking import get_snapshot, load_rows, load_segments
from modelmill.errors import NotFound, UsageError
from modelmill.names import ModelName, parse_segment
from modelmill.orchestrator.batch import answer_rows
from modelmill.orchestrator.logged import read_logged
from modelmill.outcomes import AnswersDiff
from modelmill.registry.fleet import FleetMap
from modelmill.registry.records import Run
from modelmill.settings import Settings
from modelmill.store.opening import Store

_MOST = 2_000
_SAME = 1e-9


def compare_answers(
    store: Store, settings: Settings, one: FleetMap, other: FleetMap, later: Run, segment: str
) -> AnswersDiff:
    """Return how answers moved: to the newest logged rows, or where none are logged, to those that tested `later`.

    Raises `UsageError` where the two answer with other classes.
    """
    if one.header.labels != other.header.labels:
        raise UsageError(
            "the two answer with other classes",
            got=f"{', '.join(one.header.labels) or 'numbers'} and {', '.join(other.header.labels) or 'numbers'}",
            next="leave --answers out",
        )
    source, rows = _rows(store, settings, later, segment)
    before, after = (answer_rows(store, settings, fleet, rows).numbers for fleet in (one, other))
    labels = other.header.labels
    moves = np.abs(after - before)
    if labels:
        moves = moves.max(axis=1)
        moved = before.argmax(axis=1) != after.argmax(axis=1)
    else:
        moved = moves > _SAME * np.maximum(np.abs(before), np.abs(after))
    return AnswersDiff(
        source=source,
        rows=len(rows),
        moved=int(moved.sum()),
        median=float(np.median(moves)),
        p95=float(np.quantile(moves, 0.95)),
        largest=float(moves.max()),
        mean=None if labels else (float(before.mean()), float(after.mean())),
    )


def _rows(store: Store, settings: Settings, later: Run, segment: str) -> tuple[str, pl.DataFrame]:
    logged = _logged(store, settings, later.model, segment)
    if not logged.is_empty():
        return "logged requests", logged["inputs"].struct.unnest()
    kept = get_snapshot(store, later.snapshot)
    test_share = msgspec.json.decode(store.blobs.get(later.declaration))["test_share"]
    every = load_segments(store, kept)
    frame, segments = load_rows(store, kept, every, {parse_segment(segment)} if segment else set(every.keys))
    target = kept.manifest.spec.target.name
    tests = _that_test(frame[target].is_not_null().to_numpy(), segments, test_share)
    chosen = frame[tests[:: max(1, len(tests) // _MOST)]]
    return f"test rows of {kept.label}", chosen.drop(target)


def _logged(store: Store, settings: Settings, model: ModelName, segment: str) -> pl.DataFrame:
    try:
        if not segment:
            return read_logged(store, settings, model, _MOST)
        return read_logged(store, settings, model).filter(pl.col("segment") == segment).tail(_MOST)
    except NotFound:
        return pl.DataFrame()


def _that_test(labelled: NDArray[np.bool_], segments: Segments, test_share: float) -> NDArray[np.int64]:
    """Return the places of the rows that test: the last ones of each segment's that have a label."""
    found = []
    for start, rows in zip(segments.starts.tolist(), segments.rows.tolist(), strict=True):
        places = start + np.flatnonzero(labelled[start : start + rows])
        if len(places):
            found.append(places[-tests_of(len(places), test_share) :])
    return np.concatenate(found)
