"""Make a fleet map current in an environment: compare and set a pointer, then publish it.

The rows are the truth and the published pointer is its copy, always written whole from the rows while nobody else writes
it. A crash between the two leaves nodes with what they had, and `republish` catches up.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from sqlalchemy import Connection, and_, select, update

from modelmill.names import Digest, ModelName, Segment, parse_model_name
from modelmill.registry.runs import get_signature, list_maps
from modelmill.release.moving import RELEASE, ROLLBACK, Hold, Move, check_hold, hold, release_before, withdraw
from modelmill.release.pointers import Beside, Pointer, Published, Shadow, Versions, find_published, publish
from modelmill.release.rollouts import STOPPED, Rollout, change, check_alone, open_rollout, ring_size
from modelmill.release.rows import (
    Release,
    SignedDigest,
    current_number,
    earlier_release,
    find_map,
    get_one,
    get_or_fail,
    insert_release,
    lock_environment,
    moved_meanwhile,
    point,
    release_of,
    touch,
)
from modelmill.release.shadows import open_shadows
from modelmill.release.tables import environments, pointers, releases
from modelmill.store.database import Database
from modelmill.store.opening import Store
from modelmill.store.tables import now


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
    Raises `OnHold` where nothing may be released, and `Conflict` while a candidate takes traffic beside what is current.
    """
    parse_model_name(environment)
    signature = signature or get_signature(store.database, model, map_digest)
    with store.database.write() as c:
        lock_environment(c, environment)
        check_hold(c, environment, model)
        current = current_number(c, environment, model)
        if expected is not None and expected != current:
            raise moved_meanwhile(environment, model, expected, current)
        found = find_map(c, environment, model, map_digest)
        if found is None or found.number != current:
            check_alone(c, environment, model)
        if found is None:
            found = insert_release(c, environment, model, SignedDigest(map_digest, signature), by, reason)
        elif found.withdrawn:
            withdraw(c, environment, model, found.number, "")
        if found.number != current:
            point(c, environment, model, Move(now(), RELEASE, current, found.number, by, reason))
    # Committed before it is published: no node ever serves what a crash could still take back.
    republish(store, environment)
    return found


def republish(store: Store, environment: str) -> Published:
    """Publish what the rows say, unless that is published already; what was ordered without them is written down first."""
    with store.database.write() as c:
        # Whoever publishes holds the environment's row meanwhile: an older state can never replace a newer one.
        revision = lock_environment(c, environment)
        published = find_published(store.pointers, environment)
        if published is not None and published.orders and published.revision > revision:
            revision = _write_down(c, published)
        if published is None or published.revision != revision:
            models = {
                name: _with_beside(c, store, environment, name, _with_versions(c, store, name, pointer))
                for name, pointer in _pointers(c, environment)
            }
            published = Published(environment, revision, models)
            publish(store.pointers, published)
    return published


def announce(store: Store, environment: str) -> Published:
    """Publish again what is current, with the list of versions as it is now: nodes open those that were built since."""
    with store.database.write() as c:
        lock_environment(c, environment)
        touch(c, environment)
    return republish(store, environment)


def _write_down(c: Connection, published: Published) -> int:
    """Make the rows say what was ordered while nobody could reach them; return the revision that they are at then."""
    environment = published.environment
    for order in published.orders:
        running = open_rollout(c, environment, order.model)
        if running is not None:
            change(c, running, state=STOPPED, ended_at=order.at, why=order.reason)
            withdraw(c, environment, order.model, running.candidate, order.reason)
        if current_number(c, environment, order.model) == order.before:
            withdraw(c, environment, order.model, order.before, order.reason or "rolled back")
            move = Move(order.at, ROLLBACK, order.before, order.after, order.by, order.reason)
            point(c, environment, order.model, move)
            hold(c, environment, order.model, Hold(order.at, None, order.by, order.reason))
    # Beyond what the nodes have seen: they never go back to a smaller one.
    revision = published.revision + 1
    c.execute(update(environments).where(environments.c.name == environment).values(revision=revision))
    return revision


