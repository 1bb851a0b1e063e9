"""Releases that take traffic step by step: the row that says how far one has come, and what was seen of it.

Each change is one transaction under the environment's row, and is then published: whoever is killed between the two left
nothing half done, and `republish` catches up. A rollout that has ended never moves again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, insert, select, update

from modelmill.errors import Conflict
from modelmill.names import Digest, ModelName, Segment, format_segment
from modelmill.release.policy import Policy
from modelmill.release.tables import looks, rollouts
from modelmill.store.database import Database
from modelmill.store.dialects import upsert
from modelmill.store.tables import now

RUNNING, ASKING, DONE, STOPPED = "running", "asking", "done", "stopped"
_OPEN = (RUNNING, ASKING)


class Rollout(msgspec.Struct, frozen=True):
    """A candidate that takes traffic beside the current release."""

    id: int
    environment: str
    model: ModelName
    candidate: int
    before: int
    state: str
    policy: Policy
    step: int
    """Which of the policy's steps it is at; the last one makes it current."""
    ring: Digest | None
    began_at: datetime
    step_at: datetime
    ended_at: datetime | None
    why: str
    by: str

    @property
    def share(self) -> float:
        """Return the share that the step has."""
        return self.policy.steps[self.step]

    @property
    def is_shadow(self) -> bool:
        """Whether the candidate answers nobody yet, but copies."""
        return self.share == 0

    @property
    def salt(self) -> str:
        """Return what the choice of requests is a function of: another rollout chooses others."""
        return f"{self.model} r{self.candidate} {self.id}"


class Look(msgspec.Struct, frozen=True):
    """What both sides were asked since the look before."""

    at: datetime
    step: int
    seen: Mapping[str, Any]


def draw(segments: Mapping[Segment, int], salt: str) -> list[Segment]:
    """Return segments in an order of which every beginning is a sample stratified by traffic; `segments` are their requests.

    Each is put at a place between 0 and 1 within its tenth of the traffic, by a hash: the first of all tenths come first.
    """
    ordered = sorted(segments, key=lambda one: (-segments[one], format_segment(one)))
    size = max(1, ceil(len(ordered) / 10))
    places: dict[Segment, tuple[float, str]] = {}
    for start in range(0, len(ordered), size):
        stratum = sorted(ordered[start : start + size], key=lambda one: _hash(format_segment(one), salt))
        places |= {
            one: ((place + 0.5) / len(stratum), _hash(format_segment(one), salt)) for place, one in enumerate(stratum)
        }
    return sorted(places, key=lambda one: places[one])


def _hash(text: str, salt: str) -> str:
    return hashlib.blake2b(text.encode(), key=salt.encode()[:64], digest_size=8).hexdigest()


def ring_size(rollout: Rollout, drawn: int) -> int:
    """Return how many of the drawn segments a step has reached: at least one, but for a shadow."""
    return max(1, round(rollout.share * drawn)) if drawn and rollout.share else 0


# ------------------------------------------------------------------ rows


def open_rollout(c: Connection, environment: str, model: ModelName) -> Rollout | None:
    """Return the rollout of a model that has not ended."""
    query = _select().where(rollouts.c.environment == environment, rollouts.c.model == model)
    row = c.execute(query.where(rollouts.c.state.in_(_OPEN)).order_by(rollouts.c.id.desc()).limit(1)).first()
    return _rollout(row) if row else None


def list_rollouts(
    database: Database, environment: str, model: ModelName | None = None, limit: int = 20
) -> list[Rollout]:
    """Return the rollouts of an environment, the newest first."""
    query = _select().where(rollouts.c.environment == environment)
    if model is not None:
        query = query.where(rollouts.c.model == model)
    with database.read() as c:
        return [_rollout(row) for row in c.execute(query.order_by(rollouts.c.id.desc()).limit(limit))]


def check_alone(c: Connection, environment: str, model: ModelName) -> None:
    """Raise `Conflict` where a candidate takes traffic beside the current release: what that is must not change under it."""
    running = open_rollout(c, environment, model)
    if running is not None:
        ends = "ab --stop --in" if running.policy.goal else f"rollback {model}"
        raise Conflict(
            f"r{running.candidate} of `{model}` takes traffic in {environment} already",
            next=f"modelmill status      or:  modelmill {ends} {environment}",
            safe="nothing was moved",
        )


def begin(  # noqa: PLR0913 - a rollout is all of these
    c: Connection, environment: str, model: ModelName, *, candidate: int, before: int, policy: Policy, by: str
) -> int:
    """Write down that a candidate takes traffic from now on; raises `Conflict` where another one does."""
    check_alone(c, environment, model)
    values = {
        "environment": environment,
        "model": model,
        "candidate": candidate,
        "before": before,
        "state": RUNNING,
        "policy": msgspec.to_builtins(policy),
        "step": 0,
        "began_at": now(),
        "step_at": now(),
        "why": "",
        "by": by,
    }
    found: int = c.execute(insert(rollouts).values(values).returning(rollouts.c.id)).scalar_one()
    return found


def change(c: Connection, rollout: Rollout, **values: Any) -> None:
    """Change a rollout that is still as the caller saw it; raises `Conflict` when somebody else was first."""
    same = and_(rollouts.c.id == rollout.id, rollouts.c.state == rollout.state, rollouts.c.step == rollout.step)
    if not c.execute(update(rollouts).where(same).values(**values)).rowcount:
        raise Conflict(f"somebody else has moved the rollout of r{rollout.candidate}", safe="nothing was moved")


def record_look(database: Database, rollout: Rollout, number: int, seen: Mapping[str, Any]) -> bool:
    """Write down what was seen since the look before; return False, and write nothing, where somebody has."""
    row = {"rollout_id": rollout.id, "number": number, "at": now(), "step": rollout.step, "seen": dict(seen)}
    with database.write() as c:
        return bool(c.execute(upsert(c, looks).values(row).on_conflict_do_nothing()).rowcount)


def list_looks(database: Database, rollout: Rollout) -> list[Look]:
    """Return what was seen of a rollout, the oldest first."""
    query = select(looks.c.at, looks.c.step, looks.c.seen).where(looks.c.rollout_id == rollout.id)
    with database.read() as c:
        return [Look(*row) for row in c.execute(query.order_by(looks.c.number))]


def _select() -> Any:
    return select(*(rollouts.c[name] for name in Rollout.__struct_fields__))


def _rollout(row: Sequence[Any] | Iterable[Any]) -> Rollout:
    values = dict(zip(Rollout.__struct_fields__, row, strict=True))
    values["policy"] = msgspec.convert(values["policy"], Policy)
    return Rollout(**values)
