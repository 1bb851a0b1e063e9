"""`feasibility`: what a model would give, before anybody builds anything on it.

One pass over the rows, like a first training of which nothing is kept: each segment's own model, the pooled model alone and
the mean of the training rows answer the same test rows. The verdict is evidence; no version is made.
"""

from __future__ import annotations

import math
import shutil
import time
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np

from modelmill.build.gating import Candidate, compare
from modelmill.build.needing import judge_need
from modelmill.build.pairing import Paired, losses
from modelmill.build.segment import mean_answers, metrics_of, tests_of
from modelmill.build.trying import Tried, try_segments
from modelmill.data.taking import Taken
from modelmill.errors import NothingBuilt
from modelmill.model.fitted import Floats
from modelmill.model.loading import imported_files
from modelmill.names import POOLED, Segment, format_segment
from modelmill.orchestrator.laying import Laid, lay_out, open_triers
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.rows import snapshot_facts, take_rows
from modelmill.orchestrator.studies import paired_facts
from modelmill.orchestrator.summary import failure_groups
from modelmill.orchestrator.training import parse_values
from modelmill.outcomes import (
    FeasibilityOutcome,
    NeedFacts,
    PairedFacts,
    Progress,
    SegmentGain,
    no_progress,
)
from modelmill.registry import facts
from modelmill.registry.evidence import FEASIBILITY, record_evidence
from modelmill.registry.records import FailureRecord
from modelmill.requests import FeasibilityRequest
from modelmill.settings import Settings
from modelmill.store.files import temporary
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store, open_store

_WORTH = 0.1
"""Where fewer than this share of the segments are clearly better off with a model of their own, one model may do."""


def feasibility(
    settings: Settings, request: FeasibilityRequest, progress: Progress = no_progress
) -> FeasibilityOutcome:
    """Try every segment, compare with the pooled model and the mean, and say which needs are met."""
    project = open_project(settings, request.file, request.model)
    with open_store(settings) as store:
        return _Feasibility(store, project, request, progress).run()


class _Found(NamedTuple):
    """One segment: what is true of its test rows, and what each answers."""

    segment: Segment
    truth: Floats
    own: Floats
    mean: Floats
    pooled: Floats | None


