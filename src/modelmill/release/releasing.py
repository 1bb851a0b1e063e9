"""Make a fleet map current in an environment: compare and set a pointer, then publish it.

The rows are the truth and the published pointer is its copy, always written whole from the rows while nobody else writes
it. A crash between the two leaves nodes with what they had, and `republish` catches up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, and_, func, select, update

from modelmill.errors import Conflict, NotFound
from modelmill.names import Digest, ModelName, parse_model_name
from modelmill.registry.runs import get_signature, list_maps
from modelmill.release.moving import (
    HOLD,
    RELEASE,
    RESUME,
    ROLLBACK,
    Hold,
    Move,
    check_hold,
    hold,
    lift,
    note_move,
    release_before,
    withdraw,
)
from modelmill.release.pointers import Pointer, Published, Versions, find_published, publish
from modelmill.release.tables import environments, pointers, releases
from modelmill.store.database import Database
from modelmill.store.dialects import upsert
from modelmill.store.opening import Store
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


def release(  # noqa: PLR0913 - a release and its reason
    store: Store,
    environment: str,
    model: ModelName,
    map_digest: Digest,
    *,
    signature: bytes | None = None,
    expected: int | None = None,
    by: str = "",
    reason: str = "",
) -> Release:
    """Make a map current in an environment, and publish it: one that a run has recorded, or, with its signature, another.

    A map that was released there before keeps its number: releasing it again is a roll-back, or nothing to do. `expected`
    is the release that the caller takes for current, 0 for none; when another one is, Conflict is raised and nothing moves.
    Raises `OnHold` where nothing may be released.
    """
    parse_model_name(environment)
    signature = signature or get_signature(store.database, model, map_digest)
    with store.database.write() as c:
        _lock_environment(c, environment)
        check_hold(c, environment, model)
        current = _current_number(c, environment, model)
        if expected is not None and expected != current:
            raise _moved(environment, model, expected, current)
        found = _find_map(c, environment, model, map_digest)
        if found is None:
            found = _insert(c, environment, model, SignedDigest(map_digest, signature), by, reason)
        elif found.withdrawn:
            withdraw(c, environment, model, found.number, "")
        if found.number != current:
            _point(c, environment, model, Move(now(), RELEASE, current, found.number, by, reason))
    # Committed before it is published: no node ever serves what a crash could still take back.
    republish(store, environment)
    return found


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
        _lock_environment(c, environment)
        current = _current_number(c, environment, model)
        if not current:
            raise NotFound(f"{environment} serves no `{model}`", next="modelmill status")
        if composed is not None:
            known = _find_map(c, environment, model, composed.digest)
            after = (known or _insert(c, environment, model, composed, by, reason)).number
        else:
            after = _earlier(c, environment, model, current) if to is None else to
            _get_or_fail(c, environment, model, after)
        if after == current:
            raise Conflict(f"{environment} serves r{current} of `{model}` already", safe="nothing was moved")
        moment = now()
        move = Move(moment, ROLLBACK, current, after, by, reason)
        withdraw(c, environment, model, current, reason or "rolled back")
        _point(c, environment, model, move)
        hold(c, environment, model, Hold(moment, until, by, reason or f"rolled back from r{current}"))
    republish(store, environment)
    return move


def set_hold(store: Store, environment: str, model: ModelName, wanted: Hold) -> Move:
    """Hold a model in an environment: nothing is released there until it is lifted, or over."""
    with store.database.write() as c:
        _lock_environment(c, environment)
        current = _current_number(c, environment, model)
        hold(c, environment, model, wanted)
        move = Move(wanted.at, HOLD, current, current, wanted.by, wanted.reason)
        note_move(c, environment, model, move)
    return move


def lift_hold(store: Store, environment: str, model: ModelName, *, by: str, reason: str) -> Move:
    """Lift what holds a model in an environment; raises `NotFound` where nothing does."""
    with store.database.write() as c:
        _lock_environment(c, environment)
        lift(c, environment, model)
        current = _current_number(c, environment, model)
        move = Move(now(), RESUME, current, current, by, reason)
        note_move(c, environment, model, move)
    return move


def republish(store: Store, environment: str) -> Published:
    """Publish what the rows say, unless that is published already; what was ordered without them is written down first."""
    with store.database.write() as c:
        # Whoever publishes holds the environment's row meanwhile: an older state can never replace a newer one.
        revision = _lock_environment(c, environment)
        published = find_published(store.pointers, environment)
        if published is not None and published.orders and published.revision > revision:
            revision = _write_down(c, published)
        if published is None or published.revision != revision:
            models = {name: _with_versions(c, store, name, pointer) for name, pointer in _pointers(c, environment)}
            published = Published(environment, revision, models)
            publish(store.pointers, published)
    return published


def _write_down(c: Connection, published: Published) -> int:
    """Make the rows say what was ordered while nobody could reach them; return the revision that they are at then."""
    environment = published.environment
    for order in published.orders:
        if _current_number(c, environment, order.model) == order.before:
            withdraw(c, environment, order.model, order.before, order.reason or "rolled back")
            move = Move(order.at, ROLLBACK, order.before, order.after, order.by, order.reason)
            _point(c, environment, order.model, move)
            hold(c, environment, order.model, Hold(order.at, None, order.by, order.reason))
    # Beyond what the nodes have seen: they never go back to a smaller one.
    revision = published.revision + 1
    c.execute(update(environments).where(environments.c.name == environment).values(revision=revision))
    return revision


def current_release(database: Database, environment: str, model: ModelName) -> Release | None:
    """Return what an environment serves of a model."""
    with database.read() as c:
        number = _current_number(c, environment, model)
        return _get(c, environment, model, number) if number else None


def get_release(database: Database, environment: str, model: ModelName, number: int) -> Release:
    """Return a release by its number; raises `NotFound` where there is none."""
    with database.read() as c:
        return _get_or_fail(c, environment, model, number)


def previous_release(database: Database, environment: str, model: ModelName, current: int) -> int:
    """Return the release that a roll-back goes back to; raises `NotFound` where there is none."""
    with database.read() as c:
        return _earlier(c, environment, model, current)


def list_releases(
    database: Database, environment: str, model: ModelName, *, before: int | None = None, limit: int = 50
) -> list[Release]:
    """Return the releases of a model in an environment, the newest first; `before` is the last number of the page before."""
    query = select(releases).where(releases.c.environment == environment, releases.c.model == model)
    if before is not None:
        query = query.where(releases.c.number < before)
    with database.read() as c:
        return [_release(row) for row in c.execute(query.order_by(releases.c.number.desc()).limit(limit))]


def list_environments(database: Database) -> list[str]:
    """Return the environments in which something was ever released."""
    with database.read() as c:
        return list(c.execute(select(environments.c.name).order_by(environments.c.name)).scalars())


def _lock_environment(c: Connection, environment: str) -> int:
    """Hold the environment's row until the transaction ends; return its revision."""
    row = {"name": environment, "revision": 0, "created_at": now()}
    statement = upsert(c, environments).values(row)
    statement = statement.on_conflict_do_update(
        index_elements=["name"], set_={"revision": environments.c.revision}
    ).returning(environments.c.revision)
    revision: int = c.execute(statement).scalar_one()
    return revision


