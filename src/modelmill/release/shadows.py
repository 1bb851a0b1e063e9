"""Releases that answer copies of the requests, as rows: what somebody asked for by hand, and what came of it.

The first step of a canary is a shadow as well; it has its rollout's row, and none here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, insert, select, update

from modelmill.errors import Conflict, NotFound, ShadowsFull
from modelmill.names import ModelName
from modelmill.release.tables import shadows
from modelmill.store.database import Database
from modelmill.store.tables import now

MOST = 8
"""Shadows of one model at once: each costs the node a part of what an answer costs."""


class ShadowRow(msgspec.Struct, frozen=True):
    """A release that answers copies, from when until when, and what they came to."""

    id: int
    environment: str
    model: ModelName
    release: int
    share: float
    began_at: datetime
    ended_at: datetime | None
    by: str
    reason: str
    seen: Mapping[str, Any] | None
    """What its answers came to, once it has ended."""

    @property
    def salt(self) -> str:
        """Return what the choice of requests is a function of."""
        return f"{self.model} r{self.release} shadow {self.id}"


def open_shadows(c: Connection, environment: str, model: ModelName) -> list[ShadowRow]:
    """Return the shadows of a model that have not ended, the oldest first."""
    its_rows = and_(shadows.c.environment == environment, shadows.c.model == model, shadows.c.ended_at.is_(None))
    return [ShadowRow(*row) for row in c.execute(_select().where(its_rows).order_by(shadows.c.id))]


def list_shadows(database: Database, environment: str, limit: int = 50) -> list[ShadowRow]:
    """Return the shadows of an environment, those that have ended too, the newest first."""
    query = _select().where(shadows.c.environment == environment).order_by(shadows.c.id.desc()).limit(limit)
    with database.read() as c:
        return [ShadowRow(*row) for row in c.execute(query)]


def begin_shadow(  # noqa: PLR0913 - a shadow is all of these
    c: Connection, environment: str, model: ModelName, *, release: int, share: float, by: str, reason: str
) -> ShadowRow:
    """Write down that a release answers copies from now on; raises `Conflict` where it does, `ShadowsFull` where many do."""
    running = open_shadows(c, environment, model)
    if any(one.release == release for one in running):
        raise Conflict(
            f"r{release} of `{model}` answers copies in {environment} already", next="modelmill status", safe=_SAFE
        )
    if len(running) >= MOST:
        raise ShadowsFull(
            f"{MOST} shadows of `{model}` run in {environment} already",
            next=f"modelmill shadow VERSION --in {environment} --stop",
            safe=_SAFE,
        )
    values = {"environment": environment, "model": model, "release": release, "share": share}
    values |= {"began_at": now(), "by": by, "reason": reason}
    return ShadowRow(*c.execute(insert(shadows).values(values).returning(*_columns())).one())


def end_shadow(c: Connection, environment: str, model: ModelName, release: int) -> ShadowRow:
    """Write down that a release answers copies no longer; raises `NotFound` where it did not."""
    found = next((one for one in open_shadows(c, environment, model) if one.release == release), None)
    if found is None:
        raise NotFound(f"r{release} of `{model}` answers no copies in {environment}", next="modelmill status")
    moment = now()
    c.execute(update(shadows).where(shadows.c.id == found.id).values(ended_at=moment))
    return msgspec.structs.replace(found, ended_at=moment)


def keep_seen(database: Database, row: ShadowRow, seen: Mapping[str, Any]) -> None:
    """Write down what the copies of a shadow that has ended came to: its node has told the last of it."""
    with database.write() as c:
        c.execute(update(shadows).where(shadows.c.id == row.id).values(seen=dict(seen)))


_SAFE = "nothing was changed"


def _columns() -> list[Any]:
    return [shadows.c[name] for name in ShadowRow.__struct_fields__]


def _select() -> Any:
    return select(*_columns())
