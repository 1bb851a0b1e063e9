"""Canaries as they are shown, and as they are followed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from modelmill.names import ModelName
from modelmill.orchestrator.proving import LOOK_S, judge
from modelmill.orchestrator.shadowing import copies_of_canary
from modelmill.outcomes import CanaryFacts, Progress
from modelmill.release.moving import Hold, find_hold
from modelmill.release.policy import SHADOW
from modelmill.release.releasing import drawn_segments
from modelmill.release.rollouts import RUNNING, Rollout, list_looks, list_rollouts, ring_size
from modelmill.store.opening import Store
from modelmill.store.tables import now

_TELL_S = 10.0
"""After how long somebody who follows a canary is told that it goes on."""
_ENDS = {"done": "is current", "stopped": "was taken back"}


def rollout_facts(store: Store, rollout: Rollout) -> CanaryFacts:
    """Return a rollout with what is known of its conditions."""
    looks = list_looks(store.database, rollout)
    judged = judge(rollout, looks)
    return CanaryFacts(
        environment=rollout.environment,
        model=rollout.model,
        release=rollout.candidate,
        before=rollout.before,
        state=rollout.state,
        steps=tuple(rollout.policy.texts()),
        step=rollout.step,
        of=rollout.policy.of,
        exposed=ring_size(rollout, len(drawn_segments(store, rollout))) if rollout.ring else 0,
        step_s=((rollout.ended_at or now()) - rollout.step_at).total_seconds(),
        hold_s=rollout.policy.hold_s,
        asked=sum(look.seen["candidate"]["asked"] for look in looks),
        verdict=judged.verdict,
        outcome=rollout.policy.goal.outcome if rollout.policy.goal else "",
        texts=tuple(judged.texts),
        why=rollout.why,
        copies=copies_of_canary(store, rollout),
    )


def canary_text(canary: CanaryFacts) -> str:
    """Return how far a canary has come, as one line."""
    of = f"{canary.exposed:,} segments" if canary.of == "segments" else "of requests"
    of = "of the copies" if canary.steps[canary.step] == SHADOW else of
    parts = [f"r{canary.release} at {canary.steps[canary.step]}", of, f"{canary.asked:,} requests", *canary.texts]
    if canary.state != RUNNING:
        parts = [f"r{canary.release} {_ENDS[canary.state]}", canary.why]
    return f"canary    {'   '.join(parts)}"


def running_canaries(store: Store, environment: str) -> Iterator[CanaryFacts]:
    """Yield the canaries of an environment that have not ended."""
    for rollout in list_rollouts(store.database, environment):
        if rollout.ended_at is None:
            yield rollout_facts(store, rollout)


def follow(store: Store, rollout: Rollout, progress: Progress) -> CanaryFacts:
    """Tell of each step until a rollout has ended; whoever stops listening stops nothing."""
    told, told_at = None, 0.0
    while True:
        found = next(
            one for one in list_rollouts(store.database, rollout.environment, rollout.model) if one.id == rollout.id
        )
        facts = rollout_facts(store, found)
        state = (facts.step, facts.state, facts.verdict)
        if state != told or time.monotonic() >= told_at + _TELL_S:
            progress("line", {"text": canary_text(facts)})
            told, told_at = state, time.monotonic()
        if facts.state != RUNNING:
            return facts
        time.sleep(LOOK_S / 2)


def holds_of(store: Store, pairs: Iterable[tuple[ModelName, str]]) -> dict[str, str]:
    """Return what holds which model in which environment, in words: ``air-time prod`` -> why."""
    with store.database.read() as c:
        found = {f"{model} {place}": find_hold(c, place, model) for model, place in pairs}
    return {name: _hold_text(held) for name, held in found.items() if held is not None}


def _hold_text(held: Hold) -> str:
    until = f", until {held.until:%Y-%m-%d %H:%M} UTC" if held.until else ""
    return f"{held.reason or 'on hold'}, by {held.by}{until}"