def _point(c: Connection, environment: str, model: ModelName, move: Move) -> None:
    """Move the pointer, and write down who did."""
    number = move.after
    statement = upsert(c, pointers).values(environment=environment, model=model, number=number)
    c.execute(statement.on_conflict_do_update(index_elements=["environment", "model"], set_={"number": number}))
    note_move(c, environment, model, move)
    its_row = environments.c.name == environment
    c.execute(update(environments).where(its_row).values(revision=environments.c.revision + 1))


def _current_number(c: Connection, environment: str, model: ModelName) -> int:
    its_row = and_(pointers.c.environment == environment, pointers.c.model == model)
    number: int | None = c.execute(select(pointers.c.number).where(its_row)).scalar()
    return number or 0


def _newest_number(c: Connection, environment: str, model: ModelName) -> int:
    its_rows = and_(releases.c.environment == environment, releases.c.model == model)
    number: int | None = c.execute(select(func.max(releases.c.number)).where(its_rows)).scalar()
    return number or 0


def _find_map(c: Connection, environment: str, model: ModelName, map_digest: Digest) -> Release | None:
    its_rows = and_(releases.c.environment == environment, releases.c.model == model, releases.c.map == map_digest)
    row = c.execute(select(releases).where(its_rows)).first()
    return _release(row) if row else None


