"""`ab`: two releases serve side by side for good, and an outcome that is measured says which does better.

The candidate is released as a canary is - as planned, rehearsed, by the environment's floors, watched for errors all the
time - but its share stays what it is until somebody ends it.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelmill.data.joining import Joined
from modelmill.data.labels import LABEL, list_label_files, outcome_spec
from modelmill.data.predictions import journal_folder, read_predictions
from modelmill.errors import AbNeedsRelease, NotFound, UsageError
from modelmill.model.conditions import parse_duration
from modelmill.names import ModelName
from modelmill.orchestrator.deploying import apply_plan
from modelmill.orchestrator.planning import Planned, make_plan
from modelmill.orchestrator.quality import answered_by, join_all
from modelmill.orchestrator.serve import wait_for_node
from modelmill.orchestrator.served import pick_model
from modelmill.orchestrator.settling import settle_in, shapes_of
from modelmill.orchestrator.shadowing import share_of
from modelmill.outcomes import AbFacts, AbOutcome, Progress, SideFacts, no_progress
from modelmill.registry.evidence import AB, record_evidence
from modelmill.registry.fleet import FleetMap, Header, decode
from modelmill.registry.host import user_name
from modelmill.release.measured import Measured, difference, measured, uneven, why_unknown
from modelmill.release.policy import ALWAYS, Goal, Limit, Policy
from modelmill.release.releasing import get_release
from modelmill.release.rollouts import RUNNING, Rollout, list_rollouts
from modelmill.release.staging import stop
from modelmill.requests import AbRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

_WORDS = {"better": True, "worse": False}


def ab(settings: Settings, request: AbRequest, progress: Progress = no_progress) -> AbOutcome:
    """Begin, end or show an A/B test."""
    began, place = time.monotonic(), request.environment
    settings.environment(place)
    with open_store(settings, create=False) as store:
        model = pick_model(store, request.model)
        if request.version is not None and not request.stop:
            done, confirmed = "begun", _begin(store, settings, request, progress)
        elif request.stop:
            done, confirmed = "ended", _end(store, settings, request, model)
        else:
            done, confirmed = "", 0
        found = newest_test(store, place, model)
        return AbOutcome(
            done=done,
            ab=facts_of(store, settings, found) if found else None,
            environment=place,
            model=model,
            confirmed=confirmed,
            seconds=time.monotonic() - began,
            next=_next(found, place),
        )


def _next(found: Rollout | None, place: str) -> str:
    if found is None:
        return f"modelmill ab VERSION --in {place} --outcome NAME"
    if found.state == RUNNING and found.policy.goal:
        return f"modelmill labels import FILE --outcome {found.policy.goal.outcome}"
    return f"modelmill plan {place}"


# ------------------------------------------------------------------ beginning and ending


def _begin(store: Store, settings: Settings, request: AbRequest, progress: Progress) -> int:
    """Release a version beside the current one; return how many workers answer with it."""
    goal, share = _goal(request), share_of(request.share)
    if share == 1:
        raise UsageError("an A/B test needs a share for either side", expected="such as 50% or 10%")
    planned = make_plan(store, settings, request.environment, request.model, request.version)
    if planned.current is None:
        raise AbNeedsRelease(
            f"{request.environment} serves no `{planned.model}` beside which another version could answer",
            next=f"modelmill deploy {request.environment}",
        )
    if planned.outcome.nothing:
        raise UsageError(f"{request.environment} serves version {request.version} already", next="modelmill search")
    header = decode(store.blobs.get(planned.current_map)).header
    outcome_spec(header.spec, goal.outcome)  # else none could ever be imported
    tested = _as_test(planned, Policy((share, 1.0), "requests", 0.0, _aborts(planned), goal))
    progress("line", {"text": f"{100 * share:g}% of entities are answered by version {request.version}"})
    return apply_plan(store, settings, tested, request.reason or f"A/B test of {goal.outcome}", None).confirmed


def _goal(request: AbRequest) -> Goal:
    if not request.outcome:
        raise UsageError(
            "an A/B test needs an outcome that is measured", expected="--outcome NAME, such as --outcome revenue"
        )
    after = parse_duration(request.after).total_seconds() if request.after else 0.0
    return Goal(request.outcome, request.less, request.absent, after)


def _aborts(planned: Planned) -> tuple[Limit, ...]:
    return planned.policy.abort or ALWAYS


def _as_test(planned: Planned, policy: Policy) -> Planned:
    outcome = msgspec.structs.replace(planned.outcome, steps=tuple(policy.texts()[:1]), of=policy.of, hold_s=0.0)
    return planned._replace(policy=policy, outcome=outcome)


def _end(store: Store, settings: Settings, request: AbRequest, model: ModelName) -> int:
    """Have the current release answer everybody, and keep what was found as evidence of the version."""
    place = request.environment
    found = newest_test(store, place, model)
    if found is None or found.state != RUNNING:
        raise NotFound(f"no A/B test of `{model}` runs in {place}", next=f"modelmill ab --in {place}")
    facts = facts_of(store, settings, found)
    stop(store, found, request.reason or f"the A/B test was ended: {facts.verdict}", user_name())
    record_evidence(
        store.database,
        model,
        AB,
        number=facts.candidate.version,
        verdict=_WORDS.get(facts.verdict),
        facts=msgspec.to_builtins(facts),
    )
    return wait_for_node(settings, place, model)


def newest_test(store: Store, environment: str, model: ModelName) -> Rollout | None:
    """Return the last A/B test of a model, which may have ended; None where there was none."""
    rollouts = list_rollouts(store.database, environment, model, limit=200)
    return next((one for one in rollouts if one.policy.goal is not None), None)


# ------------------------------------------------------------------ what was measured


class _Side(NamedTuple):
    """One side's answers, entity by entity."""

    facts: SideFacts
    measured: Measured


