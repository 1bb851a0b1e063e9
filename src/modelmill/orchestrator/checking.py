"""`check`: the whole way on one segment, in seconds, with nothing recorded."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelmill.build.plan import Step
from modelmill.build.segment import Common, SegmentFit, write_tests
from modelmill.build.work import Setup
from modelmill.data.build_table import write_build_table
from modelmill.data.checks import ask_checks
from modelmill.data.contract import check as check_contract
from modelmill.data.drill import drill
from modelmill.data.snapshot import Segments
from modelmill.data.taking import index_segments, sort_rows
from modelmill.errors import LawFailed, ModelmillError, NotFound, Unsaveable, UserCodeFailed, did_you_mean
from modelmill.model.declaration import Model
from modelmill.model.fitted import typical_row
from modelmill.model.loading import user_frames
from modelmill.model.values import as_json
from modelmill.names import POOLED, Digest, Segment, digest_of, format_segment, parse_segment
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.rows import read_source
from modelmill.orchestrator.summary import inactive_policies
from modelmill.outcomes import CheckOutcome, CheckStep, Comparison, DrillFacts, Progress, no_progress
from modelmill.registry.evidence import DRILL, record_evidence
from modelmill.requests import CheckRequest
from modelmill.settings import Settings
from modelmill.store.opening import open_store

_REOPENED_S = 120
_NOTHING = digest_of(b"")
"""The digest of what is not recorded."""


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
    if model.checks:
        with step(f"{len(model.checks)} check(s) of the data hold"):
            ask_checks(model.checks, typed, settings.root, "@data")
    drilled: tuple[DrillFacts, ...] = ()
    if request.drill:
        with step("bad rows are planted, and caught"):
            drilled = _drill(project, typed)
    wanted = parse_segment(request.segment) if request.segment else None
    with step("one segment is trained"):
        fit = _fit(project, typed, wanted)
    with step("it answers its test rows"):
        _go(project, fit, fit.predict)
        _go(project, fit, fit.evaluate)
    with step(f"{len(model.laws)} law(s) hold"):
        _ask_laws(project, fit)
    with step("it is saved, and a clean process gives the same answers"):
        fit.save()
        _reopen(project, fit)
    fields = " ".join(f"{name}={value}" for name, value in _typical(fit).items())
    return CheckOutcome(
        model=model.name,
        file=project.shown_path,
        segment=format_segment(fit.step.segment),
        steps=tuple(steps),
        seconds=time.monotonic() - began,
        comparison=_comparison(model, fit),
        inactive=inactive_policies(model),
        drill=drilled,
        next=f"modelmill predict {fields}",
    )


def _drill(project: Project, typed: Any) -> tuple[DrillFacts, ...]:
    """Plant bad rows, and keep as evidence which promises were seen to fail."""
    model = project.model
    found = [DrillFacts(**msgspec.structs.asdict(one)) for one in drill(model.spec, typed, model.checks)]
    told = {"planted": len(found), "caught": sum(one.caught is True for one in found)}
    told["unsure"] = sum(one.caught is None for one in found)
    verdict = all(one.caught is not False for one in found)
    with open_store(project.settings) as store:
        record_evidence(store.database, model.name, DRILL, verdict=verdict, facts=told)
    return tuple(found)


def fit_one(project: Project, segment: Segment) -> SegmentFit:
    """Fit one segment of what @data reads now; where it has too few rows, all rows together."""
    typed = check_contract(project.model.spec, read_source(project), "@data")
    try:
        return _fit(project, typed, segment)
    except NotFound:
        return _fit(project, typed, POOLED)


def _fit(project: Project, frame: Any, wanted: Segment | None) -> SegmentFit:
    """Take one segment of a checked frame through its first stage, as a build does."""
    model = project.model
    ordered = sort_rows(frame, model.spec, model.by)
    with tempfile.TemporaryDirectory() as folder:
        setup = _setup(project, Path(folder))
        segments = index_segments(ordered, model.spec, model.by)
        labelled = write_build_table(setup.table, model.spec, segments, ordered)
        write_tests(setup.tests, labelled.rows, model.test_share)
        step = _choose(model, labelled, wanted)
        common = Common(setup)
        fit = SegmentFit(common, step, common.stretch([step]), 0, [])
        _go(project, fit, fit.fit)
    return fit


def _setup(project: Project, folder: Path) -> Setup:
    return Setup(
        file=project.file.path,
        root=project.settings.root,
        model=project.model.name,
        table=folder / "table",
        blobs=folder,
        parameters=project.model.parameters,
        bins=[],
        code=_NOTHING,
        recipe=_NOTHING,
        tests=folder / "tests",
    )


def _choose(model: Model, segments: Segments, wanted: Segment | None) -> Step:
    if wanted == POOLED or not model.by:
        return Step(POOLED, 0, int(segments.rows.sum()), _NOTHING, "")
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
    data = Digest(segments.digests[place].hex())
    return Step(segments.keys[place], int(segments.starts[place]), int(segments.rows[place]), data, "")


def _go(project: Project, fit: SegmentFit, stage: Callable[[], None]) -> None:
    """Run a stage; what the user's function raises is told as its failure."""
    try:
        stage()
    except ModelmillError:
        raise
    except Exception as error:
        role = project.model.role(fit.stage)
        raise UserCodeFailed(
            f"{fit.stage}() raised {type(error).__name__}: {error}",
            where="\n".join(user_frames(error, project.settings.root)) or (role.where if role else ""),
            got=f"segment {format_segment(fit.step.segment)}, {fit.step.rows:,} rows",
        ) from error


