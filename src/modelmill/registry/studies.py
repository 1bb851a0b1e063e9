"""Studies: the arms that were tried on one snapshot under one name. An arm is no run: it has no number and no version.

An arm is evidence of the kind ``experiment``: a finding when it begins and another when it ends, both append-only. Beginning
is one short transaction, so that arms may begin at once from many processes; nobody waits for an arm's work. An arm that
has begun and whose process is gone was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from modelmill.errors import NotFound, StudyMixed
from modelmill.names import Digest, ModelName
from modelmill.registry.tables import evidence, models
from modelmill.store.database import Database
from modelmill.store.tables import now

KIND = "experiment"
_UNKNOWN = -1


class ArmStart(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an arm when it begins."""

    study: str
    snapshot: Digest
    champion: int
    """The run whose versions it is compared with."""
    code: Digest
    model: Digest
    lock: Digest
    commit: str
    seed: int
    parameters: Mapping[str, Any]
    changed: Mapping[str, str]
    """What differs from the champion: name -> ``1.0 -> 10``."""
    token: str
    """The name of the lock that the arm's process holds while it works."""


class ArmEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm found."""

    state: str
    """``done``, or ``aborted`` where its files or its process did not last."""
    seconds: float = 0.0
    tried: int = 0
    failed: int = 0
    metrics: Mapping[str, float] = {}
    """Medians over the segments."""
    paired: Mapping[str, Any] = {}
    """`build.pairing.Paired` as data: the arm less the champion."""
    answers: Digest | None = None
    """A blob: each segment's metrics and the answers to its test rows, see `orchestrator.experiment`."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of a study; `end` is None while it works, and for ever when it was interrupted."""

    number: int
    start: ArmStart
    end: ArmEnd | None
    began_at: datetime


def begin_arm(database: Database, model: ModelName, start: ArmStart) -> int:
    """Record that an arm begins, and return its number in the study; raises `StudyMixed` on another snapshot."""
    with database.write() as c:
        model_id = _locked_model(c, model)
        known = [
            facts["start"] for _, facts, _ in _findings(c, model) if facts["study"] == start.study and _begins(facts)
        ]
        if known and known[0]["snapshot"] != start.snapshot:
            raise StudyMixed(
                f"study `{start.study}` is on other rows",
                expected=f"snapshot {known[0]['snapshot'][:12]}, like its {len(known)} arms",
                got=f"snapshot {start.snapshot[:12]}",
                next="modelmill experiment --study NAME      (begins another study)",
                safe="no arm was begun",
            )
        number = len(known) + 1
        _append(c, model_id, {"study": start.study, "arm": number, "start": msgspec.to_builtins(start)})
    return number


def end_arm(database: Database, model: ModelName, study: str, number: int, end: ArmEnd) -> None:
    """Record what an arm found."""
    with database.write() as c:
        _append(c, _model_id(c, model), {"study": study, "arm": number, "end": msgspec.to_builtins(end)})


def list_arms(database: Database, model: ModelName, study: str | None = None) -> dict[str, list[Arm]]:
    """Return the arms of one study, or of all, by study in the order in which these began."""
    with database.read() as c:
        findings = _findings(c, model)
    ends = {(f["study"], f["arm"]): msgspec.convert(f["end"], ArmEnd) for _, f, _ in findings if not _begins(f)}
    found: dict[str, list[Arm]] = {}
    for _, facts, moment in findings:
        if _begins(facts) and study in (None, facts["study"]):
            start = msgspec.convert(facts["start"], ArmStart)
            end = ends.get((facts["study"], facts["arm"]))
            found.setdefault(start.study, []).append(Arm(number=facts["arm"], start=start, end=end, began_at=moment))
    return found


def kept_answers(c: Connection) -> list[Digest]:
    """Return the blobs that arms refer to."""
    every = c.execute(select(evidence.c.facts).where(evidence.c.kind == KIND)).scalars()
    return [Digest(facts["end"]["answers"]) for facts in every if not _begins(facts) and facts["end"]["answers"]]


def _begins(facts: Mapping[str, Any]) -> bool:
    return "start" in facts


def _locked_model(c: Connection, model: ModelName) -> int:
    """Return a model's id, holding its row: of two arms that begin at once, the second one sees the first."""
    c.execute(update(models).where(models.c.name == model).values(runs=models.c.runs))
    return _model_id(c, model)


def _model_id(c: Connection, model: ModelName) -> int:
    found: int | None = c.execute(select(models.c.id).where(models.c.name == model)).scalar()
    if found is None:
        raise NotFound(f"there is no model `{model}`")
    return found


def _append(c: Connection, model_id: int, facts: dict[str, Any]) -> None:
    row = {"model_id": model_id, "number": None, "kind": KIND, "verdict": _UNKNOWN, "facts": facts}
    c.execute(evidence.insert().values(**row, recorded_at=now()))


def _findings(c: Connection, model: ModelName) -> list[tuple[int, dict[str, Any], datetime]]:
    query = (
        select(evidence.c.id, evidence.c.facts, evidence.c.recorded_at)
        .join_from(evidence, models)
        .where(models.c.name == model, evidence.c.number.is_(None), evidence.c.kind == KIND)
        .order_by(evidence.c.id)
    )
    return [(row.id, row.facts, row.recorded_at) for row in c.execute(query)]
