"""What a gate decides of versions that wait: they answer from now on, or stay what they are and answer nobody.

A refused version is kept, and is not built again from the same; its segment is answered by the champion, as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, func, select, update

from modelmill.errors import GateRefused
from modelmill.names import ModelName, Segment, digest_of, format_segment
from modelmill.registry.records import GATE, Run
from modelmill.registry.tables import failures, runs, segments, versions
from modelmill.registry.versions import of_model
from modelmill.store.database import Database
from modelmill.store.dialects import upsert

_NOT_PASSED = "gate not passed: "


class Refusal(msgspec.Struct, frozen=True):
    """What a gate says of one version."""

    segment: Segment
    condition: str
    """``no_worse(mae) than champion``"""
    why: str
    """``mae 3.21, the champion's 2.98, on 63 rows: clearly worse``"""


def settle_versions(database: Database, run: Run, refusals: Sequence[Refusal] = ()) -> None:
    """Refuse some of a model's waiting versions, with the reasons, and have all others answer: one transaction.

    Done once more it changes nothing: no version waits any longer.
    """
    with database.write() as c:
        if refusals:
            refused = {format_segment(one.segment): one for one in refusals}
            # One order for everybody, as in `runs`: two writers that met each other's rows crosswise would wait for ever.
            c.execute(_REFUSE, [{"its_model": run.model_id, "its_key": key} for key in sorted(refused)])
            ids = {row.key: row.id for row in c.execute(_IDS, {"its_model": run.model_id})}
            rows = [_failure(run, one) | {"segment_id": ids[key]} for key, one in refused.items()]
            c.execute(upsert(c, failures).on_conflict_do_nothing(), rows)
        c.execute(_ACCEPT, {"its_model": run.model_id})


def refusals_of(database: Database, model: ModelName, segment: Segment) -> dict[int, tuple[str, str]]:
    """Return the versions of a segment that a gate has refused: number -> the condition that did not hold, and why."""
    with database.read() as c:
        rows = c.execute(_REFUSED, {"model": model, "key": format_segment(segment)}).all()
    return {row.refused: (row.summary.removeprefix(_NOT_PASSED), row.detail) for row in rows}


def _failure(run: Run, one: Refusal) -> dict[str, object]:
    return {
        "run_id": run.id,
        "stage": GATE,
        "code": GateRefused.code,
        "fingerprint": digest_of(f"{GateRefused.code}{one.condition}".encode())[:16],
        "summary": f"{_NOT_PASSED}{one.condition}",
        "detail": one.why,
    }


_REFUSED = of_model(
    select(
        # A version is judged in its own run, or in the next one, where its own was interrupted.
        select(func.max(versions.c.number))
        .where(versions.c.segment_id == segments.c.id, versions.c.number <= runs.c.number)
        .scalar_subquery()
        .label("refused"),
        failures.c.summary,
        failures.c.detail,
    )
    .join_from(failures, segments)
    .join(runs, failures.c.run_id == runs.c.id)
).where(failures.c.stage == GATE, segments.c.key == bindparam("key"))
_IDS = select(segments.c.key, segments.c.id).where(segments.c.model_id == bindparam("its_model"))
_WAITING = (segments.c.model_id == bindparam("its_model")) & segments.c.waiting.is_not(None)
_REFUSE = (
    update(segments)
    .where(_WAITING, segments.c.key == bindparam("its_key"))
    .values(refused=segments.c.waiting, waiting=None)
)
_ACCEPT = (
    update(segments)
    .where(_WAITING)
    .values(
        current=segments.c.waiting,
        waiting=None,
        score=select(versions.c.score)
        .where(versions.c.segment_id == segments.c.id, versions.c.number == segments.c.waiting)
        .scalar_subquery(),
    )
)
