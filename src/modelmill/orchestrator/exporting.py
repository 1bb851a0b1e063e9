"""`data export`: a snapshot's rows as a file for other programs."""

from __future__ import annotations

import time

from modelmill.data.taking import get_snapshot, load_frame
from modelmill.errors import UsageError
from modelmill.orchestrator.logged import check_ending, write_frame
from modelmill.orchestrator.rows import kept_facts
from modelmill.outcomes import ExportOutcome, Progress, no_progress
from modelmill.requests import ExportRequest
from modelmill.settings import Settings
from modelmill.store.opening import open_store


def export_rows(settings: Settings, request: ExportRequest, _: Progress = no_progress) -> ExportOutcome:
    """Write the rows of a snapshot, as they are kept: imported again they are the same snapshot."""
    began = time.monotonic()
    if not request.snapshot or not request.out:
        raise UsageError(
            "which snapshot, and where to?", expected="modelmill data export flights@s1 --out rows.parquet"
        )
    check_ending(request.out)
    with open_store(settings, create=False) as store:
        snapshot = get_snapshot(store, request.snapshot)
        path = write_frame(load_frame(store, snapshot), request.out)
    return ExportOutcome(
        snapshot=kept_facts(snapshot),
        out=str(path),
        bytes=path.stat().st_size,
        seconds=time.monotonic() - began,
        next=f"modelmill data import {path} --dataset {snapshot.manifest.dataset}",
    )
