"""What each version is in the eyes of the one before it: read from their digests whenever it is asked, stored nowhere."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, or_, select

from modelmill.names import POOLED_WORD
from modelmill.registry.change import Change, change_between, change_of
from modelmill.registry.paging import write_cursor
from modelmill.registry.records import Run
from modelmill.registry.tables import runs, segments, versions
from modelmill.registry.versions import Version, list_versions
from modelmill.store.database import Database


class Descent(NamedTuple):
    """How a version differs from the one before it of the same segment."""

    change: Change
    earlier: int | None
    """The number of the version before; None for the first."""
    differs: tuple[str, ...] = ()
    """Which of code, data and model."""


def descent_of(database: Database, version: Version) -> Descent:
    """Return what lies between a version and the one before it."""
    below = write_cursor(version.id.number)
    before = list_versions(database, version.id.model, version.id.segment, after=below, limit=1).items
    if not before:
        return Descent(Change.FIRST, None)
    return descent(before[0], version)


def descent(earlier: Version, later: Version) -> Descent:
    """Return what lies between two versions of a segment."""
    pairs = zip(earlier.digests._fields, earlier.digests, later.digests, strict=True)
    differs = tuple(name for name, one, other in pairs if one != other)
    return Descent(change_between(earlier.digests, later.digests), earlier.id.number, differs)


def changes_of_run(database: Database, run: Run) -> dict[Change, int]:
    """Return how many versions of a run are which change, the most frequent first.

    The pooled model is counted only where it is the only one: with any change of the data it is retrained too, and parents
    with many; only in their names does an equals sign stand as it is.
    """
    with database.read() as c:
        rows = c.execute(_CHANGES, {"run": run.id}).all()
    own = [row for row in rows if not row.shared] or rows
    found: Counter[Change] = Counter()
    for row in own:
        change = Change.FIRST if row.data is None else change_of(data=bool(row.data), recipe=bool(row.recipe))
        found[change] += row.how_many
    return dict(found.most_common())


_later, _earlier = versions.alias("later"), versions.alias("earlier")
_now, _then = runs.alias("now"), runs.alias("then")
_number_before = (
    select(func.max(versions.c.number))
    .where(versions.c.segment_id == _later.c.segment_id, versions.c.number < _later.c.number)
    .correlate(_later)
    .scalar_subquery()
)
_FACTS = [
    or_(segments.c.key == POOLED_WORD, segments.c.key.contains("=")).label("shared"),
    (_later.c.data != _earlier.c.data).label("data"),
    ((_now.c.code != _then.c.code) | (_now.c.model != _then.c.model)).label("recipe"),
]
_CHANGES = (
    select(*_FACTS, func.count().label("how_many"))
    .select_from(
        _later.join(segments, _later.c.segment_id == segments.c.id)
        .join(_now, _later.c.run_id == _now.c.id)
        .outerjoin(_earlier, and_(_earlier.c.segment_id == _later.c.segment_id, _earlier.c.number == _number_before))
        .outerjoin(_then, _earlier.c.run_id == _then.c.id)
    )
    .where(_later.c.run_id == bindparam("run"))
    .group_by(*_FACTS)
)
