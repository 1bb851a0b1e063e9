"""`experiment`: the same rows, another model, code or parameters; compared with the champion, and never served.

It makes no version, moves nothing that is current and writes no fleet map; it takes no lock, so that a hundred of them may
run at once. What an arm leaves is a finding (`registry.studies`) and a blob: the metrics of each segment and the answers to
its test rows, in the order of the snapshot, so that any two arms of a study can be compared in pairs later.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from modelmill.build.gating import compare
from modelmill.build.pairing import Paired
from modelmill.build.plan import Step
from modelmill.build.trying import Tried, try_segments
from modelmill.build.work import Setup
from modelmill.compute.local import LocalCompute
from modelmill.data.taking import Taken, get_snapshot
from modelmill.errors import ExperimentAborted, ExperimentEmpty, ExperimentOnOtherRows, NothingBuilt, UsageError
from modelmill.model.declaration import Model
from modelmill.model.fitted import Floats
from modelmill.model.loading import imported_files
from modelmill.names import Digest, Segment, digest_of, format_segment
from modelmill.orchestrator.champion import (
    Asked,
    Board,
    champion_map,
    champion_parameters,
    test_answers,
    test_places,
)
from modelmill.orchestrator.laying import lay_out, open_triers
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.rows import snapshot_facts, take_rows
from modelmill.orchestrator.studies import best_of, lock_of, study_facts
from modelmill.orchestrator.summary import failure_groups
from modelmill.orchestrator.training import as_text, parse_values, recipe_of
from modelmill.outcomes import ArmFacts, ExperimentOutcome, Progress, no_progress
from modelmill.registry import facts
from modelmill.registry.lock import capture_lock
from modelmill.registry.records import FailureRecord
from modelmill.registry.runs import newest_map
from modelmill.registry.studies import ArmEnd, ArmStart, begin_arm, end_arm
from modelmill.registry.versions import heads
from modelmill.requests import ExperimentRequest
from modelmill.settings import Settings
from modelmill.store.files import temporary
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store, open_store

MOST_ARMS = 1000


def experiment(settings: Settings, request: ExperimentRequest, progress: Progress = no_progress) -> ExperimentOutcome:
    """Try every combination of parameters on the champion's rows, and compare each with the champion."""
    project = open_project(settings, request.file, request.model)
    with open_store(settings) as store:
        return _Experiment(store, project, request, progress).run()