def facts_of(store: Store, settings: Settings, rollout: Rollout) -> AbFacts:
    """Return both sides of a test with what is known of them now."""
    goal = rollout.policy.goal
    assert goal is not None  # noqa: S101 - whoever asks has looked
    fleets = {number: _map_of(store, rollout, number) for number in (rollout.before, rollout.candidate)}
    header = fleets[rollout.candidate].header
    joined, answers = _joined(store, settings, rollout, goal, header)
    shares = {rollout.before: 1 - rollout.policy.steps[0], rollout.candidate: rollout.policy.steps[0]}
    current, candidate = (_side(number, fleets[number], shares[number], answers, header.entity) for number in fleets)
    verdict, unknown, bounds = _judged(current, candidate, goal, rollout.policy.steps[0])
    apart = None if bounds is None else candidate.measured.mean - current.measured.mean
    return AbFacts(
        environment=rollout.environment,
        model=rollout.model,
        outcome=goal.outcome,
        less=goal.less,
        state=rollout.state,
        why=rollout.why,
        began_at=rollout.began_at,
        ended_at=rollout.ended_at,
        current=current.facts,
        candidate=candidate.facts,
        verdict=verdict,
        unknown=unknown,
        difference=apart,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        parked=joined.parked if joined else 0,
    )


def _map_of(store: Store, rollout: Rollout, number: int) -> FleetMap:
    release = get_release(store.database, rollout.environment, rollout.model, number)
    return decode(store.blobs.get(release.map))


def _joined(
    store: Store, settings: Settings, rollout: Rollout, goal: Goal, header: Header
) -> tuple[Joined | None, pl.DataFrame]:
    """Return the answers of the test, each with its outcome, or null where none is known."""
    settle_in(store, settings)
    if not journal_folder(store).is_dir():
        return None, pl.DataFrame()
    logged = read_predictions(store, shapes_of(store), rollout.model, since=rollout.began_at)
    answers = answered_by(logged, rollout.environment, rollout.began_at)
    if answers.is_empty():
        return None, answers
    answers = answers.filter(pl.col("release").is_in([rollout.before, rollout.candidate]))
    joined = join_all(answers, store, list_label_files(store, rollout.model, goal.outcome), header)
    row = ["request_id", "row", "asked_at"]
    known = joined.answers.select(*row, pl.col(LABEL).cast(pl.Float64))
    together = answers.join(known, on=row, how="left") if len(known) else answers.with_columns(_nothing())
    return joined, _counting(together, goal, rollout.ended_at)


def _nothing() -> pl.Expr:
    return pl.lit(None, pl.Float64).alias(LABEL)


def _counting(answers: pl.DataFrame, goal: Goal, ended_at: datetime | None) -> pl.DataFrame:
    """Return the answers with what each counts as: null for one that is too young, or whose outcome is not known."""
    moment = now().replace(tzinfo=None) - timedelta(seconds=goal.after_s)
    asked = pl.col("asked_at")
    of_test = answers if ended_at is None else answers.filter(asked <= ended_at.replace(tzinfo=None))
    value = pl.col(LABEL) if goal.absent is None else pl.col(LABEL).fill_null(goal.absent)
    return of_test.with_columns(pl.when(asked <= moment).then(value).alias(LABEL))


def _side(number: int, fleet: FleetMap, share: float, answers: pl.DataFrame, entity: list[str]) -> _Side:
    own = answers if answers.is_empty() else answers.filter(pl.col("release") == number)
    totals, counts = _sums(own, entity)
    counts_some = counts > 0
    found = measured(totals[counts_some], counts[counts_some])
    facts = SideFacts(
        release=number,
        version=fleet.header.run,
        share=share,
        entities=len(totals),
        answers=len(own),
        measured=found.answers,
        mean=found.mean if found.answers else None,
    )
    return _Side(facts, found)


def _sums(answers: pl.DataFrame, entity: list[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return of each entity the sum of its outcomes, and how many of its answers count, both (entities,)."""
    if answers.is_empty():
        return np.empty(0), np.empty(0, dtype=np.int64)
    rows = answers.select(*(pl.col("inputs").struct.field(name) for name in entity), LABEL).group_by(entity)
    sums = rows.agg(pl.col(LABEL).sum().alias("total"), pl.col(LABEL).count().cast(pl.Int64).alias("count"))
    return sums["total"].to_numpy(), sums["count"].to_numpy()


def _judged(current: _Side, candidate: _Side, goal: Goal, share: float) -> tuple[str, str, tuple[float, float] | None]:
    """Return the verdict of the candidate, why it is not known, and the bounds of the difference."""
    if uneven(candidate.facts.entities, current.facts.entities, share):
        text = (
            f"{candidate.facts.entities:,} and {current.facts.entities:,} entities are not shares of {100 * share:g}%"
        )
        return "unknown", f"{text}: some are lost, and nothing that is left can be compared", None
    if why := why_unknown(candidate.measured, current.measured):
        return "unknown", why, None
    low, high = difference(candidate.measured, current.measured)
    more, less = low > 0, high < 0
    if not (more or less):
        return "no clear difference", "", (low, high)
    return "better" if more != goal.less else "worse", "", (low, high)