def _comparison(model: Model, fit: SegmentFit) -> Comparison | None:
    name = model.metrics[0]
    own, mean = fit.metrics[name], fit.metrics[f"{name}:mean"]
    if own is None:
        return None
    return Comparison(metric=name, rows=len(fit.found), own=own, mean=mean, unit=model.spec.target.unit)


def _ask_laws(project: Project, fit: SegmentFit) -> None:
    try:
        _go(project, fit, fit.ask_laws)
    except LawFailed as error:
        row = ", ".join(f"{field} {value}" for field, value in _typical(fit).items())
        broken = error.__cause__ or error
        raise LawFailed(
            error.what,
            where=error.parts.get("where", ""),
            expected="; ".join(user_frames(broken, project.settings.root)),
            got=f"segment {format_segment(fit.step.segment)}; fields that ask() leaves out: {row}",
            safe="found by `check` on one segment; nothing was recorded",
        ) from broken


def _typical(fit: SegmentFit) -> dict[str, Any]:
    return {name: as_json(value) for name, value in typical_row(fit.common.model.spec, fit.rows).items()}


def _reopen(project: Project, fit: SegmentFit) -> None:
    """Open the saved model in a clean process, and compare its answers to the golden rows."""
    saved = {
        "file": str(project.file.path),
        "root": str(project.settings.root),
        "model": project.model.name,
        "segment": fit.step.segment,
        "format": fit.artifact.format,
        "artifact": fit.artifact.content,
        "extras": fit.extras,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved"
        path.write_bytes(msgspec.msgpack.encode(saved))
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "modelmill.orchestrator.reopening", str(path)],
            capture_output=True,
            timeout=_REOPENED_S,
            check=False,
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unsaveable("a clean process cannot open the saved model", got=said[-1][:300] if said else "")
    there = np.array(msgspec.json.decode(done.stdout.splitlines()[-1]))
    here = np.array(msgspec.msgpack.decode(fit.extras)["answers"])
    if here.shape != there.shape or not np.allclose(here, there, rtol=1e-9, atol=1e-12):
        raise Unsaveable(
            "the saved model answers otherwise than the fitted one", expected=str(here[:3]), got=str(there[:3])
        )
