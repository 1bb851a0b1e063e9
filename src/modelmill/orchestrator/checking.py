"""`check`: the whole way on one segment, in seconds, with nothing recorded."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from modelmill.build.fitting import check_row_wise, seed_of, tests_of
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.contract import check as check_contract
from modelmill.data.taking import index_segments, sort_rows
from modelmill.errors import LawFailed, ModelReturned, NoRows, NotFound, Unsaveable, UserCodeFailed, did_you_mean
from modelmill.model.artifact import encode
from modelmill.model.declaration import Model
from modelmill.model.fitted import Asker, answer, make_x, make_y, typical_row
from modelmill.model.loading import user_frames
from modelmill.model.metrics import metrics_for
from modelmill.model.request import as_json
from modelmill.model.roles import Run
from modelmill.model.rows import Rows
from modelmill.names import POOLED, Segment, format_segment, parse_segment
from modelmill.orchestrator.outcomes import CheckOutcome, CheckStep, Comparison, Progress, no_progress
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.requests import CheckRequest
from modelmill.orchestrator.rows import read_source
from modelmill.orchestrator.summary import inactive_policies
from modelmill.settings import Settings

_REOPENED_S = 120


class Tried(NamedTuple):
    """One segment that was fitted and not kept."""

    segment: Segment
    fitted: Any
    rows: Rows
    x: Any
    y: Any
    kept: int
    """How many of the rows trained; the others test."""


def check(settings: Settings, request: CheckRequest, progress: Progress = no_progress) -> CheckOutcome:
    """Try the model file on one segment; the first thing that does not hold is raised as its error."""
    began = time.monotonic()
    steps: list[CheckStep] = []

    @contextmanager
    def step(text: str) -> Iterator[None]:
        progress("line", {"text": f"trying: {text}"})
        at = time.monotonic()
        yield
        steps.append(CheckStep(text=text, seconds=time.monotonic() - at))

    with step("the model file imports"):
        project = open_project(settings, request.file, request.model)
    model = project.model
    steps.append(CheckStep(text=f"roles: {', '.join(model.roles)}, {len(model.laws)} law(s)"))
    frame = read_source(project)
    with step(f"the contract holds on {len(frame):,} rows"):
        typed = check_contract(model.spec, frame, "@data")
    wanted = parse_segment(request.segment) if request.segment else None
    with step("one segment is trained"):
        tried = _fit(project, typed, wanted)
    with step("it answers its test rows"):
        comparison = _judge(model, tried)
    with step(f"{len(model.laws)} law(s) hold"):
        _ask_laws(project, tried)
    with step("it is saved, and a clean process gives the same answers"):
        _reopen(project, tried)
    typical = {name: as_json(value) for name, value in typical_row(model.spec, tried.rows).items()}
    fields = " ".join(f"{name}={value}" for name, value in typical.items())
    return CheckOutcome(
        model=model.name,
        file=project.shown_path,
        segment=format_segment(tried.segment),
        steps=tuple(steps),
        seconds=time.monotonic() - began,
        comparison=comparison,
        inactive=inactive_policies(model),
        next=f"modelmill predict {fields}",
    )


def fit_one(project: Project, segment: Segment) -> Tried:
    """Fit one segment of what @data reads now; where it has too few rows, all rows together."""
    typed = check_contract(project.model.spec, read_source(project), "@data")
    try:
        return _fit(project, typed, segment)
    except NotFound:
        return _fit(project, typed, POOLED)


def _fit(project: Project, frame: Any, wanted: Segment | None) -> Tried:
    model = project.model
    ordered = sort_rows(frame, model.spec, model.by)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        segments = write_build_table(path, model.spec, index_segments(ordered, model.spec, model.by), ordered)
        start, length, segment = _choose(model, segments, wanted)
        rows = BuildTable(path, model.spec).rows(start, start + length)
    x = make_x(model.role("features"), model.spec, rows)
    if (features := model.role("features")) is not None:
        check_row_wise(features, model, rows, x)
    y = make_y(model.spec, rows)
    kept = length - tests_of(length, model.test_share)
    return Tried(
        segment, _call_train(project, segment, x[:kept], y[:kept], rows.take(slice(0, kept))), rows, x, y, kept
    )


def _choose(model: Model, segments: Any, wanted: Segment | None) -> tuple[int, int, Segment]:
    total = int(segments.rows.sum())
    if not total:
        raise NoRows("no row has a label", where=f"column `{model.spec.target.name}`")
    if wanted == POOLED or not model.by:
        return 0, total, POOLED
    if wanted is None:
        place = int(np.argmax(segments.rows))
    elif wanted in segments.keys and segments.rows[segments.keys.index(wanted)] >= model.min_rows:
        place = segments.keys.index(wanted)
    else:
        names = [format_segment(key) for key in segments.keys]
        raise NotFound(
            f"segment `{format_segment(wanted)}` has fewer than {model.min_rows} labelled rows, or none",
            likely=did_you_mean(format_segment(wanted), names),
        )
    return int(segments.starts[place]), int(segments.rows[place]), segments.keys[place]


def _call_train(project: Project, segment: Segment, x: Any, y: Any, rows: Rows) -> Any:
    model = project.model
    role = model.role("train")
    assert role is not None  # noqa: S101 - loading refuses a model without
    seed = seed_of(model.seed, segment)
    available = {"x": x, "y": y, "rows": rows, "segment": segment, "seed": seed, "run": Run(seed, segment)}
    try:
        fitted = role.call(available, model.parameters)
    except Exception as error:
        raise UserCodeFailed(
            f"train() raised {type(error).__name__}: {error}",
            where="\n".join(user_frames(error, project.settings.root)) or role.where,
            got=f"segment {format_segment(segment)}, x {x.shape}, y {y.shape}",
        ) from error
    if fitted is None:
        raise ModelReturned("train() returned None", where=role.where, next="return the fitted model")
    return fitted


def _judge(model: Model, tried: Tried) -> Comparison:
    found = _answers(model, tried)
    truth = tried.y[tried.kept :]
    name = model.metrics[0]
    own = {metric: role.function for metric, role in model.own_metrics.items()}
    metric = {**metrics_for(model.task), **own}[name]
    flat = np.full(len(truth), tried.y[: tried.kept].mean()) if found.ndim == 1 else None
    mean = metric(truth, flat) if flat is not None else None
    return Comparison(metric=name, rows=len(truth), own=metric(truth, found), mean=mean, unit=model.spec.target.unit)


def _answers(model: Model, tried: Tried) -> Any:
    tested = tried.rows.take(slice(tried.kept, None))
    return answer(tried.fitted, model.role("predict"), len(model.labels), tried.x[tried.kept :], tested, tried.segment)


def _ask_laws(project: Project, tried: Tried) -> None:
    model = project.model
    typical = typical_row(model.spec, tried.rows)
    ask = Asker(
        model.spec, model.labels, model.role("features"), model.role("predict"), tried.fitted, tried.segment, typical
    )
    for name, law in model.laws.items():
        try:
            law.call({"ask": ask})
        except AssertionError as error:
            row = ", ".join(f"{field} {as_json(value)}" for field, value in typical.items())
            raise LawFailed(
                f"law failed: {name}",
                where=law.where,
                expected="; ".join(user_frames(error, project.settings.root)),
                got=f"segment {format_segment(tried.segment)}; fields that ask() leaves out: {row}",
                safe="found by `check` on one segment; nothing was recorded",
            ) from error


def _reopen(project: Project, tried: Tried) -> None:
    """Open the saved model in a clean process and compare its answers, byte for byte."""
    model = project.model
    plain = model.role("predict") is None and model.role("features") is None
    artifact = encode(tried.fitted, plain_predict=plain)
    golden = tried.x[tried.kept :][:5]
    with tempfile.TemporaryDirectory() as folder:
        content = msgspec.msgpack.encode(
            {
                "file": str(project.file.path),
                "root": str(project.settings.root),
                "model": model.name,
                "format": artifact.format,
                "artifact": artifact.content,
                "x": golden.tobytes(),
                "shape": golden.shape,
            }
        )
        path = Path(folder) / "saved"
        path.write_bytes(content)
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "modelmill.orchestrator.reopening", str(path)],
            capture_output=True,
            timeout=_REOPENED_S,
            check=False,
        )
    here = np.asarray(_answers_x(model, tried.fitted, golden, tried), dtype="<f8").tobytes()
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unsaveable("a clean process cannot open the saved model", got=said[-1][:300] if said else "")
    there = bytes.fromhex(done.stdout.decode().strip().splitlines()[-1])
    _compare(here, there)


def _compare(here: bytes, there: bytes) -> None:
    a, b = np.frombuffer(here), np.frombuffer(there)
    if a.shape != b.shape or not np.allclose(a, b, rtol=1e-9, atol=1e-12):
        raise Unsaveable("the saved model answers otherwise than the fitted one", expected=str(a[:3]), got=str(b[:3]))


def _answers_x(model: Model, fitted: Any, x: Any, tried: Tried) -> Any:
    rows = tried.rows.take(slice(tried.kept, tried.kept + len(x)))
    return answer(fitted, model.role("predict"), len(model.labels), x, rows, tried.segment)
