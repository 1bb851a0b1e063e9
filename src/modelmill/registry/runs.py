"""A run, and the chunks of versions and failures that it records, each as one transaction.

A chunk is recorded after its pack is durable. Its rows and the fact that the chunk is done are one commit, so a crash
leaves a chunk recorded or not begun, and never a version whose bytes are missing. A run, a chunk and a version each have
a unique key that the caller knows beforehand: doing it again changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, Table, case, func, select, update
from sqlalchemy.exc import IntegrityError

from modelmill.errors import Conflict, NotFound
from modelmill.names import Digest, ModelName, Segment, format_segment, parse_segment
from modelmill.registry.records import JUDGED, ChunkRecord, FailureRecord, Run, RunStart, RunState, VersionRecord
from modelmill.registry.tables import failures, models, packs, runs, segments, tags, versions
from modelmill.store.database import Database
from modelmill.store.dialects import upsert
from modelmill.store.tables import now


def start_run(database: Database, start: RunStart) -> Run:
    """Begin a run, or return the one that was begun with the same idempotency key."""
    with database.write() as c:
        known = c.execute(_runs().where(runs.c.idempotency_key == start.idempotency_key)).first()
        return _run(known) if known else _begin(c, start)


def record_chunk(database: Database, run: Run, record: ChunkRecord) -> bool:
    """Record a chunk as one transaction; return False, and change nothing, when it was recorded before."""
    if len(record.segments()) < len(record.versions) + len(record.failures):
        raise _recorded_twice(run, record)
    try:
        with database.write() as c:
            # The claim comes first: whoever records the same chunk a second time finds it, and leaves.
            pack_id = _claim(c, run, record)
            if pack_id is None:
                return False
            ids = _touch_segments(c, run, record)
            same = {"number": run.number, "run_id": run.id, "pack_id": pack_id}
            _insert(c, versions, [_row(version, ids) | same for version in record.versions])
            _insert(c, failures, [_row(failure, ids) | {"run_id": run.id} for failure in record.failures])
            _insert(c, tags, list(_tag_rows(run, ids, record)))
    except IntegrityError as error:
        raise _recorded_twice(run, record) from error
    return True


def finish_run(
    database: Database,
    run: Run,
    state: RunState,
    counts: Mapping[str, int],
    signed_map: tuple[Digest, bytes] | None = None,
) -> Run:
    """Close a run with its counts and, when anything answers, the digest and the signature of its fleet map."""
    digest, signature = signed_map or (None, None)
    values = {"state": state, "counts": dict(counts), "finished_at": now(), "map": digest, "signature": signature}
    with database.write() as c:
        c.execute(update(runs).where(runs.c.id == run.id).values(values))
        return _run(c.execute(_runs().where(runs.c.id == run.id)).one())


def unfinished_run(database: Database, model: ModelName, plan: Digest) -> Run | None:
    """Return the newest run of a model that was begun for this plan and never closed."""
    query = _runs().where(models.c.name == model, runs.c.plan == plan, runs.c.state == RunState.RUNNING)
    with database.read() as c:
        row = c.execute(query.order_by(runs.c.number.desc()).limit(1)).first()
    return _run(row) if row else None


def abandon_runs(database: Database, model: ModelName, but: Run | None = None) -> int:
    """Close the unfinished runs of a model that nobody will go on with; return how many."""
    its_model = select(models.c.id).where(models.c.name == model).scalar_subquery()
    query = update(runs).where(runs.c.model_id == its_model, runs.c.state == RunState.RUNNING)
    if but is not None:
        query = query.where(runs.c.id != but.id)
    with database.write() as c:
        return c.execute(query.values(state=RunState.ABANDONED, finished_at=now())).rowcount


def recorded_chunks(database: Database, run: Run) -> dict[int, Digest | None]:
    """Return the chunks that a run has recorded, each with its pack."""
    with database.read() as c:
        rows = c.execute(select(packs.c.chunk, packs.c.digest).where(packs.c.run_id == run.id))
        return {row.chunk: row.digest for row in rows}


def recorded_segments(database: Database, run: Run) -> tuple[set[Segment], set[Segment]]:
    """Return the segments for which a run has recorded a version, and those for which it has recorded a failure."""
    with database.read() as c:
        return _segments_in(c, versions, run), _segments_in(c, failures, run)


def get_run(database: Database, model: ModelName, number: int | None = None) -> Run:
    """Return a run by its number, the newest one when none is named."""
    query = _runs().where(models.c.name == model)
    query = query.where(runs.c.number == number) if number else query.order_by(runs.c.number.desc()).limit(1)
    with database.read() as c:
        row = c.execute(query).first()
    if row is None:
        raise NotFound(f"model `{model}` has no run {number}" if number else f"model `{model}` has no runs")
    return _run(row)


def newest_map(database: Database, model: ModelName) -> Run:
    """Return the newest run of a model that made a fleet map."""
    query = _runs().where(models.c.name == model, runs.c.map.is_not(None)).order_by(runs.c.number.desc()).limit(1)
    with database.read() as c:
        row = c.execute(query).first()
    if row is None:
        raise NotFound(f"no version of `{model}` was built", next="modelmill train")
    return _run(row)


def list_maps(c: Connection, model: ModelName) -> dict[int, tuple[Digest, bytes]]:
    """Return digest and signature of every fleet map of a model, by the number of the run that made it."""
    query = select(runs.c.number, runs.c.map, runs.c.signature).join_from(runs, models)
    rows = c.execute(query.where(models.c.name == model, runs.c.map.is_not(None)).order_by(runs.c.number))
    return {row.number: (row.map, row.signature) for row in rows}


def list_locks(database: Database, model: ModelName) -> dict[int, Digest]:
    """Return the lock of every run of a model, by its number."""
    query = select(runs.c.number, runs.c.lock).join_from(runs, models).where(models.c.name == model)
    with database.read() as c:
        return {row.number: row.lock for row in c.execute(query)}


def get_signature(database: Database, model: ModelName, map_digest: Digest) -> bytes:
    """Return the signature under which a run of a model has recorded this fleet map."""
    query = select(runs.c.signature).join_from(runs, models).where(models.c.name == model, runs.c.map == map_digest)
    with database.read() as c:
        signature: bytes | None = c.execute(query.limit(1)).scalar()
    if signature is None:
        raise NotFound(
            f"no run of `{model}` has made the fleet map `{map_digest[:12]}`", next=f"modelmill show {model}"
        )
    return signature


def list_runs(
    database: Database, model: ModelName | None = None, *, before: int | None = None, limit: int = 50
) -> list[Run]:
    """Return runs, the newest first; `before` is the `id` of the last run of the page before."""
    query = _runs().order_by(runs.c.id.desc()).limit(limit)
    if model is not None:
        query = query.where(models.c.name == model)
    if before is not None:
        query = query.where(runs.c.id < before)
    with database.read() as c:
        return [_run(row) for row in c.execute(query)]


def list_failures(database: Database, run: Run) -> Iterator[FailureRecord]:
    """Yield the failures of a run in the order of their segments' names."""
    query = select(segments.c.key, failures).join_from(failures, segments).where(failures.c.run_id == run.id)
    with database.read() as c:
        rows = c.execute(query.order_by(segments.c.key)).all()
    for row in rows:
        values = {name: getattr(row, name) for name in FailureRecord.__struct_fields__ if name != "segment"}
        yield FailureRecord(segment=parse_segment(row.key), **values)


