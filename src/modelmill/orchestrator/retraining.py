"""`retrain`: new rows, the same code, parameters and packages; what the gate refuses keeps its champion.

More than the rows may not have changed since the current version: which of two changes made a difference nobody could say.
The new versions are recorded whatever the gate says of them; the fleet map names only those that it let through.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from modelmill.data.snapshot import Segments
from modelmill.data.taking import get_snapshot
from modelmill.errors import NotRetraining
from modelmill.model.loading import imported_files
from modelmill.names import digest_of
from modelmill.orchestrator.champion import Board, champion_parameters
from modelmill.orchestrator.diffing import declared_differences
from modelmill.orchestrator.judging import Judge
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.studies import paired_facts
from modelmill.orchestrator.training import Movement, Trained, recipe_of, train_in
from modelmill.outcomes import Progress, RetrainOutcome, no_progress
from modelmill.registry import facts
from modelmill.registry.evidence import RETRAINING, record_evidence
from modelmill.registry.lock import capture_lock, lock_differences, read_lock
from modelmill.registry.runs import newest_map
from modelmill.requests import RetrainRequest, TrainRequest
from modelmill.settings import Settings
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store, open_store

_SHOWN = 8


def retrain(settings: Settings, request: RetrainRequest, progress: Progress = no_progress) -> RetrainOutcome:
    """Build every segment whose rows are new, and let the gate judge each beside its champion."""
    project = open_project(settings, request.file, request.model)
    with open_store(settings) as store, ProjectLock(store.lock_path, "retrain"):
        return _Retraining(store, project, request, progress).run()


class _Retraining:
    """One call of the verb, told step by step."""

    def __init__(self, store: Store, project: Project, request: RetrainRequest, progress: Progress) -> None:
        self.store, self.project, self.request, self.progress = store, project, request, progress
        self.champion = newest_map(store.database, project.model.name)
        self.declared = msgspec.json.decode(store.blobs.get(self.champion.declaration))
        self.judge: Judge | None = None
        self.began = time.monotonic()

    def run(self) -> RetrainOutcome:
        """Refuse what is no retraining, build, judge, and record what came of it."""
        # Also those that `--set` gave the champion: they are part of what may not change.
        parameters = champion_parameters(self.project.model, self.declared)
        self._check_that_only_rows_differ(parameters)
        options = {name: getattr(self.request, name) for name in self.request.__struct_fields__}
        movement = Movement("retrain", parameters, self._make_judge)
        trained = train_in(self.store, self.project, TrainRequest(**options), self.progress, movement)
        if trained.outcome.run is not None:
            self._record(trained)
        return self._outcome(trained)

    # ---------------------------------------------------------------- refusing

    def _check_that_only_rows_differ(self, parameters: dict[str, Any]) -> None:
        differing = list(self._differing(parameters))
        if differing:
            more = [f"and {len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
            raise NotRetraining(
                f"this is not a retraining: more than the rows differs from version {self.champion.number} "
                f"of `{self.project.model.name}`",
                got="\n".join([*differing[:_SHOWN], *more]),
                next="modelmill train      (builds it, and records that both changed)",
                safe="nothing was built",
            )

    def _differing(self, parameters: dict[str, Any]) -> Iterator[str]:
        root, blobs, champion = self.project.settings.root, self.store.blobs, self.champion
        files = imported_files(root)
        code = facts.capture_code(blobs, root, files)
        if code != champion.code:
            before, after = (facts.read_archive(blobs, digest).files for digest in (champion.code, code))
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            yield f"code: {', '.join(changed)}"
        recipe = recipe_of(self.project.model, parameters)
        if digest_of(recipe) != champion.model_digest:
            yield from declared_differences(self.declared, msgspec.json.decode(recipe))
        lock = capture_lock(blobs, root, files, self.store.folder / "cache")
        if lock != champion.lock:
            yield from (
                f"package {text}" for text in lock_differences(*(read_lock(blobs, d) for d in (champion.lock, lock)))
            )

    # ---------------------------------------------------------------- judging and telling

    def _make_judge(self, labelled: Segments, board: Board) -> Judge:
        self.judge = Judge(self.store, self.project, self.champion, labelled, board)
        return self.judge

    def _record(self, trained: Trained) -> None:
        """Keep what the gate did as evidence: that it looked, at how many, and what it refused."""
        train = trained.outcome
        told = {
            "champion": self.champion.number,
            "snapshot": train.snapshot.label,
            "before": self._before(),
            "gate": list(self._gate()),
            "judged": self.judge.judged if self.judge else 0,
            "refused": train.counts.refused,
            "judged_parents": self.judge.judged_parents if self.judge else 0,
            "refused_parents": train.counts.refused_parents,
        }
        name = self.project.model.name
        record_evidence(self.store.database, name, RETRAINING, number=train.version, verdict=True, facts=told)

    def _outcome(self, trained: Trained) -> RetrainOutcome:
        judge, train = self.judge, trained.outcome
        return RetrainOutcome(
            train=train,
            champion=self.champion.number,
            before=self._before(),
            gate=self._gate(),
            judged=judge.judged if judge else 0,
            judged_parents=judge.judged_parents if judge else 0,
            compared=paired_facts(judge.compared) if judge and judge.compared else None,
            seconds=time.monotonic() - self.began,
            next=train.next if train.run is not None else f"modelmill show {train.model}",
        )

    def _gate(self) -> tuple[str, ...]:
        return tuple(map(str, self.judge.gate.conditions)) if self.judge else ()

    def _before(self) -> str:
        return get_snapshot(self.store, self.champion.snapshot).label
