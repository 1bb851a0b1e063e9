"""Two fleet maps are asked the same rows: how answers move from one to the other."""

from __future__ import annotations

import numpy as np
import polars as pl

from modelmill.data.taking import get_snapshot, load_frame, load_rows, load_segments
from modelmill.errors import NotFound
from modelmill.names import Digest, Segment, parse_segment
from modelmill.orchestrator.batch import answer_rows
from modelmill.orchestrator.logged import read_logged
from modelmill.orchestrator.outcomes import AnswersDiff
from modelmill.registry.fleet import FleetMap
from modelmill.settings import Settings
from modelmill.store.opening import Store

_MOST = 2_000
_SAME = 1e-9


def compare_answers(
    store: Store, settings: Settings, one: FleetMap, other: FleetMap, snapshot: Digest, segment: str
) -> AnswersDiff:
    """Return how answers to the newest logged rows moved; where none are logged, to the last rows of a snapshot."""
    source, rows = _rows(store, settings, other, snapshot, parse_segment(segment) if segment else None)
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


def _rows(
    store: Store, settings: Settings, fleet: FleetMap, snapshot: Digest, segment: Segment | None
) -> tuple[str, pl.DataFrame]:
    if segment is None:
        try:
            logged = read_logged(store, settings, fleet.header.model, _MOST)
            return "logged requests", logged["inputs"].struct.unnest()
        except NotFound:
            pass
    kept = get_snapshot(store, snapshot)
    if segment:
        frame = load_rows(store, kept, load_segments(store, kept), {segment})[0].tail(_MOST)
    else:
        whole = load_frame(store, kept)
        frame = whole.gather_every(max(1, len(whole) // _MOST))
    return f"rows of {kept.label}", frame.drop(kept.manifest.spec.target.name)