def _begin(c: Connection, start: RunStart) -> Run:
    named = upsert(c, models).values(name=start.model, runs=1, score=start.score)
    named = named.on_conflict_do_update(
        index_elements=[models.c.name], set_={"runs": models.c.runs + 1, "score": named.excluded.score}
    )
    # Counted and read in one statement: two runs that begin at once cannot get the same number.
    model_id, number = c.execute(named.returning(models.c.id, models.c.runs)).one()
    row = msgspec.structs.asdict(start)
    row["model"] = row.pop("model_digest")
    del row["score"]
    row |= {"model_id": model_id, "number": number, "state": RunState.RUNNING, "started_at": now(), "counts": {}}
    run_id = c.execute(runs.insert().values(row).returning(runs.c.id)).scalar_one()
    return _run(c.execute(_runs().where(runs.c.id == run_id)).one())


def _claim(c: Connection, run: Run, record: ChunkRecord) -> int | None:
    """Write down that a chunk is done; None when it was before."""
    pack = {"run_id": run.id, "chunk": record.chunk, "digest": record.pack, "bytes": record.pack_bytes}
    claim = (
        upsert(c, packs).values(**pack, recorded_at=now()).on_conflict_do_nothing(index_elements=["run_id", "chunk"])
    )
    pack_id: int | None = c.execute(claim.returning(packs.c.id)).scalar()
    return pack_id


