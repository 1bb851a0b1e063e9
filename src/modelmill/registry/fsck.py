"""Whether every byte that the registry refers to is there and unchanged, and what lies about unused.

Everything that a row names is followed: a snapshot's manifest to its files, a code archive to its files, a fleet map to
its packs. What nothing leads to is an orphan: a crash leaves it between a blob and the row that would have named it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from sqlalchemy import func, select, union

from modelmill.data.snapshot import Manifest
from modelmill.data.tables import labels, predictions, snapshots
from modelmill.errors import BlobBroken
from modelmill.names import Digest
from modelmill.registry.facts import read_archive
from modelmill.registry.fleet import decode
from modelmill.registry.lock import Lock
from modelmill.registry.records import RunState
from modelmill.registry.studies import kept_answers
from modelmill.registry.tables import packs, runs, versions
from modelmill.store.files import leftovers
from modelmill.store.opening import Store

GRACE = timedelta(hours=1)
"""An orphan younger than this may be waiting for its row."""


class Damage(msgspec.Struct, frozen=True):
    """One thing that is not as it was recorded."""

    digest: Digest
    what: str
    """What the bytes are, in words."""
    problem: str


class FsckReport(msgspec.Struct, frozen=True):
    """What was found, and what was removed."""

    checked: int
    """How many blobs were read and compared with their digests."""
    damaged: tuple[Damage, ...]
    orphans: tuple[Digest, ...]
    leftovers: tuple[Path, ...]
    removed: int
    """How many orphans and temporary files were removed."""

    @property
    def sound(self) -> bool:
        """Return whether nothing is lost; orphans and temporary files are untidy, no loss."""
        return not self.damaged


def fsck(
    store: Store, *, repair: bool = False, grace: timedelta = GRACE, named: Iterable[tuple[Digest, str]] = ()
) -> FsckReport:
    """Read every blob that is referred to, and list what nothing refers to.

    `named` are blobs that something else than a row refers to, each with what it is.

    `repair` removes temporary files whose writer is gone, and orphans that are older than `grace` and than every run that
    has not ended. What is damaged stays: another copy may come to light.
    """
    known: dict[Digest, str] = {}
    damaged = [*_damaged_blobs(store, known, named), *_misplaced_entries(store)]
    orphans = tuple(digest for digest in store.blobs.digests() if digest not in known)
    left = tuple(path for folder in store.scratch_folders() for path in leftovers(folder))
    removed = 0
    if repair:
        old = [digest for digest in orphans if _written_at(store, digest) < _oldest_work(store, grace)]
        store.blobs.delete(old)
        removed = len(old) + len(store.sweep())
    return FsckReport(len(known), tuple(damaged), orphans, left, removed)


def _damaged_blobs(store: Store, known: dict[Digest, str], named: Iterable[tuple[Digest, str]]) -> Iterator[Damage]:
    """Follow every reference once, filling `known`; yield what is missing or changed."""
    pending = [*_roots(store), *named]
    while pending:
        digest, what = pending.pop()
        if digest in known:
            continue  # shared by thousands of versions, read once
        known[digest] = what
        try:
            pending.extend(_references(store, digest, what))
        except BlobBroken as error:
            yield Damage(digest, what, str(error))


def _roots(store: Store) -> Iterator[tuple[Digest, str]]:
    """Yield every digest that a row names and that has a blob."""
    named = {name: runs.c[name] for name in ("snapshot", "code", "lock", "host", "declaration", "diff", "map")}
    columns = [*named.items(), ("pack", packs.c.digest), ("snapshot", snapshots.c.digest)]
    columns += [("file of logged predictions", predictions.c.file), ("file of labels", labels.c.file)]
    with store.database.read() as c:
        for what, column in columns:
            for digest in c.execute(select(column).distinct().where(column.is_not(None))).scalars():
                yield digest, what
        yield from ((digest, "answers of an experiment") for digest in kept_answers(c))


def _references(store: Store, digest: Digest, what: str) -> Iterator[tuple[Digest, str]]:
    """Read a blob, and yield what it refers to in turn."""
    content = store.blobs.get(digest)
    if what == "code":
        yield from (
            (file, f"file `{name}` of a code archive") for name, file in read_archive(store.blobs, digest).files.items()
        )
    elif what == "map":
        fleet = decode(content)
        yield from ((code, "code") for code in {fleet.header.code, *fleet.codes()})
        yield from ((pack, "pack") for pack in fleet.packs)
    elif what == "lock":
        with suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(content, type=Lock).wheel, "modelmill itself, of a lock"
    elif what == "snapshot":
        with suppress(msgspec.MsgspecError):
            manifest = msgspec.json.decode(content, type=Manifest)
            yield manifest.index, "index of a snapshot"
            yield from ((file.digest, "file of a snapshot") for file in manifest.files)


def _misplaced_entries(store: Store) -> Iterator[Damage]:
    """Yield the packs in which a version lies beyond the end."""
    ends = union(
        select(versions.c.pack_id, func.max(versions.c.offset + versions.c.length).label("end")).group_by(
            versions.c.pack_id
        ),
        select(versions.c.pack_id, func.max(versions.c.extras_offset + versions.c.extras_length).label("end")).group_by(
            versions.c.pack_id
        ),
    ).subquery()
    query = select(packs.c.digest).distinct().join(ends, ends.c.pack_id == packs.c.id).where(ends.c.end > packs.c.bytes)
    with store.database.read() as c:
        for digest in c.execute(query).scalars():
            yield Damage(digest, "pack", "a version lies beyond its end")


def _oldest_work(store: Store, grace: timedelta) -> datetime:
    """Return when the oldest work began that may still put a row to its blobs."""
    with store.database.read() as c:
        started = c.execute(select(func.min(runs.c.started_at)).where(runs.c.state == RunState.RUNNING)).scalar()
    latest = datetime.now(UTC) - grace
    return min(started, latest) if started else latest


def _written_at(store: Store, digest: Digest) -> datetime:
    return datetime.fromtimestamp(store.blobs.path_of(digest).stat().st_mtime, UTC)
