"""`train`: from rows to a registered version, building nothing that is there already."""

from __future__ import annotations

import ast
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from modelmill.build.builder import Builder, BuildResult, Judge, start_template
from modelmill.build.levels import plan_parents
from modelmill.build.plan import Plan, has_several_classes, plan_build
from modelmill.build.segment import tests_among, write_tests
from modelmill.build.work import Setup
from modelmill.compute.forks import Template
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.histogram import freeze_bins
from modelmill.data.snapshot import Segments
from modelmill.data.taking import Taken
from modelmill.errors import NotFound, NothingBuilt, UsageError, did_you_mean
from modelmill.model.declaration import Model
from modelmill.model.fitted import make_y, typical_row
from modelmill.model.linear import LinearTrain
from modelmill.model.loading import imported_files
from modelmill.model.rows import Rows
from modelmill.model.values import as_json
from modelmill.names import Digest, digest_of, format_segment
from modelmill.orchestrator import summary
from modelmill.orchestrator.champion import Board
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.rows import snapshot_facts, take_rows
from modelmill.outcomes import Progress, TrainOutcome, no_progress
from modelmill.registry import facts, runs
from modelmill.registry.evidence import DETERMINISTIC, record_evidence
from modelmill.registry.fleet import Header
from modelmill.registry.host import capture_host
from modelmill.registry.lock import capture_lock
from modelmill.registry.records import Run, RunStart
from modelmill.registry.versions import heads
from modelmill.requests import TrainRequest
from modelmill.settings import BuildSettings, Settings
from modelmill.store.files import temporary
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store, open_store

_NUMBERS_TOGETHER = 1 << 23
"""Rows times columns: 64 MB, of which a worker holds a few copies."""


class Movement(NamedTuple):
    """What a training is allowed to change, and who judges it; `train` itself is free."""

    kind: str = "train"
    parameters: Mapping[str, Any] | None = None
    """Those of the champion; None: those of the model file and of ``--set``."""
    judge: Callable[[Segments, Board], Judge] | None = None
    """Makes the judge, given the labelled segments and the table in which they lie."""


FREE = Movement()


class Trained(NamedTuple):
    """What a training did, with what a release needs of it."""

    outcome: TrainOutcome
    map_digest: Digest
    project: Project


def train(settings: Settings, request: TrainRequest, progress: Progress = no_progress) -> TrainOutcome:
    """Build every segment whose code, data or model changed, and record it."""
    project = open_project(settings, request.file, request.model)
    with open_store(settings) as store, ProjectLock(store.lock_path, "train"):
        return train_in(store, project, request, progress).outcome


def train_in(
    store: Store, project: Project, request: TrainRequest, progress: Progress, movement: Movement = FREE
) -> Trained:
    """Do `train` in a store that the caller has opened and locked."""
    training = _Training(store, project, request, progress, movement)
    with training.scratch():
        return training.run()


