"""`data import`, `data list`, `data show`: rows become snapshots, and snapshots are looked at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from modelmill.data.appending import append_rows as append
from modelmill.data.databases import is_database
from modelmill.data.snapshot import Snapshot
from modelmill.data.sources import describe, read_address, read_table
from modelmill.data.taking import get_snapshot, load_segments, take_snapshot
from modelmill.data.taking import list_snapshots as kept_snapshots
from modelmill.errors import NotFound, UsageError, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.declaration import Model
from modelmill.orchestrator.inspecting import Inspection
from modelmill.orchestrator.logged import LOGGED, list_logged, show_logged
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.rows import (
    ENVIRONMENT,
    check_fits,
    check_window,
    dataset_of,
    kept_facts,
    parse_window,
    read_source,
    snapshot_facts,
)
from modelmill.outcomes import (
    ImportOutcome,
    Progress,
    ShowOutcome,
    SnapshotListing,
    no_progress,
)
from modelmill.requests import AppendRequest, ImportRequest, SnapshotListRequest, SnapshotShowRequest
from modelmill.settings import Settings
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store, open_store

_BOUNDS = ("ge", "gt", "le", "lt")


class _Source(NamedTuple):
    """Rows, and what a person would call the place they came from."""

    frame: Any
    name: str


def import_rows(settings: Settings, request: ImportRequest, progress: Progress = no_progress) -> ImportOutcome:
    """Check rows against the contract and keep them as a snapshot; rows that break it change nothing."""
    began = time.monotonic()
    project = open_project(settings, request.file, request.model)
    model = project.model
    source = _read(project, request)
    progress("line", {"text": f"read {source.name}   {len(source.frame):,} rows"})
    with open_store(settings) as store, ProjectLock(store.lock_path, "data import"):
        dataset = request.dataset or dataset_of(model)
        inspect = Inspection(project, store, dataset, source.name)
        taken = take_snapshot(store, dataset, model.spec, model.by, source.frame, source.name, inspect=inspect)
    label = taken.snapshot.label
    return ImportOutcome(
        snapshot=snapshot_facts(taken),
        seconds=time.monotonic() - began,
        checks=_checks(model),
        next=f"modelmill train --snapshot {label}" if model.role("data") or request.dataset else "modelmill train",
    )


def append_rows(settings: Settings, request: AppendRequest, progress: Progress = no_progress) -> ImportOutcome:
    """Add rows to the newest snapshot of a dataset; rows that break the contract change nothing."""
    began = time.monotonic()
    project = open_project(settings, request.file, request.model)
    model = project.model
    dataset = request.dataset or dataset_of(model)
    source = _read(project, request, request.window)
    progress("line", {"text": f"read {source.name}   {len(source.frame):,} rows"})
    with open_store(settings) as store, ProjectLock(store.lock_path, "data append"):
        base = _base(store, model, dataset)
        inspect = Inspection(project, store, dataset, source.name, chosen=request.window is not None)
        found = append(store, base, source.frame, source.name, inspect=inspect)
    label = found.taken.snapshot.label
    return ImportOutcome(
        snapshot=snapshot_facts(found.taken),
        seconds=time.monotonic() - began,
        checks=_checks(model),
        before=base.label,
        added=found.rows,
        repeated=found.repeated,
        added_bytes=found.bytes,
        next=f"modelmill retrain --snapshot {label}",
    )


def _base(store: Store, model: Model, dataset: str) -> Snapshot:
    """Return the newest snapshot of a dataset; its rows keep the promises that new ones have to keep."""
    found = kept_snapshots(store, dataset, limit=1)
    if not found:
        raise NotFound(f"dataset `{dataset}` has no snapshot to append to", next="modelmill data import FILE")
    check_fits(model, found[0])
    return found[0]


def _checks(model: Model) -> int:
    return sum(_promises(column) for column in model.spec.columns) + bool(model.spec.unique)


def list_snapshots(
    settings: Settings, request: SnapshotListRequest, _progress: Progress = no_progress
) -> SnapshotListing:
    """List the snapshots, the newest first."""
    with open_store(settings) as store:
        found = [kept_facts(snapshot) for snapshot in kept_snapshots(store, request.dataset)]
        logged = list_logged(store, settings, request.dataset)
    return SnapshotListing(
        snapshots=tuple(found),
        predictions=tuple(logged),
        next=f"modelmill data show {found[0].label}" if found else "modelmill data import FILE",
    )


def show_snapshot(settings: Settings, request: SnapshotShowRequest, _progress: Progress = no_progress) -> ShowOutcome:
    """Show one snapshot: its columns, its segments, its files; or what nodes have logged."""
    with open_store(settings) as store:
        if request.snapshot and request.snapshot.startswith(LOGGED):
            return show_logged(store, settings, request)
        if request.out or request.last:
            raise UsageError("--out and --last are for predictions", next="modelmill data show predictions/MODEL")
        snapshot = get_snapshot(store, request.snapshot) if request.snapshot else _newest(store)
        return describe_snapshot(snapshot, load_segments(store, snapshot).rows.tolist())


def describe_snapshot(snapshot: Snapshot, sizes: list[int]) -> ShowOutcome:
    """Return a snapshot as it is shown; `sizes` are the numbers of rows of its segments."""
    manifest = snapshot.manifest
    sizes = sorted(sizes) or [0]
    each = f", {sizes[0]:,} to {sizes[-1]:,} rows each, half of them at most {sizes[(len(sizes) - 1) // 2]:,}"
    facts = {
        "id": snapshot.id,
        "rows": f"{manifest.rows:,} in {len(manifest.files)} file(s), {sum(f.bytes for f in manifest.files):,} bytes",
        "taken": f"{snapshot.created_at[:16].replace('T', ' ')} UTC from {snapshot.source}",
        "segments": f"{len(sizes):,} by {', '.join(manifest.by)}{each}"
        if manifest.by
        else "none: one model for all rows",
        "schema": manifest.spec.name,
        **{f"  {c.name}": f"{c.role}   {c.rule()}   {c.meaning()}" for c in manifest.spec.columns},
    }
    return ShowOutcome(
        kind="snapshot",
        name=snapshot.label,
        facts=facts,
        details={"manifest": manifest, "segments": len(sizes), "smallest": sizes[0], "largest": sizes[-1]},
        next=f"modelmill train --snapshot {snapshot.label}",
    )


def _read(project: Project, request: ImportRequest, window: str | None = None) -> _Source:
    """Read what the request names: a frame, a file, a connection; else what the model's @data function reads."""
    if request.frame is not None:
        return _Source(read_table(request.frame), describe(request.frame))
    if request.source is None:
        check_window(project.model, None, window)
        return _Source(read_source(project, parse_window(window)), f"@data {dataset_of(project.model)}({window or ''})")
    if window is not None:
        raise UsageError("--window chooses among the rows that @data reads", got=request.source or "a frame")
    address, name = address_of(project.settings, request.source)
    wanted = {"table": request.table or "", "query": request.query or ""}
    found = read_address(request.source, address, project.settings.root, project.model.spec.texts, **wanted)
    return _Source(found, f"{name} {request.table or ''}".strip())


def address_of(settings: Settings, source: str) -> tuple[str, str]:
    """Return the address of a file or a connection, and what it is called: an address may hold a password."""
    for candidate in (Path.cwd() / source, settings.root / source):
        if candidate.is_file():
            return str(candidate.resolve()), str(candidate.resolve())
    if source in settings.connections:
        address = settings.address(source, ENVIRONMENT)
        return address, f"connection {source}" if is_database(address) else str(settings.root / address)
    near = [path.name for path in Path.cwd().glob("*") if path.is_file()]
    raise NotFound(
        f"there is neither a file nor a connection `{source}`",
        likely=did_you_mean(source, [*settings.connections, *near]),
    )


def _newest(store: Store) -> Snapshot:
    found = kept_snapshots(store, limit=1)
    if not found:
        raise NotFound("there are no snapshots yet", next="modelmill data import FILE")
    return found[0]


def _promises(column: Column) -> int:
    """Count what a column promises: its type, each bound, its values, and that it is never null."""
    bounds = sum(getattr(column, name) is not None for name in _BOUNDS)
    return 1 + bounds + bool(column.values) + (not column.nullable)
