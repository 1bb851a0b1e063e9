"""What was current when, who moved it and why; holds, and what a roll-back goes back to."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, and_, delete, select, update

from modelmill.errors import NotFound, OnHold
from modelmill.names import ModelName
from modelmill.release.tables import holds, moves, releases
from modelmill.store.database import Database
from modelmill.store.dialects import upsert
from modelmill.store.tables import now

RELEASE, CANARY, STOP, ROLLBACK, HOLD, RESUME = "release", "canary", "stop", "rollback", "hold", "resume"
SHADOW, SHADOW_ENDED = "shadow", "shadow ended"


class Move(msgspec.Struct, frozen=True):
    """One change of what an environment serves of a model, or of whether that may change."""

    at: datetime
    kind: str
    before: int
    """The release until then; 0 where there was none."""
    after: int
    by: str
    reason: str


class Hold(msgspec.Struct, frozen=True):
    """Nothing is released until it is lifted, or over."""

    at: datetime
    until: datetime | None
    by: str
    reason: str


def note_move(c: Connection, environment: str, model: ModelName, move: Move) -> None:
    """Write a move down, in the transaction that makes it."""
    c.execute(moves.insert().values(environment=environment, model=model, **msgspec.structs.asdict(move)))


def list_moves(database: Database, environment: str, model: ModelName, limit: int = 50) -> list[Move]:
    """Return the moves of a model in an environment, the newest first."""
    columns = [moves.c[name] for name in Move.__struct_fields__]
    query = select(*columns).where(moves.c.environment == environment, moves.c.model == model)
    with database.read() as c:
        return [Move(*row) for row in c.execute(query.order_by(moves.c.id.desc()).limit(limit))]


def release_before(c: Connection, environment: str, model: ModelName, current: int) -> int | None:
    """Return the last release that was current before and was not taken back; None where there is none."""
    its_release = and_(
        releases.c.environment == moves.c.environment,
        releases.c.model == moves.c.model,
        releases.c.number == moves.c.after,
    )
    query = select(moves.c.after).join(releases, its_release)
    query = query.where(moves.c.environment == environment, moves.c.model == model, releases.c.withdrawn == "")
    query = (
        query.where(moves.c.kind.in_((RELEASE, ROLLBACK)), moves.c.after != current)
        .order_by(moves.c.id.desc())
        .limit(1)
    )
    found: int | None = c.execute(query).scalar()
    return found


def withdraw(c: Connection, environment: str, model: ModelName, number: int, why: str) -> None:
    """Note that a release was taken back, or, with an empty reason, that it is one like any other."""
    its_row = and_(releases.c.environment == environment, releases.c.model == model, releases.c.number == number)
    c.execute(update(releases).where(its_row).values(withdrawn=why))


# ------------------------------------------------------------------ holds


def find_hold(c: Connection, environment: str, model: ModelName) -> Hold | None:
    """Return what holds a model in an environment; one that is over holds nothing."""
    columns = [holds.c[name] for name in Hold.__struct_fields__]
    row = c.execute(select(*columns).where(holds.c.environment == environment, holds.c.model == model)).first()
    found = Hold(*row) if row else None
    return None if found is None or (found.until is not None and found.until <= now()) else found


def check_hold(c: Connection, environment: str, model: ModelName) -> None:
    """Raise `OnHold` where nothing may be released."""
    found = find_hold(c, environment, model)
    if found is not None:
        until = f"until {found.until:%Y-%m-%d %H:%M} UTC" if found.until else "until it is lifted"
        raise OnHold(
            f"releases of `{model}` to {environment} are on hold, {until}",
            got=found.reason or "no reason was given",
            likely=f"{found.by} holds them since {found.at:%Y-%m-%d %H:%M} UTC",
            next=f"modelmill resume {model} {environment}",
            safe="nothing was moved",
        )


def hold(c: Connection, environment: str, model: ModelName, wanted: Hold) -> None:
    """Hold a model in an environment; what held it before is replaced."""
    values = msgspec.structs.asdict(wanted)
    statement = upsert(c, holds).values(environment=environment, model=model, **values)
    c.execute(statement.on_conflict_do_update(index_elements=["environment", "model"], set_=values))


def lift(c: Connection, environment: str, model: ModelName) -> Hold:
    """Lift what holds a model; raises `NotFound` where nothing does."""
    found = find_hold(c, environment, model)
    if found is None:
        raise NotFound(f"nothing holds `{model}` in {environment}", next=f"modelmill history {model} {environment}")
    c.execute(delete(holds).where(holds.c.environment == environment, holds.c.model == model))
    return found