def _insert(c: Connection, environment: str, model: ModelName, signed: SignedDigest, by: str, reason: str) -> Release:
    number = _newest_number(c, environment, model) + 1
    values = {"map": signed.digest, "signature": signed.signature, "created_at": now(), "by": by, "reason": reason}
    c.execute(releases.insert().values(environment=environment, model=model, number=number, **values))
    return _get(c, environment, model, number)


def _earlier(c: Connection, environment: str, model: ModelName, current: int) -> int:
    found = release_before(c, environment, model, current)
    if found is None:
        raise NotFound(
            f"there is no release before r{current} of `{model}` in {environment}",
            next=f"modelmill history {model} {environment}",
            safe="nothing was moved",
        )
    return found


def _get_or_fail(c: Connection, environment: str, model: ModelName, number: int) -> Release:
    its_row = and_(releases.c.environment == environment, releases.c.model == model, releases.c.number == number)
    row = c.execute(select(releases).where(its_row)).first()
    if row is None:
        raise NotFound(f"`{model}` has no release r{number} in {environment}", next="modelmill status")
    return _release(row)


def _get(c: Connection, environment: str, model: ModelName, number: int) -> Release:
    its_row = and_(releases.c.environment == environment, releases.c.model == model, releases.c.number == number)
    return _release(c.execute(select(releases).where(its_row)).one())


def _pointers(c: Connection, environment: str) -> Iterator[tuple[ModelName, Pointer]]:
    same = and_(
        releases.c.environment == pointers.c.environment,
        releases.c.model == pointers.c.model,
        releases.c.number == pointers.c.number,
    )
    query = select(releases).join_from(pointers, releases, same).where(pointers.c.environment == environment)
    for row in c.execute(query).all():
        model = ModelName(row.model)
        number = release_before(c, environment, model, row.number)
        before = _row_of(c, environment, model, number) if number else None
        yield model, Pointer(row.number, row.map, row.signature, before=before)


def _row_of(c: Connection, environment: str, model: ModelName, number: int) -> Pointer:
    its_row = and_(releases.c.environment == environment, releases.c.model == model, releases.c.number == number)
    row = c.execute(select(releases).where(its_row)).one()
    return Pointer(row.number, row.map, row.signature)


def _with_versions(c: Connection, store: Store, model: ModelName, pointer: Pointer) -> Pointer:
    """Return a pointer with the list of all versions of its model, which is put among the blobs."""
    content = Versions(list_maps(c, model)).encode()
    return msgspec.structs.replace(pointer, versions=store.blobs.put([content])[0])


def _release(row: Row[Any]) -> Release:
    known = row._mapping  # noqa: SLF001 - this is SQLAlchemy's public name for it
    return Release(*(known[name] for name in Release.__struct_fields__))


def _moved(environment: str, model: ModelName, expected: int, current: int) -> Conflict:
    return Conflict(
        f"`{environment}` serves another release of `{model}` than you have seen",
        expected=f"r{expected}" if expected else "none",
        got=f"r{current}" if current else "none",
        next="look at what is current, then decide again: modelmill status",
        safe="nothing was moved",
    )