def _touch_segments(c: Connection, run: Run, record: ChunkRecord) -> dict[Segment, int]:
    """Point the chunk's segments to their new versions, or note their failure; return their ids.

    A version that a gate is to judge waits: until then its segment is answered as before, whatever is killed meanwhile.
    """
    place = "waiting" if run.kind in JUDGED else "current"
    built = {version.segment: _finite(version.score) for version in record.versions}
    keys = {format_segment(segment): segment for segment in record.segments()}
    if not keys:
        return {}
    rows = [
        {
            "model_id": run.model_id,
            "key": key,
            "current": None,
            "waiting": None,
            **({place: run.number} if segment in built else {}),
            "score": built.get(segment),
            "failed": None if segment in built else run.number,
        }
        # One order for everybody: two writers that met each other's rows crosswise would wait for ever.
        for key, segment in sorted(keys.items())
    ]
    return {keys[row.key]: row.id for row in c.execute(_touching(c), rows)}


def _touching(c: Connection) -> Any:
    statement = upsert(c, segments)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["model_id", "key"],
        set_={
            "current": func.coalesce(new.current, segments.c.current),
            "score": case((new.current.is_(None), segments.c.score), else_=new.score),
            "failed": new.failed,
            "waiting": case((new.failed.is_(None), new.waiting), else_=segments.c.waiting),
            "refused": case((new.failed.is_(None), None), else_=segments.c.refused),
        },
    ).returning(segments.c.key, segments.c.id)


def _insert(c: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        c.execute(table.insert(), rows)


def _row(item: VersionRecord | FailureRecord, ids: Mapping[Segment, int]) -> dict[str, Any]:
    row = msgspec.structs.asdict(item)
    row["segment_id"] = ids[row.pop("segment")]
    if "score" in row:
        row["score"] = _finite(row["score"])
    return row


def _tag_rows(run: Run, ids: Mapping[Segment, int], record: ChunkRecord) -> Iterator[dict[str, Any]]:
    for key, value in run.tags.items():
        for version in record.versions:
            yield {"key": key, "value": value, "segment_id": ids[version.segment], "number": run.number}


def _segments_in(c: Connection, table: Table, run: Run) -> set[Segment]:
    rows = c.execute(select(segments.c.key).join_from(table, segments).where(table.c.run_id == run.id))
    return {parse_segment(row.key) for row in rows}


def _runs() -> Select[Any]:
    return select(models.c.name, runs).join_from(runs, models)


def _run(row: Row[Any]) -> Run:
    known = row._mapping  # noqa: SLF001 - this is SQLAlchemy's public name for it
    values = {
        name: known[runs.c[name]] for name in Run.__struct_fields__ if name not in ("model", "model_digest", "state")
    }
    return Run(model=row.name, model_digest=known[runs.c.model], state=RunState(row.state), **values)


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _recorded_twice(run: Run, record: ChunkRecord) -> Conflict:
    return Conflict(
        f"chunk {record.chunk} of `{run.model}` {run.number} holds a segment that was recorded before",
        safe="nothing of the chunk was recorded",
    )
