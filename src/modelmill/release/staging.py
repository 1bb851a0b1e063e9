"""Releases on their way: step by step beside the current one, taken back, or held.

Each is one transaction under the environment's row, which is then published.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from modelmill.errors import Conflict, NotFound, ShadowNeedsRelease
from modelmill.names import Digest, ModelName, Segment
from modelmill.registry.runs import get_signature
from modelmill.release.moving import (
    CANARY,
    HOLD,
    RELEASE,
    RESUME,
    ROLLBACK,
    SHADOW,
    SHADOW_ENDED,
    STOP,
    Hold,
    Move,
    check_hold,
    hold,
    lift,
    note_move,
    withdraw,
)
from modelmill.release.policy import Policy
from modelmill.release.releasing import republish
from modelmill.release.rollouts import DONE, RUNNING, STOPPED, Rollout, begin, change, draw, open_rollout
from modelmill.release.rows import (
    SignedDigest,
    current_number,
    earlier_release,
    find_map,
    get_or_fail,
    insert_release,
    lock_environment,
    moved_meanwhile,
    point,
    touch,
)
from modelmill.release.shadows import ShadowRow, begin_shadow, end_shadow
from modelmill.store.opening import Store
from modelmill.store.tables import now


def release_beside(  # noqa: PLR0913 - a release, its reason and its policy
    store: Store,
    environment: str,
    model: ModelName,
    map_digest: Digest,
    policy: Policy,
    drawn: Mapping[Segment, int],
    *,
    expected: int,
    by: str = "",
    reason: str = "",
) -> Rollout:
    """Have a map that a run has recorded take traffic beside the current release, step by step as a policy says.

    `drawn` are the segments among which a canary of segments is drawn, with their requests. Raises `Conflict` where another
    candidate takes traffic, or another release is current than `expected`; `OnHold` where nothing may be released.
    """
    signature = get_signature(store.database, model, map_digest)
    with store.database.write() as c:
        lock_environment(c, environment)
        check_hold(c, environment, model)
        current = current_number(c, environment, model)
        if expected != current:
            raise moved_meanwhile(environment, model, expected, current)
        found = find_map(c, environment, model, map_digest)
        if found is None:
            found = insert_release(c, environment, model, SignedDigest(map_digest, signature), by, reason)
        number = begin(c, environment, model, candidate=found.number, before=current, policy=policy, by=by)
        rollout = open_rollout(c, environment, model)
        if rollout is None:
            raise AssertionError("it was begun in this very transaction")
        if policy.of == "segments":
            ordered = draw(drawn, f"{model} r{found.number} {number}")
            (ring,) = store.blobs.put([msgspec.msgpack.encode(ordered)])
            change(c, rollout, ring=ring)
            rollout = msgspec.structs.replace(rollout, ring=ring)
        note_move(c, environment, model, Move(now(), CANARY, current, found.number, by, reason))
        touch(c, environment)
    republish(store, environment)
    return rollout


def advance(store: Store, rollout: Rollout, why: str, by: str) -> Rollout:
    """Take the next step; the last one makes the candidate current. Raises `Conflict` when somebody else was first."""
    environment, model = rollout.environment, rollout.model
    last = rollout.step + 1 >= len(rollout.policy.steps) - 1
    with store.database.write() as c:
        lock_environment(c, environment)
        moment = now()
        if last:
            step = len(rollout.policy.steps) - 1
            change(c, rollout, state=DONE, step=step, step_at=moment, ended_at=moment, why=why)
            withdraw(c, environment, model, rollout.candidate, "")
            point(c, environment, model, Move(moment, RELEASE, rollout.before, rollout.candidate, by, why))
        else:
            change(c, rollout, state=RUNNING, step=rollout.step + 1, step_at=moment, why=why)
            touch(c, environment)
        state, step = (DONE, step) if last else (RUNNING, rollout.step + 1)
    republish(store, environment)
    return msgspec.structs.replace(rollout, state=state, step=step, step_at=moment, why=why)


def stop(store: Store, rollout: Rollout, why: str, by: str) -> Rollout:
    """Take a candidate back: from now on the release before answers everybody. Raises `Conflict` when it has ended."""
    environment, model = rollout.environment, rollout.model
    with store.database.write() as c:
        lock_environment(c, environment)
        moment = now()
        change(c, rollout, state=STOPPED, ended_at=moment, why=why)
        withdraw(c, environment, model, rollout.candidate, why)
        note_move(c, environment, model, Move(moment, STOP, rollout.candidate, rollout.before, by, why))
        touch(c, environment)
    republish(store, environment)
    return msgspec.structs.replace(rollout, state=STOPPED, ended_at=moment, why=why)


def roll_back(  # noqa: PLR0913 - a roll-back and its reason
    store: Store,
    environment: str,
    model: ModelName,
    *,
    to: int | None = None,
    composed: SignedDigest | None = None,
    by: str = "",
    reason: str = "",
    until: datetime | None = None,
) -> Move:
    """Go back to a release, by default the last one that was current and was not taken back, and hold the model there.

    With `composed` a new release, of which only some segments go back. The hold is lifted by `resume`, or ends at `until`.
    """
    with store.database.write() as c:
        lock_environment(c, environment)
        current = current_number(c, environment, model)
        if not current:
            raise NotFound(f"{environment} serves no `{model}`", next="modelmill status")
        running = open_rollout(c, environment, model)
        if running is not None:  # what is wrong is what is new: the candidate goes, whatever else was asked for
            move = _stop_candidate(c, running, Hold(now(), until, by, reason or f"r{running.candidate} was taken back"))
        else:
            move = _go_back(c, environment, model, current, Hold(now(), until, by, reason), to=to, composed=composed)
    republish(store, environment)
    return move


def _stop_candidate(c: Connection, rollout: Rollout, wanted: Hold) -> Move:
    environment, model = rollout.environment, rollout.model
    change(c, rollout, state=STOPPED, ended_at=wanted.at, why=wanted.reason)
    withdraw(c, environment, model, rollout.candidate, wanted.reason)
    move = Move(wanted.at, ROLLBACK, rollout.candidate, rollout.before, wanted.by, wanted.reason)
    note_move(c, environment, model, move)
    touch(c, environment)
    hold(c, environment, model, wanted)
    return move


def _go_back(  # noqa: PLR0913 - where from, where to, and why
    c: Connection,
    environment: str,
    model: ModelName,
    current: int,
    wanted: Hold,
    *,
    to: int | None,
    composed: SignedDigest | None,
) -> Move:
    if composed is not None:
        known = find_map(c, environment, model, composed.digest)
        after = (known or insert_release(c, environment, model, composed, wanted.by, wanted.reason)).number
    else:
        after = earlier_release(c, environment, model, current) if to is None else to
        get_or_fail(c, environment, model, after)
    if after == current:
        raise Conflict(f"{environment} serves r{current} of `{model}` already", safe="nothing was moved")
    move = Move(wanted.at, ROLLBACK, current, after, wanted.by, wanted.reason)
    withdraw(c, environment, model, current, wanted.reason or "rolled back")
    point(c, environment, model, move)
    reason = wanted.reason or f"rolled back from r{current}"
    hold(c, environment, model, msgspec.structs.replace(wanted, reason=reason))
    return move


def begin_copies(  # noqa: PLR0913 - a shadow and its reason
    store: Store, environment: str, model: ModelName, map_digest: Digest, *, share: float, by: str, reason: str
) -> ShadowRow:
    """Have a map that a run has recorded answer copies of the requests; nobody sees what it answers.

    Raises `ShadowNeedsRelease` where nothing answers, `Conflict` where it is what answers or does so already, and
    `ShadowsFull`. A hold does not matter: nothing is released.
    """
    signature = get_signature(store.database, model, map_digest)
    with store.database.write() as c:
        lock_environment(c, environment)
        current = current_number(c, environment, model)
        if not current:
            raise ShadowNeedsRelease(
                f"{environment} serves no `{model}` whose requests could be copied",
                next=f"modelmill deploy {environment}",
            )
        found = find_map(c, environment, model, map_digest)
        if found is not None and found.number == current:
            raise Conflict(f"{environment} serves r{current} of `{model}` already", safe="nothing was changed")
        if found is None:
            found = insert_release(c, environment, model, SignedDigest(map_digest, signature), by, reason)
        row = begin_shadow(c, environment, model, release=found.number, share=share, by=by, reason=reason)
        note_move(c, environment, model, Move(now(), SHADOW, current, found.number, by, reason))
        touch(c, environment)
    republish(store, environment)
    return row


def end_copies(store: Store, environment: str, model: ModelName, release: int, *, by: str, reason: str) -> ShadowRow:
    """Have a release answer copies no longer; raises `NotFound` where it did not."""
    with store.database.write() as c:
        lock_environment(c, environment)
        row = end_shadow(c, environment, model, release)
        current = current_number(c, environment, model)
        note_move(c, environment, model, Move(now(), SHADOW_ENDED, current, release, by, reason))
        touch(c, environment)
    republish(store, environment)
    return row


def set_hold(store: Store, environment: str, model: ModelName, wanted: Hold) -> Move:
    """Hold a model in an environment: nothing is released there until it is lifted, or over."""
    with store.database.write() as c:
        lock_environment(c, environment)
        current = current_number(c, environment, model)
        hold(c, environment, model, wanted)
        move = Move(wanted.at, HOLD, current, current, wanted.by, wanted.reason)
        note_move(c, environment, model, move)
    return move


def lift_hold(store: Store, environment: str, model: ModelName, *, by: str, reason: str) -> Move:
    """Lift what holds a model in an environment; raises `NotFound` where nothing does."""
    with store.database.write() as c:
        lock_environment(c, environment)
        lift(c, environment, model)
        current = current_number(c, environment, model)
        move = Move(now(), RESUME, current, current, by, reason)
        note_move(c, environment, model, move)
    return move
