"""Where a model's rows come from: what its @data function reads, or a snapshot that is there already."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from modelmill.data.snapshot import Snapshot
from modelmill.data.sources import read_table, reading
from modelmill.data.taking import Taken, get_snapshot, load_taken, take_snapshot
from modelmill.errors import DeclarationInvalid, ModelmillError, NotFound, UsageError, UserCodeFailed
from modelmill.model.declaration import Model, Window
from modelmill.model.loading import user_frames
from modelmill.orchestrator.inspecting import Inspection
from modelmill.orchestrator.project import Project
from modelmill.outcomes import SnapshotFacts
from modelmill.settings import DEV
from modelmill.store.opening import Store

ENVIRONMENT = DEV
_ALWAYS = Window()


def dataset_of(model: Model) -> str:
    """Return the name of the dataset: that of the @data function, else the model's."""
    role = model.role("data")
    return role.function.__name__ if role else model.name


def take_rows(project: Project, store: Store, snapshot: str | None = None, window: str | None = None) -> Taken:
    """Return the rows to build from: the named snapshot, what @data returns now (of a window), or the newest import."""
    model = project.model
    check_window(model, snapshot, window)
    if snapshot is not None:
        return _fitting(model, load_taken(store, get_snapshot(store, snapshot)))
    if model.role("data") is None:
        return _fitting(model, load_taken(store, _newest(model, store)))
    frame = read_source(project, parse_window(window))
    source = f"@data {dataset_of(model)}({window or ''})"
    inspect = Inspection(project, store, dataset_of(model), source, chosen=window is not None)
    return take_snapshot(store, dataset_of(model), model.spec, model.by, frame, source, inspect=inspect)


def parse_window(text: str | None) -> Window:
    """Return the window that ``2013-01-01..2013-12-31`` names: with its start, without its end, either may be missing."""
    if text is None:
        return Window()
    start, dots, end = text.partition("..")
    try:
        found = Window(*(datetime.fromisoformat(part) if part else None for part in (start, end)))
    except ValueError as error:
        raise UsageError(f"`{text}` is not a window", expected="such as ..2013-12-31", likely=str(error)) from error
    if not dots or (found.start and found.end and found.start >= found.end):
        raise UsageError(f"`{text}` is not a window", expected="A..B with A before B, such as ..2013-12-31")
    return found


def check_window(model: Model, snapshot: str | None, window: str | None) -> None:
    """Refuse a window that would be overheard: rows that nobody asked for would be taken for those of the window."""
    if window is None:
        return
    role = model.role("data")
    if snapshot is not None:
        raise UsageError("a snapshot has its rows already: a window cannot choose among them", got=f"--window {window}")
    if role is None or "window" not in role.asks:
        raise UsageError(
            f"the rows of `{model.name}` know no window",
            where=role.where if role else "",
            next="@data def NAME(window), which reads the rows from window.start to window.end",
        )


def read_source(project: Project, window: Window = _ALWAYS) -> Any:
    """Return what the model's @data function returns, as a polars frame."""
    role = project.model.role("data")
    if role is None:
        raise DeclarationInvalid(
            f"model `{project.model.name}` has no @data function", next="modelmill data import FILE"
        )
    with reading(project.settings, ENVIRONMENT, project.model.spec.texts):
        try:
            found = role.call({"window": window})
        except ModelmillError:
            raise
        except Exception as error:
            raise UserCodeFailed(
                f"@data raised {type(error).__name__}: {error}",
                where="\n".join(user_frames(error, project.settings.root)) or role.where,
            ) from error
    return read_table(found)


def snapshot_facts(taken: Taken) -> SnapshotFacts:
    """Return a snapshot as it is shown."""
    manifest = taken.snapshot.manifest
    return SnapshotFacts(
        label=taken.snapshot.label,
        dataset=manifest.dataset,
        number=taken.snapshot.number,
        digest=taken.snapshot.id,
        rows=manifest.rows,
        segments=len(taken.segments),
        bytes=sum(file.bytes for file in manifest.files),
        source=taken.snapshot.source,
        new=taken.new,
        rows_without_label=taken.frame[manifest.spec.target.name].null_count(),
        notices=taken.notices,
    )


def kept_facts(snapshot: Snapshot) -> SnapshotFacts:
    """Return a snapshot that was taken before, as it is shown; its rows are not read."""
    manifest = snapshot.manifest
    return SnapshotFacts(
        label=snapshot.label,
        dataset=manifest.dataset,
        number=snapshot.number,
        digest=snapshot.id,
        rows=manifest.rows,
        segments=snapshot.segments,
        bytes=sum(file.bytes for file in manifest.files),
        source=snapshot.source,
        taken_at=datetime.fromisoformat(snapshot.created_at),
        new=False,
    )


def _newest(model: Model, store: Store) -> Any:
    try:
        return get_snapshot(store, dataset_of(model))
    except NotFound as error:
        raise NotFound(
            f"model `{model.name}` has no @data function and no snapshot", next="modelmill data import FILE"
        ) from error


def _fitting(model: Model, taken: Taken) -> Taken:
    """Check an older snapshot against the model as it is now; the same content is the same snapshot."""
    check_fits(model, taken.snapshot)
    return taken


def check_fits(model: Model, snapshot: Snapshot) -> None:
    """Refuse a snapshot whose rows were checked against another schema, or sorted by other keys."""
    manifest = snapshot.manifest
    if (manifest.spec, manifest.by) != (model.spec, model.by):
        raise DeclarationInvalid(
            f"snapshot `{snapshot.label}` was taken with another schema or other keys than `{model.name}` has now",
            next=f"modelmill data import FILE --dataset {manifest.dataset}      (takes it again)",
        )