def current_release(database: Database, environment: str, model: ModelName) -> Release | None:
    """Return what an environment serves of a model."""
    with database.read() as c:
        number = current_number(c, environment, model)
        return get_one(c, environment, model, number) if number else None


def get_release(database: Database, environment: str, model: ModelName, number: int) -> Release:
    """Return a release by its number; raises `NotFound` where there is none."""
    with database.read() as c:
        return get_or_fail(c, environment, model, number)


def previous_release(database: Database, environment: str, model: ModelName, current: int) -> int:
    """Return the release that a roll-back goes back to; raises `NotFound` where there is none."""
    with database.read() as c:
        return earlier_release(c, environment, model, current)


def list_releases(
    database: Database, environment: str, model: ModelName, *, before: int | None = None, limit: int = 50
) -> list[Release]:
    """Return the releases of a model in an environment, the newest first; `before` is the last number of the page before."""
    query = select(releases).where(releases.c.environment == environment, releases.c.model == model)
    if before is not None:
        query = query.where(releases.c.number < before)
    with database.read() as c:
        return [release_of(row) for row in c.execute(query.order_by(releases.c.number.desc()).limit(limit))]


def list_places(database: Database, model: ModelName) -> dict[Digest, list[str]]:
    """Return the environments to which each fleet map of a model was released: two of one map are a promotion."""
    query = select(releases.c.map, releases.c.environment).where(releases.c.model == model).distinct()
    found: dict[Digest, list[str]] = {}
    with database.read() as c:
        for digest, environment in c.execute(query.order_by(releases.c.environment)):
            found.setdefault(digest, []).append(environment)
    return found


def list_environments(database: Database) -> list[str]:
    """Return the environments in which something was ever released."""
    with database.read() as c:
        return list(c.execute(select(environments.c.name).order_by(environments.c.name)).scalars())


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


def _with_beside(c: Connection, store: Store, environment: str, model: ModelName, pointer: Pointer) -> Pointer:
    """Return a pointer with the candidate that takes traffic beside it, where there is one, and with its shadows."""
    rollout = open_rollout(c, environment, model)
    pointer = msgspec.structs.replace(pointer, shadows=tuple(_shadows(c, environment, model, pointer, rollout)))
    if rollout is None or rollout.is_shadow:
        return pointer
    candidate = _row_of(c, environment, model, rollout.candidate)
    count = ring_size(rollout, len(drawn_segments(store, rollout))) if rollout.ring else 0
    share = rollout.share if rollout.policy.of == "requests" else 0.0
    beside = Beside(
        release=candidate.release,
        map=candidate.map,
        signature=candidate.signature,
        of=rollout.policy.of,
        share=share,
        salt=rollout.salt,
        ring=rollout.ring,
        count=count,
    )
    return msgspec.structs.replace(pointer, beside=beside)


def _shadows(
    c: Connection, environment: str, model: ModelName, pointer: Pointer, rollout: Rollout | None
) -> Iterator[Shadow]:
    """Yield what answers copies: the candidate at its first step, and what somebody has asked for; never what answers."""
    if rollout is not None and rollout.is_shadow:
        found = _row_of(c, environment, model, rollout.candidate)
        yield Shadow(found.release, found.map, found.signature, salt=rollout.salt, is_step=True)
    answering = {pointer.release, rollout.candidate if rollout else 0}
    for running in open_shadows(c, environment, model):
        if running.release not in answering:
            found = _row_of(c, environment, model, running.release)
            yield Shadow(found.release, found.map, found.signature, running.share, running.salt)


def drawn_segments(store: Store, rollout: Rollout) -> list[Segment]:
    """Return the segments that were drawn for all steps of a rollout, in their order."""
    if rollout.ring is None:
        return []
    return msgspec.msgpack.decode(store.blobs.get(rollout.ring), type=list[Segment])
