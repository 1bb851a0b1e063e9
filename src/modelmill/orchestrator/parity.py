"""`parity`: what was served is what training computes, or how far it is from it.

Logged inputs go the way of training rows: through the table that build workers map, the archived file's own `@features`
and `@predict`, and the fitted object, in a process that knows nothing of requests. Features that a request computes
otherwise than a table does - a default, a rounding, a time zone - show up as other answers.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelmill.artifact.agreeing import FLOOR
from modelmill.names import ModelName, format_target
from modelmill.orchestrator.batch import answer_rows
from modelmill.orchestrator.logged import read_logged
from modelmill.orchestrator.served import pick_model
from modelmill.outcomes import ParityOutcome, Progress, Skew, no_progress
from modelmill.registry.evidence import PARITY, record_evidence
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.runs import get_run
from modelmill.requests import ParityRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

_SHOWN = 10


def parity(settings: Settings, request: ParityRequest, progress: Progress = no_progress) -> ParityOutcome:
    """Ask the newest logged rows again and compare, run by run."""
    began = time.monotonic()
    with open_store(settings, create=False) as store:
        model = pick_model(store, request.model)
        logged = read_logged(store, settings, model, request.last)
        progress("line", {"text": f"asking {len(logged):,} logged rows again"})
        parts = [_replayed(store, settings, model, some) for some in logged.partition_by("run", maintain_order=True)]
    rows = pl.concat(parts)
    equal = rows["difference"] <= request.tolerance * rows["scale"]
    skewed = rows.filter(~equal).sort("difference", descending=True)
    _record(settings, model, rows, equal)
    worst = tuple(
        Skew(**row)
        for row in skewed.head(_SHOWN)
        .select("request_id", "row", "segment", "version", "logged", "replayed", "difference")
        .to_dicts()
    )
    return ParityOutcome(
        model=model,
        rows=len(rows),
        identical=int((rows["difference"] == 0).sum()),
        equal=int(equal.sum()),
        tolerance=request.tolerance,
        largest=float(rows["difference"].max()),  # type: ignore[arg-type]  # there is at least one row
        skewed=worst,
        by_version=_by_version(model, skewed),
        seconds=time.monotonic() - began,
        next=f"modelmill show '{format_target(model)}[{worst[0].segment}]' {worst[0].version}" if worst else "",
    )


def _record(settings: Settings, model: ModelName, rows: pl.DataFrame, equal: pl.Series) -> None:
    told = {"rows": len(rows), "equal": int(equal.sum()), "largest": float(rows["difference"].max())}  # type: ignore[arg-type]
    with open_store(settings, create=False) as store:
        record_evidence(store.database, model, PARITY, verdict=bool(equal.all()), facts=told)


def _replayed(store: Store, settings: Settings, model: ModelName, logged: pl.DataFrame) -> pl.DataFrame:
    """Return rows of one run with the answers of the training path and how far they are apart."""
    fleet = _map_of(store, model, logged)
    inputs = logged["inputs"].struct.unnest()
    unused = [name for name in inputs.columns if inputs[name].is_null().all() and name not in fleet.header.by]
    again = answer_rows(store, settings, fleet, inputs.drop(unused))
    labels = fleet.header.labels
    before = _numbers(logged, labels)
    apart, scale = np.abs(again.numbers - before), np.maximum(np.abs(again.numbers), np.abs(before))
    if labels:
        apart, scale = apart.max(axis=1), np.ones(len(before))
    return with_floor(
        logged.select("request_id", "row", "segment", "version", pl.col("answer").alias("logged")).with_columns(
            pl.Series("replayed", again.values(labels)),
            pl.Series("difference", apart),
            pl.Series("scale", np.maximum(scale, np.finfo(np.float64).tiny)),
        )
    )


def with_floor(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose `scale` is a share of the largest of their model at least; see `agreeing.apart`."""
    largest = pl.col("scale").max().over("segment", "version")
    return rows.with_columns(scale=pl.max_horizontal("scale", FLOOR * largest))


def _map_of(store: Store, model: ModelName, logged: pl.DataFrame) -> FleetMap:
    """Return the fleet map by which rows of one run were answered."""
    found = get_run(store.database, model, int(logged["run"][0]))
    assert found.map is not None  # noqa: S101 - its rows could not be read without
    return decode(store.blobs.get(found.map))


def _numbers(logged: pl.DataFrame, labels: tuple[str, ...]) -> NDArray[np.float64]:
    if labels:
        return np.array(logged["probabilities"].to_list(), dtype=np.float64)
    return logged["answer"].to_numpy()


def _by_version(model: str, skewed: pl.DataFrame) -> dict[str, int]:
    counts = Counter(
        f"{format_target(model)}[{segment}] {version}"
        for segment, version in skewed.select("segment", "version").rows()
    )
    return dict(counts.most_common(_SHOWN))
