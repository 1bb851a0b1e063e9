"""What a build did, in the numbers that a person asks for."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable

from modelmill.build.builder import NOT_BUILT, NOT_PASSED, BuildResult
from modelmill.build.plan import Plan
from modelmill.build.report import group_failures
from modelmill.model.declaration import Model
from modelmill.names import Parent, format_segment, is_shared
from modelmill.outcomes import (
    Comparison,
    Counts,
    FailureGroup,
    LawCount,
    SnapshotFacts,
    TrainOutcome,
)
from modelmill.registry.lineage import changes_of_run
from modelmill.registry.records import GATE, FailureRecord
from modelmill.registry.runs import list_failures
from modelmill.registry.versions import Scored, current_scores
from modelmill.store.opening import Store

_EXAMPLES = 3
_NEXT = {
    "MM306": "modelmill check --segment {segment}",
    "MM401": "modelmill check --segment {segment}",
    "MM301": "modelmill check --segment {segment}",
}


def train_outcome(  # noqa: PLR0913 - what a training produced, named
    store: Store,
    model: Model,
    plan: Plan,
    result: BuildResult,
    snapshot: SnapshotFacts,
    *,
    started: bool,
    seconds: float,
) -> TrainOutcome:
    """Return the outcome of a training."""
    scored = [row for row in current_scores(store.database, model.name) if not is_shared(row.segment) or not model.by]
    failures = list(list_failures(store.database, result.run)) if started else []
    failed = [failure for failure in failures if failure.stage != GATE]
    because = Counter(row.why for row in scored if row.state == "pooled")
    because.update(plan.without.values())
    known = {row.segment for row in scored}
    for failure in failures:
        if failure.segment not in known and not is_shared(failure.segment):
            because[NOT_BUILT if failure.stage != GATE else NOT_PASSED] += 1
    own = sum(row.state == "own" for row in scored)
    built = result.built
    return TrainOutcome(
        model=model.name,
        version=result.run.number,
        run=result.run.number if started else None,
        snapshot=snapshot,
        counts=Counts(
            segments=own + sum(because.values()),
            built=max(built - result.parents - bool(plan.pooled and model.by), 0),
            unchanged=len(plan.unchanged),
            failed=len(failed),
            refused=sum(one.stage == GATE and (not is_shared(one.segment) or not model.by) for one in failures),
            parents=result.parents,
            refused_parents=sum(one.stage == GATE and isinstance(one.segment, Parent) for one in failures),
            own=own,
            pooled=sum(because.values()),
        ),
        seconds=seconds,
        platform_ms=_platform_ms(result),
        user_ms=result.user_s / built * 1e3 if built else None,
        comparison=_compare(model, scored),
        metrics=_medians(scored),
        failures=tuple(failure_groups(failures)),
        pooled_because=dict(because.most_common()),
        laws=tuple(_laws(model, result, failed)),
        reasons=plan.reasons(),
        changes={str(change): n for change, n in changes_of_run(store.database, result.run).items()} if started else {},
        inactive=inactive_policies(model),
        map_digest=result.map_digest or "",
        next=f"modelmill show {model.name}" if failures else "modelmill up",
    )


def _platform_ms(result: BuildResult) -> float | None:
    """Return the workers' time per model beyond the user's own functions."""
    return (result.worker_s - result.user_s) / result.built * 1e3 if result.built else None


def _compare(model: Model, scored: list[Scored]) -> Comparison | None:
    """Return the score on all segments' test rows: own models, the pooled model, the mean; rows weigh equally."""
    name = model.metrics[0]
    rows = [row for row in scored if _known(row, name)]
    if not rows:
        return None
    weights = [row.test_rows for row in rows]
    pooled = [row.metrics.get(f"{name}:pooled") for row in rows]
    complete = [value for value in pooled if value is not None]
    return Comparison(
        metric=name,
        rows=sum(weights),
        own=_mean([row.metrics[name] or 0.0 for row in rows], weights),
        pooled=_mean(complete, weights) if len(complete) == len(rows) else None,
        mean=_mean([row.metrics[f"{name}:mean"] or 0.0 for row in rows], weights),
        unit=model.spec.target.unit,
    )


def _known(row: Scored, name: str) -> bool:
    return row.metrics.get(name) is not None and row.metrics.get(f"{name}:mean") is not None


def _mean(values: list[float], weights: list[int]) -> float:
    return statistics.fmean(values, weights)


def _medians(scored: list[Scored]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in scored:
        for name, value in row.metrics.items():
            if value is not None and ":" not in name:
                found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def _laws(model: Model, result: BuildResult, failures: list[FailureRecord]) -> Iterable[LawCount]:
    for name in model.laws:
        failed = sum(failure.summary == f"law failed: {name}" for failure in failures)
        yield LawCount(name=name, asked=result.built + failed, failed=failed)


def failure_groups(failures: Iterable[FailureRecord]) -> list[FailureGroup]:
    """Return failures grouped by cause, as they are shown."""
    return [
        FailureGroup(
            code=group.first.code,
            cause=group.first.summary,
            count=len(group.segments),
            stage=group.first.stage,
            segments=tuple(format_segment(segment) for segment in group.segments[:_EXAMPLES]),
            where=group.first.detail.split("\n")[0] if group.first.stage != GATE else "",
            got=group.first.detail if group.first.stage == GATE else "",
            next=_NEXT.get(group.first.code, "").format(segment=format_segment(group.segments[0])),
            safe="each keeps its previous version; where it has none, the pooled model answers",
        )
        for group in group_failures(failures)
    ]


def inactive_policies(model: Model) -> tuple[str, ...]:
    """Return the declared policies that are kept but do not act yet."""
    return (f"retrain: {', '.join(map(str, model.retrain))}",) if model.retrain else ()