def grid(
    model: Model, values: tuple[str, ...], varied: tuple[str, ...], start: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the parameters of each arm: every combination of what ``--vary name=1,2`` lists; `start` are the champion's."""
    axes = []
    for text in varied:
        name, _, listed = text.partition("=")
        axes.append([f"{name}={value.strip()}" for value in listed.split(",")])
    arms = [parse_values(model, (*values, *combination), start) for combination in itertools.product(*axes)]
    if len(arms) > MOST_ARMS:
        raise UsageError(f"{len(arms):,} arms are too many", expected=f"at most {MOST_ARMS:,}")
    return arms


class _Board(NamedTuple):
    """What all arms are tried on: rows, what is true of those that test, and what the champion answers to them."""

    steps: list[Step]
    truth: dict[Segment, Floats]
    champion: dict[Segment, Floats]


class _Experiment:
    """One call of the verb, told step by step."""

    def __init__(self, store: Store, project: Project, request: ExperimentRequest, progress: Progress) -> None:
        self.store, self.project, self.request, self.progress = store, project, request, progress
        self.model: Model = project.model
        self.champion = newest_map(store.database, self.model.name)
        declared = msgspec.json.decode(store.blobs.get(self.champion.declaration))
        self.arms = grid(self.model, request.values, request.vary, champion_parameters(self.model, declared))
        self.folder = temporary(store.scratch)
        self.code = self._code_now()
        self.began = time.monotonic()

    def run(self) -> ExperimentOutcome:
        self._check_that_something_differs()
        self._check_snapshot()
        taken = take_rows(self.project, self.store, self.champion.snapshot)
        self.progress("line", {"text": f"snapshot {taken.snapshot.label}   {taken.snapshot.manifest.rows:,} rows"})
        study = self.request.study or taken.snapshot.label
        self.folder.mkdir(parents=True)
        try:
            board, setup = self._lay_out(taken)
            failures = dict(self._try_arms(study, board, setup))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self._outcome(taken, study, failures)

    # ---------------------------------------------------------------- refusing

    def _check_that_something_differs(self) -> None:
        if self.code == self.champion.code and all(
            self._recipe(arm) == self.champion.model_digest for arm in self.arms
        ):
            raise ExperimentEmpty(
                f"nothing differs from version {self.champion.number} of `{self.model.name}`: the same code and parameters",
                expected="other parameters, or a changed model file",
                next="modelmill experiment --set NAME=VALUE",
            )

    def _check_snapshot(self) -> None:
        """Refuse rows that are not the champion's: two things would differ, and which one mattered nobody could say."""
        named = self.request.snapshot
        found = get_snapshot(self.store, named).id if named else self.champion.snapshot
        declared = msgspec.json.decode(self.store.blobs.get(self.champion.declaration))
        differing = ""
        if found != self.champion.snapshot:
            differing = f"snapshot {found[:12]} instead of {self.champion.snapshot[:12]}"
        elif declared["test_share"] != self.model.test_share:
            differing = f"other rows would test: test_share {declared['test_share']} -> {self.model.test_share}"
        if differing:
            raise ExperimentOnOtherRows(
                f"this is not an experiment: its rows differ from those of version {self.champion.number}",
                got=differing,
                next="modelmill train      (records that both changed)",
                safe="nothing was tried",
            )

    def _check_unchanged(self) -> None:
        if self._code_now() != self.code:
            raise ExperimentAborted(
                "the model file was changed while the experiment ran",
                where=self.project.shown_path,
                likely="workers may have imported one state or the other",
                next="modelmill experiment      (again)",
                safe="the arm is recorded as aborted, and compared with nothing",
            )

    def _code_now(self) -> Digest:
        root = self.project.settings.root
        return facts.capture_code(self.store.blobs, root, imported_files(root))

    def _recipe(self, parameters: dict[str, Any]) -> Digest:
        return digest_of(recipe_of(self.model, parameters))

    # ---------------------------------------------------------------- trying

    def _lay_out(self, taken: Taken) -> tuple[_Board, Setup]:
        """Write the table that workers map, and ask the champion for its answers."""
        laid = lay_out(self.store, self.project, taken, self.folder, self.arms[0], self.code)
        truth = {step.segment: laid.truth(step) for step in laid.steps}
        return _Board(laid.steps, truth, self._champion_answers(laid.steps)), laid.setup

    def _champion_answers(self, steps: list[Step]) -> dict[Segment, Floats]:
        """Return the answers of the current versions that were built from these very rows; others would have an edge."""
        fleet = champion_map(self.store, self.champion)
        known = heads(self.store.database, self.model.name)
        wanted: list[Asked] = []
        for step in steps:
            head, entry = known.get(step.segment), fleet.find(step.segment)
            if head and head.digests and head.digests.data == step.data and entry and entry.number == head.number:
                wanted.append(Asked(step.segment, test_places(step, self.model.test_share), entry))
        board = Board(self.folder / "table", self.model.test_share)
        answers = test_answers(self.store, self.project.settings, fleet, board, wanted)
        return {part.segment: numbers for part, numbers in answers}

    def _try_arms(self, study: str, board: _Board, setup: Setup) -> Iterator[tuple[int, list[FailureRecord]]]:
        processes = self.request.workers or self.project.settings.build.processes
        compute = open_triers(self.project, setup, min(processes, len(board.steps)))
        try:
            for parameters in self.arms:
                yield self._try_arm(compute, study, board, parameters)
        finally:
            compute.close()

    def _try_arm(
        self, compute: LocalCompute, study: str, board: _Board, parameters: dict[str, Any]
    ) -> tuple[int, list[FailureRecord]]:
        """Try one arm and record what came of it; return its number, and what failed."""
        began = time.monotonic()
        start = self._start(study, parameters)
        with self._held(start.token):
            number = begin_arm(self.store.database, self.model.name, start)
            end = partial(end_arm, self.store.database, self.model.name, study, number)
            try:
                found = try_segments(compute, parameters, board.steps, partial(self._tell, len(board.steps)))
                self._check_unchanged()
                ended = self._finish(board, found, time.monotonic() - began)
            except Exception:
                end(ArmEnd(state="aborted", seconds=time.monotonic() - began))
                raise
            end(ended)
        return number, [one for one in found.values() if isinstance(one, FailureRecord)]

    @contextmanager
    def _held(self, token: str) -> Iterator[None]:
        """Hold the arm's lock while it works: whoever looks can tell an arm that works from one that was killed."""
        path = lock_of(self.store, token)
        with ProjectLock(path, "experiment"):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _start(self, study: str, parameters: dict[str, Any]) -> ArmStart:
        blobs, champion = self.store.blobs, self.champion
        root = self.project.settings.root
        lock = capture_lock(blobs, root, imported_files(root), self.store.folder / "cache")
        commit = facts.capture_commit(blobs, root)
        return ArmStart(
            study=study,
            snapshot=champion.snapshot,
            champion=champion.number,
            code=self.code,
            model=self._recipe(parameters),
            lock=lock,
            commit=commit.commit,
            seed=self.model.seed,
            parameters=as_text(parameters),
            changed=self._changed(parameters, lock),
            token=temporary(self.store.scratch).name,
        )

    def _changed(self, parameters: dict[str, Any], lock: Digest) -> dict[str, str]:
        before, after = self.champion.parameters, as_text(parameters)
        names = sorted({*before, *after})
        found = {n: f"{before.get(n)} -> {after.get(n)}" for n in names if before.get(n) != after.get(n)}
        others = {"code": (self.champion.code, self.code), "packages": (self.champion.lock, lock)}
        found |= {name: f"{old[:8]} -> {new[:8]}" for name, (old, new) in others.items() if old != new}
        if not found and self._recipe(parameters) != self.champion.model_digest:
            found["declaration"] = "another one"
        return found

    def _tell(self, total: int, done: int, failed: int) -> None:
        counts = {"done": done, "total": total, "built": done - failed, "failed": failed}
        self.progress("build", counts | {"unchanged": 0, "pooled": 0})

    # ---------------------------------------------------------------- comparing

    def _finish(self, board: _Board, found: dict[Segment, Tried | FailureRecord], seconds: float) -> ArmEnd:
        tried = [one for step in board.steps if isinstance(one := found[step.segment], Tried)]
        if not tried:
            first = failure_groups(one for one in found.values() if isinstance(one, FailureRecord))[0]
            raise NothingBuilt(
                f"not one segment of `{self.model.name}` could be tried",
                where=first.where,
                likely=f"{first.code} {first.cause} ({first.count} segments)",
                next=f"modelmill check {self.project.shown_path}",
            )
        paired = _compare(self.model.metrics[0], board.truth, tried, board.champion)
        return ArmEnd(
            state="done",
            seconds=seconds,
            tried=len(tried),
            failed=len(found) - len(tried),
            metrics=_medians(tried),
            paired=msgspec.to_builtins(paired) if paired else {},
            answers=self.store.blobs.put([_kept(tried)])[0],
        )

    def _outcome(self, taken: Taken, study: str, failures: dict[int, list[FailureRecord]]) -> ExperimentOutcome:
        known = study_facts(self.store, self.model.name, study).arms
        arms = tuple(
            msgspec.structs.replace(arm, failures=tuple(failure_groups(failures[arm.number])))
            for arm in known
            if arm.number in failures
        )
        winner = best_of(arms)
        return ExperimentOutcome(
            model=self.model.name,
            study=study,
            champion=self.champion.number,
            snapshot=snapshot_facts(taken),
            arms=arms,
            winner=winner,
            unit=self.model.spec.target.unit,
            seconds=time.monotonic() - self.began,
            next=_adopt(arms, winner) if winner else f"modelmill show study {study}",
        )


def _adopt(arms: Sequence[ArmFacts], winner: int) -> str:
    """Return the command that builds the winner's versions."""
    parameters = next(arm.parameters for arm in arms if arm.number == winner)
    return "modelmill train" + "".join(f" --set {name}={value}" for name, value in parameters.items())


def _compare(
    metric: str, truth: dict[Segment, Floats], tried: Sequence[Tried], champion: dict[Segment, Floats]
) -> Paired | None:
    """Compare the answers of an arm with the champion's, on the segments that both answer; None where there are none."""
    both = [one for one in tried if one.segment in champion and one.answers.shape == champion[one.segment].shape]
    if not both:
        return None
    y = np.concatenate([truth[one.segment] for one in both])
    answers = np.concatenate([one.answers for one in both])
    others = np.concatenate([champion[one.segment] for one in both])
    return compare(metric, y, answers, others, np.array([len(one.answers) for one in both]))


def _medians(tried: Sequence[Tried]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for name, value in itertools.chain.from_iterable(one.metrics.items() for one in tried):
        if value is not None and ":" not in name:
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def _kept(tried: Sequence[Tried]) -> bytes:
    """Return an arm's answers as a blob: float64, little-endian, each segment's test rows in the snapshot's order."""
    return msgspec.msgpack.encode(
        [
            {
                "segment": format_segment(one.segment),
                "metrics": one.metrics,
                "shape": one.answers.shape,
                "answers": one.answers.astype("<f8").tobytes(),
            }
            for one in tried
        ]
    )