class _Feasibility:
    """One call of the verb, told step by step."""

    def __init__(self, store: Store, project: Project, request: FeasibilityRequest, progress: Progress) -> None:
        self.store, self.project, self.request, self.progress = store, project, request, progress
        self.model = project.model
        self.score = self.model.metrics[0]
        self.folder = temporary(store.scratch)
        self.began = time.monotonic()

    def run(self) -> FeasibilityOutcome:
        with ProjectLock(self.store.lock_path, "feasibility"):
            taken = take_rows(self.project, self.store, self.request.snapshot, self.request.window)
        self.progress("line", {"text": f"snapshot {taken.snapshot.label}   {taken.snapshot.manifest.rows:,} rows"})
        self.folder.mkdir(parents=True)
        try:
            laid = self._lay_out(taken)
            tried = self._try(laid)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        outcome = self._outcome(taken, laid, tried)
        self._record(outcome)
        return outcome

    def _lay_out(self, taken: Taken) -> Laid:
        root = self.project.settings.root
        code = facts.capture_code(self.store.blobs, root, imported_files(root))
        parameters = parse_values(self.model, self.request.values)
        return lay_out(self.store, self.project, taken, self.folder, parameters, code)

    def _try(self, laid: Laid) -> dict[Segment, Tried | FailureRecord]:
        """Fit every segment and the pooled model; keep their answers to the test rows."""
        steps = [laid.plan.pooled, *laid.plan.steps] if laid.plan.pooled else laid.plan.steps
        processes = self.request.workers or self.project.settings.build.processes
        with open_triers(self.project, laid.setup, min(processes, len(steps))) as compute:
            return try_segments(compute, laid.setup.parameters, steps, partial(self._tell, len(steps)))

    def _tell(self, total: int, done: int, failed: int) -> None:
        counts = {"done": done, "total": total, "built": done - failed, "failed": failed}
        self.progress("build", counts | {"unchanged": 0, "pooled": 0})

    # ---------------------------------------------------------------- comparing

    def _outcome(self, taken: Taken, laid: Laid, tried: dict[Segment, Tried | FailureRecord]) -> FeasibilityOutcome:
        failures = [one for one in tried.values() if isinstance(one, FailureRecord)]
        found = self._found(laid, tried)
        if not found:
            raise self._nothing(failures)
        needs = tuple(self._needs(found))
        beside_pooled = self._compare(found, "own", "pooled")
        return FeasibilityOutcome(
            model=self.model.name,
            purpose=self.model.purpose,
            snapshot=snapshot_facts(taken),
            tried=len(found) if self.model.by else 0,
            small=len(laid.plan.without),
            failed=len(failures),
            own_or_mean=_facts(self._compare(found, "own", "mean")),
            own_or_pooled=_facts(beside_pooled),
            pooled_or_mean=_facts(self._compare(found, "pooled", "mean")),
            needs=needs,
            gains=tuple(self._gains(found)),
            advice=_advice(beside_pooled),
            failures=tuple(failure_groups(failures)),
            unit=self.model.spec.target.unit,
            seconds=time.monotonic() - self.began,
            next="modelmill train" if all(need.verdict for need in needs) else "modelmill feasibility --set NAME=VALUE",
        )

    def _found(self, laid: Laid, tried: dict[Segment, Tried | FailureRecord]) -> list[_Found]:
        pooled = tried.get(POOLED)
        theirs = _cut(laid, pooled.answers) if isinstance(pooled, Tried) and self.model.by else {}
        return [
            _Found(
                step.segment,
                laid.truth(step),
                own.answers,
                mean_answers(laid.training(step), own.answers),
                theirs.get(step.segment),
            )
            for step in laid.steps
            if isinstance(own := tried[step.segment], Tried)
        ]

    def _needs(self, found: list[_Found]) -> list[NeedFacts]:
        """Judge what the fleet is needed for on the test rows of all segments together."""
        metrics, whole = metrics_of(self.model), _together(found)
        return [NeedFacts(**msgspec.structs.asdict(judge_need(need, whole, metrics))) for need in self.model.needs]

    def _compare(self, found: list[_Found], one: str, other: str) -> Paired | None:
        both = [each for each in found if getattr(each, one) is not None and getattr(each, other) is not None]
        if not both:
            return None
        truth, answers, others = (np.concatenate([getattr(e, name) for e in both]) for name in ("truth", one, other))
        return compare(self.score, truth, answers, others, np.array([len(each.truth) for each in both]))

    def _gains(self, found: list[_Found]) -> list[SegmentGain]:
        """Return what each segment's own model gains over the mean, the largest gain first."""
        gains = []
        for each in found:
            paired = compare(self.score, each.truth, each.own, each.mean, np.array([len(each.truth)]))
            pooled = None if each.pooled is None else float(losses(self.score, each.truth, each.pooled)[1].mean())
            low, high = paired.interval()
            gains.append(
                SegmentGain(
                    segment=format_segment(each.segment),
                    rows=len(each.truth),
                    own=paired.first,
                    mean=paired.second,
                    pooled=pooled,
                    gain=1 - paired.first / paired.second if paired.second else 0.0,
                    low=low if math.isfinite(low) else None,
                    high=high if math.isfinite(high) else None,
                )
            )
        return sorted(gains, key=lambda one: -one.gain)

    # ---------------------------------------------------------------- telling

    def _record(self, outcome: FeasibilityOutcome) -> None:
        verdicts = [need.verdict for need in outcome.needs]
        told = {
            "snapshot": outcome.snapshot.label,
            "segments": outcome.tried,
            "needs": {need.condition: need.verdict for need in outcome.needs},
            "advice": outcome.advice,
        }
        verdict = False if False in verdicts else None if None in verdicts or not verdicts else True
        record_evidence(self.store.database, self.model.name, FEASIBILITY, verdict=verdict, facts=told)

    def _nothing(self, failures: list[FailureRecord]) -> NothingBuilt:
        groups = failure_groups(failures)
        first = groups[0] if groups else None
        return NothingBuilt(
            f"not one segment of `{self.model.name}` could be tried",
            where=first.where if first else "",
            likely=f"{first.code} {first.cause} ({first.count} segments)"
            if first
            else "every segment has too few rows",
            next=f"modelmill check {self.project.shown_path}",
        )


def _facts(paired: Paired | None) -> PairedFacts | None:
    return paired_facts(paired) if paired is not None else None


def _cut(laid: Laid, answers: Floats) -> dict[Segment, Floats]:
    """Return the pooled model's answers by segment: it was asked the test rows of all of them, in the table's order."""
    found, begin = {}, 0
    for segment, _, rows, _ in laid.labelled:
        if rows:
            tests = tests_of(rows, laid.test_share)
            found[segment] = answers[begin : begin + tests]
            begin += tests
    return found


def _together(found: list[_Found]) -> Candidate:
    """Return all segments as one candidate, in which each is a cluster of rows."""
    with_pooled = all(each.pooled is not None for each in found)
    return Candidate(
        truth=np.concatenate([each.truth for each in found]),
        answers=np.concatenate([each.own for each in found]),
        champion=None,
        mean=np.concatenate([each.mean for each in found]),
        pooled=np.concatenate([each.pooled for each in found if each.pooled is not None]) if with_pooled else None,
        lengths=np.array([len(each.truth) for each in found]),
    )


def _advice(paired: Paired | None) -> str:
    """Return what the comparison with the pooled model alone suggests."""
    if paired is None:
        return ""
    verdict, judged = paired.verdict(), paired.segments - paired.unjudged
    if verdict == "worse":
        return "one model of all rows answers better than models of their own: try it without by="
    if verdict == "no real difference" and paired.better < _WORTH * max(judged, 1):
        return "one model of all rows answers as well: try it without by="
    return ""