class _Training:
    """One training, told step by step."""

    def __init__(
        self, store: Store, project: Project, request: TrainRequest, progress: Progress, movement: Movement
    ) -> None:
        self.store, self.project, self.request, self.progress = store, project, request, progress
        self.movement = movement
        self.model: Model = project.model
        self.parameters = dict(movement.parameters or parse_values(self.model, request.values))
        self.began = time.monotonic()
        self.stages: dict[str, float] = {}
        self.folder = temporary(store.scratch)
        self.template: Template | None = None

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Have a folder for the table that the workers map; it goes when the training ends."""
        self.store.sweep()
        self.folder.mkdir(parents=True)
        try:
            yield
        finally:
            if self.template is not None:
                self.template.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of a stage."""
        began = time.monotonic()
        yield
        self.stages[name] = time.monotonic() - began

    def run(self) -> Trained:
        """Go from rows to a recorded version, or find that there is nothing to do."""
        last = self._last_run()
        if last is None:
            # Nothing can be unchanged, so there will be workers: they get ready while the rows are read.
            self.template = self._start_template()
        with self.stage("snapshot"):
            taken = take_rows(self.project, self.store, self.request.snapshot, self.request.window)
        if self.template is None and taken.new:
            self.template = self._start_template()
        self.progress("line", {"text": f"snapshot {taken.snapshot.label}   {taken.snapshot.manifest.rows:,} rows"})
        with self.stage("plan"):
            labelled = write_build_table(self.folder / "table", self.model.spec, taken.segments, taken.frame)
            table = BuildTable(self.folder / "table", self.model.spec)
            plan = self._plan(labelled, table.rows(0, int(labelled.rows.sum())))
        if plan.empty and last is not None and last.snapshot == taken.snapshot.id and last.map is not None:
            return self._finished(taken, plan, BuildResult(last, last.map), started=False)
        with self.stage("register"):
            run, resumed = self._start_run(taken, plan)
        with self.stage("build"):
            result = self._build(plan, run, labelled, table)
        if result.map_digest is None:
            raise self._nothing_built(result)
        self._record_steadiness(result)
        return self._finished(taken, plan, result, started=True, resumed=resumed)

    def _start_template(self) -> Template:
        return start_template(self.project.settings.root, together=rows_together(self.model) > 0)

    # ---------------------------------------------------------------- deciding

    def _plan(self, labelled: Segments, rows: Rows) -> Plan:
        several = np.ones(len(labelled), dtype=bool)
        if self.model.task != "regression":
            several = has_several_classes(make_y(self.model.spec, rows), labelled)
        code = facts.capture_code(
            self.store.blobs, self.project.settings.root, imported_files(self.project.settings.root)
        )
        known = heads(self.store.database, self.model.name)
        if self.request.rebuild:
            known = {segment: msgspec.structs.replace(head, digests=None) for segment, head in known.items()}
        plan = plan_build(self.model, labelled, several, code, self._recipe(), known)
        if not self.model.levels:
            return plan
        tests = tests_among(labelled.rows, self.model.test_share)
        return plan_parents(self.model, labelled, rows, tests, plan, known)

    def _recipe(self) -> Digest:
        """Return the digest of the declaration with the parameters of this run: the model's part of a version."""
        return digest_of(self._declaration())

    def _declaration(self) -> bytes:
        return recipe_of(self.model, self.parameters)

    def _last_run(self) -> Run | None:
        try:
            return runs.get_run(self.store.database, self.model.name)
        except NotFound:
            return None

    def _start_run(self, taken: Taken, plan: Plan) -> tuple[Run, bool]:
        """Begin a run, or go on with the one that was interrupted over the same code, data and model."""
        database, blobs = self.store.database, self.store.blobs
        kind = self.movement.kind
        wanted = digest_of(f"{kind}{taken.snapshot.id}{plan.code}{plan.model}{self.request.rebuild}".encode())
        unfinished = runs.unfinished_run(database, self.model.name, wanted)
        runs.abandon_runs(database, self.model.name, but=unfinished)
        if unfinished is not None:
            return unfinished, True
        root = self.project.settings.root
        commit = facts.capture_commit(blobs, root)
        (declaration,) = blobs.put([self._declaration()])
        start = RunStart(
            model=self.model.name,
            idempotency_key=digest_of(f"{wanted}{self.folder}{time.time_ns()}".encode()),
            plan=wanted,
            snapshot=taken.snapshot.id,
            code=plan.code,
            model_digest=plan.model,
            lock=capture_lock(blobs, root, imported_files(root), self.store.folder / "cache"),
            host=capture_host(blobs),
            declaration=declaration,
            score=self.model.metrics[0],
            kind=kind,
            commit=commit.commit,
            diff=commit.diff,
            parameters=as_text(self.parameters),
            tags=self.model.tags,
            seed=self.model.seed,
        )
        return runs.start_run(database, start), False

    # ---------------------------------------------------------------- building

    def _build(self, plan: Plan, run: Run, labelled: Segments, table: BuildTable) -> BuildResult:
        every = table.rows(0, int(labelled.rows.sum()))
        write_tests(self.folder / "tests", labelled.rows, self.model.test_share)
        setup = Setup(
            file=self.project.file.path,
            root=self.project.settings.root,
            model=self.model.name,
            table=self.folder / "table",
            blobs=self.store.blobs.folder,
            parameters=self.parameters,
            bins=freeze_bins(self.model.spec, every),
            code=plan.code,
            recipe=plan.model,
            tests=self.folder / "tests",
            together=rows_together(self.model),
        )
        limits = self._limits()
        largest = int(np.argmax(labelled.rows))
        start, length = int(labelled.starts[largest]), int(labelled.rows[largest])
        header = self._header(plan, run, table.rows(start, start + length))
        judge = None
        if self.movement.judge:
            self.template = self.template or self._start_template()
            judge = self.movement.judge(labelled, Board(self.folder / "table", self.model.test_share, self.template))
        return Builder(self.store, limits, setup, plan, run, self.template).build(header, self.progress, judge)

    def _limits(self) -> BuildSettings:
        declared, workers = self.project.settings.build, self.request.workers
        return replace(declared, workers=workers) if workers else declared

    def _header(self, plan: Plan, run: Run, rows: Rows) -> Header:
        model = self.model
        typical = {name: as_json(value) for name, value in typical_row(model.spec, rows).items()}
        return Header(
            model=model.name,
            spec=model.spec,
            by=model.by,
            task=model.task,
            code=plan.code,
            entry=(str(self.project.file.path.relative_to(self.project.settings.root)), model.name),
            labels=model.labels,
            parameters=as_text(self.parameters),
            feature_names=model.feature_names,
            example=typical,
            run=run.number,
            lock=run.lock,
            levels=model.levels or UNSET,
            safe=model.safe or UNSET,
            batching=model.batching or UNSET,
        )

    def _record_steadiness(self, result: BuildResult) -> None:
        if result.steady is not None:
            segment, steady = result.steady
            told = {"segment": format_segment(segment)}
            database, run = self.store.database, result.run
            record_evidence(database, run.model, DETERMINISTIC, number=run.number, verdict=steady, facts=told)

    # ---------------------------------------------------------------- telling

    def _finished(
        self, taken: Taken, plan: Plan, result: BuildResult, *, started: bool, resumed: bool = False
    ) -> Trained:
        if result.map_digest is None:
            raise self._nothing_built(result)
        seconds = time.monotonic() - self.began
        outcome = summary.train_outcome(
            self.store, self.model, plan, result, snapshot_facts(taken), started=started, seconds=seconds
        )
        build = {"start workers": result.startup_s, "build": result.seconds}
        outcome = msgspec.structs.replace(
            outcome,
            stages={**self.stages, **build} if started else self.stages,
            build_cpu_s=result.cpu_s,
            resumed=resumed,
            unsteady=format_segment(result.steady[0]) if result.steady and not result.steady[1] else "",
            explained=tuple(plan.explain()) if self.request.explain else (),
        )
        return Trained(outcome, result.map_digest, self.project)

    def _nothing_built(self, result: BuildResult) -> NothingBuilt:
        groups = summary.failure_groups(result.failures)
        first = groups[0] if groups else None
        return NothingBuilt(
            f"not one segment of `{self.model.name}` could be built",
            where=first.where if first else "",
            likely=f"{first.code} {first.cause} ({first.count} segments)" if first else "",
            next=f"modelmill check {self.project.shown_path}",
            safe="what was released before is served unchanged",
        )


