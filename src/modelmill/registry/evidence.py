"""What was found out about a model or about one run of it: append-only facts with a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, select

from modelmill.names import ModelName
from modelmill.registry.tables import evidence, models
from modelmill.store.database import Database
from modelmill.store.dialects import upsert
from modelmill.store.tables import now

REPRODUCED = "reproduced"
"""A version was built again from its record."""
DETERMINISTIC = "deterministic"
"""A segment was fitted twice in its build."""
PARITY = "parity"
"""Answers that were served were compared with those of the training path."""
QUALITY = "quality"
"""Answers were compared, once labels came, with what the release beside or before would have answered."""
AB = "a/b"
"""Two releases served side by side, and an outcome was measured of their answers."""
AUDIT = "audit"
"""The level of a model was found."""
RETRAINING = "retraining"
"""A gate has judged new versions beside their champions."""
FEASIBILITY = "feasibility"
"""It was found out, before anything was built, whether a model does what it is needed for."""
REHEARSAL = "rehearsal"
"""A fresh process has opened a release and answered golden rows."""
APPROVAL = "approval"
"""A person has said that a version may be released to an environment, or that it may not."""
LOADTEST = "loadtest"
"""A version was put under load, and bears what it has to, or does not."""
DRILL = "drill"
"""Bad rows were planted, one for each promise about the data."""
_WORDS = {1: True, 0: False, -1: None}
_CODES = {True: 1, False: 0, None: -1}


class Evidence(msgspec.Struct, frozen=True):
    """One finding."""

    model: ModelName
    number: int | None
    """The run that it is about; None when it is about the model."""
    kind: str
    verdict: bool | None
    """None where it is not known: never taken for a yes."""
    facts: Mapping[str, Any]
    recorded_at: datetime


def record_evidence(
    database: Database,
    model: ModelName,
    kind: str,
    *,
    number: int | None = None,
    verdict: bool | None = None,
    facts: Mapping[str, Any],
) -> None:
    """Append a finding; it may be about a model of which nothing was built yet."""
    with database.write() as c:
        c.execute(upsert(c, models).values(name=model, runs=0, score="").on_conflict_do_nothing())
        model_id = c.execute(select(models.c.id).where(models.c.name == model)).scalar()
        row = {"model_id": model_id, "number": number, "kind": kind, "verdict": _CODES[verdict], "facts": dict(facts)}
        c.execute(evidence.insert().values(**row, recorded_at=now()))


def all_evidence(database: Database, model: ModelName) -> list[Evidence]:
    """Return every finding about a model and its runs, the oldest first."""
    return _read(database, _FINDINGS.where(models.c.name == model))


def list_evidence(database: Database, model: ModelName, number: int | None = None) -> list[Evidence]:
    """Return the findings about a run of a model, or about the model as such, the oldest first."""
    return _read(database, _FINDINGS.where(models.c.name == model, evidence.c.number.is_not_distinct_from(number)))


def _read(database: Database, query: Select[Any]) -> list[Evidence]:
    with database.read() as c:
        return [
            Evidence(ModelName(row.name), row.number, row.kind, _WORDS[row.verdict], row.facts, row.recorded_at)
            for row in c.execute(query)
        ]


_FINDINGS = select(models.c.name, evidence).join_from(evidence, models).order_by(evidence.c.id)
