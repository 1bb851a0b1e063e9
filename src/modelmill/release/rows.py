"""Releases and pointers as rows: the statements that the rest of this room is made of, each in its caller's transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, and_, func, select, update

from modelmill.errors import Conflict, NotFound
from modelmill.names import Digest, ModelName
from modelmill.release.moving import Move, note_move, release_before
from modelmill.release.tables import environments, pointers, releases, shadows
from modelmill.store.dialects import upsert
from modelmill.store.tables import now


class SignedDigest(NamedTuple):
    """A fleet map by its digest, with the signature of the installation."""

    digest: Digest
    signature: bytes


class Release(msgspec.Struct, frozen=True):
    """An immutable, numbered fleet map in an environment."""

    environment: str
    model: ModelName
    number: int
    map: Digest
    created_at: datetime
    by: str
    reason: str
    withdrawn: str = ""
    """Why it was taken back; empty where it was not."""


def lock_environment(c: Connection, environment: str) -> int:
    """Hold the environment's row until the transaction ends; return its revision."""
    row = {"name": environment, "revision": 0, "created_at": now()}
    statement = upsert(c, environments).values(row)
    statement = statement.on_conflict_do_update(
        index_elements=["name"], set_={"revision": environments.c.revision}
    ).returning(environments.c.revision)
    revision: int = c.execute(statement).scalar_one()
    return revision


def touch(c: Connection, environment: str) -> None:
    """Count a change of what an environment serves: its nodes then look for it."""
    its_row = environments.c.name == environment
    c.execute(update(environments).where(its_row).values(revision=environments.c.revision + 1))


def point(c: Connection, environment: str, model: ModelName, move: Move) -> None:
    """Move the pointer, and write down who did; what becomes current answers no copies of its own answers."""
    number = move.after
    statement = upsert(c, pointers).values(environment=environment, model=model, number=number)
    c.execute(statement.on_conflict_do_update(index_elements=["environment", "model"], set_={"number": number}))
    its_shadow = and_(shadows.c.environment == environment, shadows.c.model == model, shadows.c.release == number)
    c.execute(update(shadows).where(its_shadow, shadows.c.ended_at.is_(None)).values(ended_at=now()))
    note_move(c, environment, model, move)
    touch(c, environment)


def current_number(c: Connection, environment: str, model: ModelName) -> int:
    """Return the number of the current release; 0 where there is none."""
    its_row = and_(pointers.c.environment == environment, pointers.c.model == model)
    number: int | None = c.execute(select(pointers.c.number).where(its_row)).scalar()
    return number or 0


def newest_number(c: Connection, environment: str, model: ModelName) -> int:
    """Return the largest number that a release of a model has; 0 where there is none."""
    its_rows = and_(releases.c.environment == environment, releases.c.model == model)
    number: int | None = c.execute(select(func.max(releases.c.number)).where(its_rows)).scalar()
    return number or 0


def find_map(c: Connection, environment: str, model: ModelName, map_digest: Digest) -> Release | None:
    """Return the release of a fleet map, where it was released before."""
    its_rows = and_(releases.c.environment == environment, releases.c.model == model, releases.c.map == map_digest)
    row = c.execute(select(releases).where(its_rows)).first()
    return release_of(row) if row else None


def insert_release(
    c: Connection, environment: str, model: ModelName, signed: SignedDigest, by: str, reason: str
) -> Release:
    """Add a release; nothing points to it yet."""
    number = newest_number(c, environment, model) + 1
    values = {"map": signed.digest, "signature": signed.signature, "created_at": now(), "by": by, "reason": reason}
    c.execute(releases.insert().values(environment=environment, model=model, number=number, **values))
    return get_one(c, environment, model, number)


def earlier_release(c: Connection, environment: str, model: ModelName, current: int) -> int:
    """Return the release that a roll-back goes back to; raises `NotFound` where there is none."""
    found = release_before(c, environment, model, current)
    if found is None:
        raise NotFound(
            f"there is no release before r{current} of `{model}` in {environment}",
            next=f"modelmill history {model} {environment}",
            safe="nothing was moved",
        )
    return found


def get_or_fail(c: Connection, environment: str, model: ModelName, number: int) -> Release:
    """Return a release by its number; raises `NotFound` where there is none."""
    its_row = and_(releases.c.environment == environment, releases.c.model == model, releases.c.number == number)
    row = c.execute(select(releases).where(its_row)).first()
    if row is None:
        raise NotFound(f"`{model}` has no release r{number} in {environment}", next="modelmill status")
    return release_of(row)


def get_one(c: Connection, environment: str, model: ModelName, number: int) -> Release:
    """Return a release that is known to be there."""
    its_row = and_(releases.c.environment == environment, releases.c.model == model, releases.c.number == number)
    return release_of(c.execute(select(releases).where(its_row)).one())


def release_of(row: Row[Any]) -> Release:
    """Return a row as a value."""
    known = row._mapping  # noqa: SLF001 - this is SQLAlchemy's public name for it
    return Release(*(known[name] for name in Release.__struct_fields__))


def moved_meanwhile(environment: str, model: ModelName, expected: int, current: int) -> Conflict:
    """Return what is raised when another release is current than the caller has seen."""
    return Conflict(
        f"`{environment}` serves another release of `{model}` than you have seen",
        expected=f"r{expected}" if expected else "none",
        got=f"r{current}" if current else "none",
        next="look at what is current, then decide again: modelmill status",
        safe="nothing was moved",
    )