def recipe_of(model: Model, parameters: Mapping[str, Any]) -> bytes:
    """Return the declaration with the parameters of a run: its digest is the model's part of a version."""
    declared = model.declaration() | {"values": {name: repr(value) for name, value in parameters.items()}}
    return msgspec.json.encode(declared, order="deterministic")


def rows_together(model: Model) -> int:
    """Return how many rows of segments are fitted together, at most; 0 where each segment is fitted by itself."""
    role = model.role("train")
    return _NUMBERS_TOGETHER // (len(model.spec.columns) + 1) if role and isinstance(role.function, LinearTrain) else 0


def parse_values(model: Model, values: tuple[str, ...], start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return train's parameters, with those that `--set name=value` names replaced; the type is the default's.

    `start` are others to begin with than the model file's.
    """
    parameters = dict(start or model.parameters)
    for text in values:
        name, equals, written = text.partition("=")
        if not equals or name not in parameters:
            raise UsageError(
                f"train() has no parameter `{name}`" if equals else f"`{text}` is not written as NAME=VALUE",
                likely=did_you_mean(name, parameters),
                expected=f"NAME=VALUE with one of {', '.join(parameters)}" if parameters else "no --set",
            )
        parameters[name] = _typed(name, written, parameters[name])
    return parameters


def _typed(name: str, written: str, default: Any) -> Any:
    if isinstance(default, str):
        return written
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False}.get(written.lower(), written)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(
            f"parameter `{name}` cannot be `{written}`", expected=f"{type(default).__name__}, such as {default!r}"
        )
    return value


def as_text(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON can hold them."""
    plain = (str, int, float, bool, type(None))
    return {name: value if isinstance(value, plain) else repr(value) for name, value in parameters.items()}
