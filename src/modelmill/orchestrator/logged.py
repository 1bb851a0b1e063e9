"""``predictions/MODEL``: what nodes have logged of a model's answers, as a dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from modelmill.data.predictions import LoggedFile, count_unsettled, journal_folder, list_files, read_predictions
from modelmill.errors import NotFound, UsageError, did_you_mean
from modelmill.names import ModelName
from modelmill.orchestrator.settling import settle_in, shapes_of
from modelmill.outcomes import LoggedFacts, ShowOutcome
from modelmill.requests import SnapshotShowRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store

LOGGED = "predictions/"
_SHOWN = 10
_LOOKED_AT = 100_000
"""How many rows are looked at where nobody asks for more."""
_WIDTH = 120
_WRITERS = {".parquet": "write_parquet", ".csv": "write_csv"}


def list_logged(store: Store, settings: Settings, dataset: str | None = None) -> list[LoggedFacts]:
    """Return what was logged of each model, or of the one that `dataset` names."""
    settle_in(store, settings)
    files: dict[ModelName, list[LoggedFile]] = {}
    for file in list_files(store):
        files.setdefault(file.model, []).append(file)
    pending = count_unsettled(store) if journal_folder(store).is_dir() else {}
    models = sorted({*files, *pending})
    return [
        _facts(model, files.get(model, []), pending.get(model, 0))
        for model in models
        if dataset in (None, f"{LOGGED}{model}")
    ]


def _facts(model: ModelName, files: list[LoggedFile], pending: int) -> LoggedFacts:
    return LoggedFacts(
        label=f"{LOGGED}{model}",
        rows=sum(file.rows for file in files),
        files=len(files),
        bytes=sum(file.bytes for file in files),
        pending=pending,
        first_at=min((file.first_at for file in files), default=None),
        last_at=max((file.last_at for file in files), default=None),
    )


def read_logged(store: Store, settings: Settings, model: ModelName, last: int | None = None) -> pl.DataFrame:
    """Return logged rows of a model, the newest `last` of them, the newest last; raises `NotFound` where there are none."""
    settle_in(store, settings)
    has_any = journal_folder(store).is_dir()
    frame = read_predictions(store, shapes_of(store), model, last) if has_any else pl.DataFrame()
    if frame.is_empty():
        known = {str(file.model) for file in list_files(store)}
        raise NotFound(
            f"nothing was logged of `{model}`",
            likely=did_you_mean(model, known),
            next="modelmill up      (its node logs what it is asked)",
        )
    return frame


def show_logged(store: Store, settings: Settings, request: SnapshotShowRequest) -> ShowOutcome:
    """Show what was logged of one model; with `out`, write the rows to a file."""
    assert request.snapshot is not None  # noqa: S101 - its caller has looked
    model = ModelName(request.snapshot.removeprefix(LOGGED))
    frame = read_logged(store, settings, model, request.last or (None if request.out else _LOOKED_AT))
    files = [file for file in list_files(store) if file.model == model]
    facts = {
        "rows": f"{len(frame):,}, the newest, of {frame['request_id'].n_unique():,} requests",
        "asked": _span(frame["asked_at"]),
        "kept": f"{sum(file.rows for file in files):,} rows in {len(files)} file(s), "
        f"{sum(file.bytes for file in files):,} bytes; what was just asked is in journals still",
        "segments": f"{frame['segment'].n_unique():,}",
        "versions": ", ".join(map(str, frame["version"].unique().sort().to_list()[-_SHOWN:])),
        "pooled": _pooled(frame),
        "latency": f"p50 {frame['latency_ms'].quantile(0.5):.3g} ms, p99 {frame['latency_ms'].quantile(0.99):.3g} ms",
        **_latest(frame),
    }
    if request.out:
        facts["written"] = str(write_frame(flat(frame), request.out))
    return ShowOutcome(
        kind="predictions",
        name=request.snapshot,
        facts=facts,
        details={"files": files, "rows": frame.tail(_SHOWN).to_dicts()},
        next=f"modelmill parity {model}",
    )


def _span(moments: pl.Series) -> str:
    first, last = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments.sort().gather([0, -1]).to_list())
    return f"{first} to {last} UTC"


def _pooled(frame: pl.DataFrame) -> str:
    count = int((frame["pooled_because"] != "").sum())
    return f"{count:,} of these rows were not answered by their own segment's model"


def _latest(frame: pl.DataFrame) -> dict[str, str]:
    """Return the newest rows, the newest first."""
    return dict(_told(row) for row in reversed(frame.tail(_SHOWN).to_dicts()))


def _told(row: dict[str, Any]) -> tuple[str, str]:
    inputs = " ".join(f"{name}={value}" for name, value in row["inputs"].items() if value is not None)
    name = f"  {row['request_id']} {row['row'] or ''}".rstrip()
    return name, f"{row['segment']} {row['version']}   {row['answer']}   {inputs[:_WIDTH]}"


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Return logged rows without structs: inputs under their names, behind ``input_``; a probability a column."""
    inputs = frame["inputs"].struct.unnest()
    told = frame.drop("inputs").with_columns(inputs.rename({name: f"input_{name}" for name in inputs.columns}))
    if "probabilities" not in told.columns:
        return told
    return told.with_columns(pl.col("probabilities").cast(pl.List(pl.String)).list.join(" "))


def write_frame(frame: pl.DataFrame, out: str) -> Path:
    """Write a frame as its file's ending says; raises `UsageError` for another one."""
    path = check_ending(out)
    # Beside it first: a disk that is full, or a kill, leaves the file that was there.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        getattr(frame, _WRITERS[path.suffix])(beside)
        beside.replace(path)
    except OSError as error:
        raise UsageError(f"`{out}` cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def check_ending(out: str) -> Path:
    """Return the file that is to be written; better refused before the work than after it."""
    path = Path(out)
    if path.suffix not in _WRITERS:
        raise UsageError(f"`{out}` is neither a .parquet nor a .csv file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder `{path.parent}`", next=f"mkdir -p {path.parent}")
    return path
