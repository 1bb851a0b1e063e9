"""Looking versions up, by segment, by run, or for the whole fleet at once; pages go on from a key, never from a count."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, func, select

from modelmill.artifact.saving import RUNTIMES
from modelmill.errors import NotFound
from modelmill.names import Digest, ModelName, Segment, VersionId, format_segment, format_target, parse_segment
from modelmill.registry.change import Digests
from modelmill.registry.fleet import Entry
from modelmill.registry.paging import Page, read_cursor, write_cursor
from modelmill.registry.records import Head
from modelmill.registry.tables import models, packs, runs, segments, tags, versions
from modelmill.store.database import Database
from modelmill.store.dialects import upsert

PAGE = 50


class Version(msgspec.Struct, frozen=True):
    """One immutable fitted result: who it is, what it came from, where its bytes lie, and how well it does."""

    id: VersionId
    digests: Digests
    snapshot: Digest
    pack: Digest
    offset: int
    length: int
    artifact: Digest
    extras: Digest | None
    extras_offset: int
    extras_length: int
    format: str
    runtime: str
    runtime_why: str
    state: str
    why: str
    rows: int
    test_rows: int
    score: float | None
    metrics: Mapping[str, float | None]
    recorded_at: datetime

    @property
    def entry(self) -> Entry:
        """Return the version as an entry of a fleet map."""
        names = ("format", "runtime", "pack", "offset", "length", "artifact", "state", "why")
        return Entry(self.id.segment, self.id.number, *(getattr(self, name) for name in names))


class Scored(msgspec.Struct, frozen=True, array_like=True):
    """How well the current version of a segment does on its own test rows."""

    segment: Segment
    number: int
    state: str
    why: str
    test_rows: int
    metrics: Mapping[str, float | None]


def current_version(database: Database, model: ModelName, segment: Segment) -> Version:
    """Return the version of a segment that answers."""
    return _get(database, _CURRENT, model, segment)


def candidate_version(database: Database, model: ModelName, segment: Segment) -> Version:
    """Return the version of a segment that answers, or the one that waits to."""
    return _get(database, _CANDIDATE, model, segment)


def _get(database: Database, query: Select[Any], model: ModelName, segment: Segment) -> Version:
    with database.read() as c:
        row = c.execute(query, {"model": model, "key": format_segment(segment)}).first()
    if row is None:
        raise _no_version(model, segment)
    return version_of(row)


def get_version(database: Database, version: VersionId) -> Version:
    """Return one version."""
    values = {"model": version.model, "key": format_segment(version.segment), "number": version.number}
    with database.read() as c:
        row = c.execute(_ONE, values).first()
    if row is None:
        raise _no_version(version.model, version.segment, version.number)
    return version_of(row)


def get_versions(database: Database, versions: Iterable[VersionId]) -> Iterator[Version]:
    """Yield many versions, one look-up each; the first that is not there raises `NotFound`."""
    with database.read() as c:
        for version in versions:
            values = {"model": version.model, "key": format_segment(version.segment), "number": version.number}
            row = c.execute(_ONE, values).first()
            if row is None:
                raise _no_version(version.model, version.segment, version.number)
            yield version_of(row)


def list_versions(
    database: Database, model: ModelName, segment: Segment, *, after: str | None = None, limit: int = PAGE
) -> Page[Version]:
    """Return the versions of one segment, the newest first."""
    (below,) = read_cursor(after, (int,)) if after else (2**31 - 1,)
    values = {"model": model, "key": format_segment(segment), "below": below, "limit": limit}
    with database.read() as c:
        found = [version_of(row) for row in c.execute(_HISTORY, values)]
    return Page(tuple(found), write_cursor(found[-1].id.number) if len(found) == limit else None)


def list_members(
    database: Database, model: ModelName, run: int, *, after: str | None = None, limit: int = PAGE
) -> Page[Version]:
    """Return the versions that one run made, the segments that were known first, first."""
    (above,) = read_cursor(after, (int,)) if after else (0,)
    with database.read() as c:
        rows = c.execute(_MEMBERS, {"model": model, "run": run, "above": above, "limit": limit}).all()
    cursor = write_cursor(rows[-1].segment_id) if len(rows) == limit else None
    return Page(tuple(version_of(row) for row in rows), cursor)


def heads(database: Database, model: ModelName) -> dict[Segment, Head]:
    """Return what was built last of every segment of a model, also where a gate has refused it."""
    with database.read() as c:
        rows = c.execute(_HEADS, {"model": model}).all()
    return {parse_segment(row.key): _head(row) for row in rows}


def current_entries(database: Database, model: ModelName) -> Iterator[Entry]:
    """Yield what a fleet map needs of the version of every segment that answers."""
    with database.read() as c:
        rows = c.execute(_ENTRIES, {"model": model}).all()
    return (Entry(parse_segment(row.key), *row[1:]) for row in rows)


def candidate_entries(database: Database, model: ModelName) -> Iterator[Entry]:
    """Yield the entries that answer, or that wait to where a gate has not judged them yet."""
    with database.read() as c:
        rows = c.execute(_CANDIDATES, {"model": model}).all()
    return (Entry(parse_segment(row.key), *row[1:]) for row in rows)


def current_scores(database: Database, model: ModelName) -> list[Scored]:
    """Return how well the version of every segment does that answers."""
    with database.read() as c:
        rows = c.execute(_SCORES, {"model": model}).all()
    return [Scored(parse_segment(row.key), *row[1:]) for row in rows]


class Measured(msgspec.Struct, frozen=True, array_like=True):
    """What is compared of a version."""

    data: Digest
    metrics: Mapping[str, float | None]


def measured_versions(
    database: Database, model: ModelName, numbers: Collection[int], segment: Segment | None = None
) -> dict[tuple[Segment, int], Measured]:
    """Return data digest and metrics of the versions with these numbers, of all segments or of one: one query."""
    query = of_model(_MEASURED).where(versions.c.number.in_(sorted(numbers)))
    if segment is not None:
        query = query.where(segments.c.key == format_segment(segment))
    with database.read() as c:
        rows = c.execute(query, {"model": model}).all()
    return {(parse_segment(row.key), row.number): Measured(row.data, row.metrics) for row in rows}


def current_runtimes(database: Database, model: ModelName) -> dict[tuple[str, str], int]:
    """Return what the current versions are answered by, and why, with how many there are of each; most first."""
    with database.read() as c:
        rows = c.execute(_RUNTIMES, {"model": model}).all()
    return {(row.runtime, row.runtime_why): row.many for row in rows}


def add_tags(database: Database, version: VersionId, given: Mapping[str, str]) -> None:
    """Give a version tags; one that it has already stays."""
    with database.write() as c:
        segment_id = _segment_id(c, version)
        rows = [{"key": k, "value": v, "segment_id": segment_id, "number": version.number} for k, v in given.items()]
        if rows:
            c.execute(upsert(c, tags).on_conflict_do_nothing(), rows)


def list_tags(database: Database, version: VersionId) -> dict[str, list[str]]:
    """Return the tags of a version: key -> values."""
    found: dict[str, list[str]] = {}
    with database.read() as c:
        segment_id = _segment_id(c, version)
        query = select(tags.c.key, tags.c.value).where(tags.c.segment_id == segment_id, tags.c.number == version.number)
        for row in c.execute(query.order_by(tags.c.key, tags.c.value)):
            found.setdefault(row.key, []).append(row.value)
    return found


def version_of(row: Row[Any]) -> Version:
    """Return a row of `VERSIONS` as a version."""
    _, model, key, number, code, data, recipe, *rest = row[:_WIDTH]
    return Version(VersionId(model, parse_segment(key), number), Digests(code, data, recipe), *rest)


def _head(row: Row[Any]) -> Head:
    digests = None if row.newest is None else Digests(row.code, row.data, row.recipe)
    readable = row.format is None or row.format in RUNTIMES
    return Head(row.newest, digests, failed=row.failed is not None, readable=readable)


def _segment_id(c: Connection, version: VersionId) -> int:
    row = c.execute(
        _ONE, {"model": version.model, "key": format_segment(version.segment), "number": version.number}
    ).first()
    if row is None:
        raise _no_version(version.model, version.segment, version.number)
    found: int = row.segment_id
    return found


def _no_version(model: ModelName, segment: Segment, number: int | None = None) -> NotFound:
    which = f"version {number}" if number else "version"
    return NotFound(f"`{format_target(model, segment)}` has no {which}", next=f"modelmill show {model}")


def of_model(query: Select[Any]) -> Select[Any]:
    """Return `query`, in which `registry_segment` stands, for the model that the parameter ``model`` names."""
    # A value found beforehand, no join: PostgreSQL then takes the segments in the order of an index, and sorts nothing.
    asked = models.alias("asked")
    return query.where(
        segments.c.model_id == select(asked.c.id).where(asked.c.name == bindparam("model")).scalar_subquery()
    )


def _with_key(query: Select[Any]) -> Select[Any]:
    return of_model(query).where(segments.c.key == bindparam("key"))


# All statements are built once: making one takes longer than running it.
_FIELDS = [
    (packs.c.digest if name == "pack" else next(t.c[name] for t in (versions, packs, runs) if name in t.c))
    for name in Version.__struct_fields__[2:]
]
VERSIONS = select(
    versions.c.segment_id,
    models.c.name.label("model"),
    segments.c.key,
    versions.c.number,
    runs.c.code,
    versions.c.data,
    runs.c.model.label("recipe"),
    *_FIELDS,
).select_from(
    segments.join(models, segments.c.model_id == models.c.id)
    .join(versions, versions.c.segment_id == segments.c.id)
    .join(runs, versions.c.run_id == runs.c.id)
    .join(packs, versions.c.pack_id == packs.c.id)
)
"""Everything that `version_of` reads, of all versions."""
_WIDTH = len(VERSIONS.selected_columns)
_CURRENT = _with_key(VERSIONS).where(versions.c.number == segments.c.current)
_CANDIDATE = _with_key(VERSIONS).where(versions.c.number == func.coalesce(segments.c.waiting, segments.c.current))
_ONE = _with_key(VERSIONS).where(versions.c.number == bindparam("number"))
_HISTORY = (
    _with_key(VERSIONS)
    .where(versions.c.number < bindparam("below"))
    .order_by(versions.c.number.desc())
    .limit(bindparam("limit"))
)
_MEMBERS = (
    of_model(VERSIONS)
    .where(
        versions.c.run_id
        == select(runs.c.id)
        .join(models, runs.c.model_id == models.c.id)
        .where(models.c.name == bindparam("model"), runs.c.number == bindparam("run"))
        .correlate(None)
        .scalar_subquery(),
        versions.c.segment_id > bindparam("above"),
    )
    .order_by(versions.c.segment_id)
    .limit(bindparam("limit"))
)
_JOINED = segments.join(models, segments.c.model_id == models.c.id)
_NEWEST = func.coalesce(segments.c.waiting, segments.c.refused, segments.c.current)
_HEADS = of_model(
    select(
        segments.c.key,
        _NEWEST.label("newest"),
        segments.c.failed,
        runs.c.code,
        versions.c.data,
        versions.c.format,
        runs.c.model.label("recipe"),
    ).select_from(
        _JOINED.outerjoin(
            versions, (versions.c.segment_id == segments.c.id) & (versions.c.number == _NEWEST)
        ).outerjoin(runs, versions.c.run_id == runs.c.id)
    )
)


def _entries(number: ColumnElement[int]) -> Select[Any]:
    """Return what a fleet map needs of one version of every segment."""
    query = select(
        segments.c.key,
        versions.c.number,
        versions.c.format,
        versions.c.runtime,
        packs.c.digest,
        versions.c.offset,
        versions.c.length,
        versions.c.artifact,
        versions.c.state,
        versions.c.why,
        runs.c.code,
    )
    its_version = (versions.c.segment_id == segments.c.id) & (versions.c.number == number)
    tables = _JOINED.join(versions, its_version).join(packs, versions.c.pack_id == packs.c.id)
    return of_model(query.select_from(tables.join(runs, versions.c.run_id == runs.c.id)))


_ENTRIES = _entries(segments.c.current)
_CANDIDATES = _entries(func.coalesce(segments.c.waiting, segments.c.current))
_COUNT = func.count().label("many")
_RUNTIMES = (
    of_model(
        select(versions.c.runtime, versions.c.runtime_why, _COUNT).select_from(
            _JOINED.join(versions, (versions.c.segment_id == segments.c.id) & (versions.c.number == segments.c.current))
        )
    )
    .group_by(versions.c.runtime, versions.c.runtime_why)
    .order_by(_COUNT.desc(), versions.c.runtime, versions.c.runtime_why)
)
_MEASURED = select(segments.c.key, versions.c.number, versions.c.data, versions.c.metrics).select_from(
    segments.join(versions, versions.c.segment_id == segments.c.id)
)
_SCORES = of_model(
    select(
        segments.c.key,
        versions.c.number,
        versions.c.state,
        versions.c.why,
        versions.c.test_rows,
        versions.c.metrics,
    ).select_from(
        _JOINED.join(versions, (versions.c.segment_id == segments.c.id) & (versions.c.number == segments.c.current))
    )
)
