"""Logged predictions as a dataset: journals become Parquet files with checksums, one row a file in the database.

Settling takes the journals that no worker writes to any more. It is done by whoever comes first - a command that looks, or
the node in the background - and by one at a time. A crash in between loses nothing and doubles nothing: the names of the
journals that a file holds are recorded with the file, and a journal that is recorded is only still to be removed.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet as pq
from sqlalchemy import Row, delete, select

from modelmill.data.journal import Group, is_closed, list_journals, read_journal
from modelmill.data.logged import ORDER, Shape, Told, completed, frame_of
from modelmill.data.subjects import forget_files, hash_subjects, record_subjects
from modelmill.data.tables import journals as recorded
from modelmill.data.tables import predictions
from modelmill.names import Digest, ModelName
from modelmill.store.files import told
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store
from modelmill.store.tables import now

_GROUP_ROWS = 8_192
_MOST_BYTES = 256 << 20
"""Of journals that are settled at once; they are held in memory."""
_SMALL_ROWS = 50_000
"""A file with fewer rows is taken up by the next one."""
_WAIT_S = 60.0

Fleet = tuple[ModelName, int]
"""A model, and the run whose map its versions were served from."""
ShapeOf = Callable[[ModelName, int], Shape]


class LoggedFile(NamedTuple):
    """One Parquet file of logged predictions."""

    digest: Digest
    model: ModelName
    run: int
    rows: int
    bytes: int
    first_at: datetime
    last_at: datetime


class Settled(NamedTuple):
    """What settling did."""

    journals: int
    rows: int
    removed: int
    """Files that were older than they are kept."""


def settle(store: Store, shape_of: ShapeOf, keep_days: int) -> Settled:
    """Turn closed journals into files, and remove files whose youngest row is older than `keep_days`."""
    with _alone(store):
        _remove_recorded(store)
        count = rows = 0
        while found := _closed(store):
            count, rows = count + len(found), rows + _settle(store, shape_of, found)
        return Settled(count, rows, _remove_old(store, now() - timedelta(days=keep_days)))


def read_predictions(
    store: Store, shape_of: ShapeOf, model: ModelName, last: int | None = None, since: datetime | None = None
) -> pl.DataFrame:
    """Return logged rows of one model, the newest `last` of them; also those that workers have just written.

    With `since` files with nothing that was asked after a moment are left out; rows before it may be among the others.

    Columns are those of `data.logged`; `inputs` has the columns of all schemas that the rows had.
    """
    with _alone(store):
        frames = [frame_of(shape_of(*fleet), some) for fleet, some in _unsettled(store).items() if fleet[0] == model]
        count = sum(map(len, frames))
        for file in list_files(store, model):
            if (last is not None and count >= last) or (since is not None and file.last_at < since):
                break
            frames.append(_read(store, file.digest))
            count += file.rows
    if not frames:
        return pl.DataFrame()
    together = pl.concat(frames, how="diagonal_relaxed") if _alike(frames) else _united(frames)
    ordered = together.sort("asked_at", "request_id", "row")
    return ordered if last is None else ordered.tail(last)


def list_files(store: Store, model: ModelName | None = None) -> list[LoggedFile]:
    """Return the files, those with the youngest rows first."""
    query = select(predictions).order_by(predictions.c.last_at.desc(), predictions.c.id.desc())
    if model is not None:
        query = query.where(predictions.c.model == model)
    with store.database.read() as c:
        return [_as_file(row) for row in c.execute(query)]


def count_unsettled(store: Store) -> dict[ModelName, int]:
    """Return how many records of each model are in journals still."""
    counts: dict[ModelName, int] = defaultdict(int)
    with _alone(store):
        for (model, _), records in _unsettled(store).items():
            counts[model] += len(records)
    return counts


def journal_folder(store: Store) -> Path:
    """Return where workers write."""
    return store.folder / "predictions"


# ------------------------------------------------------------------ settling


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Wait for the lock on all journals: two that settle would settle them twice."""
    lock = ProjectLock(journal_folder(store) / "lock", "predictions")
    lock.wait(_WAIT_S)
    try:
        yield
    finally:
        lock.release()


def _closed(store: Store) -> list[Path]:
    """Return closed journals, the oldest first, as many as are settled at once."""
    sizes = 0
    found: list[Path] = []
    for path in list_journals(journal_folder(store)):
        if not is_closed(path):
            continue
        sizes += path.stat().st_size
        if found and sizes > _MOST_BYTES:
            break
        found.append(path)
    return found


def _settle(store: Store, shape_of: ShapeOf, paths: Sequence[Path]) -> int:
    """Record what some journals hold, then remove them; return how many rows that were."""
    before = {(file.model, file.run): file for file in reversed(list_files(store))}
    added, replaced, subjects, rows = [], [], {}, 0
    for fleet, records in _by_fleet(paths).items():
        shape = shape_of(*fleet)
        frame = frame_of(shape, records)
        rows += len(frame)
        small = before.get(fleet)
        if small is not None and small.rows < _SMALL_ROWS:
            frame = pl.concat([_read(store, small.digest), frame]).sort(ORDER)
            replaced.append(small.digest)
        content = _parquet(frame)
        (digest,) = store.blobs.put([content])
        added.append(_row_of(fleet, frame, digest, len(content)))
        if shape.spec.with_role("subject"):
            subjects[digest] = hash_subjects(store, shape.spec, frame["inputs"].struct.unnest())
    with store.database.write() as c:
        _forget(c, replaced)
        if added:
            c.execute(predictions.insert(), added)
        record_subjects(c, subjects)
        c.execute(recorded.insert(), [{"name": path.name} for path in paths])
    store.blobs.delete(set(replaced) - {row["file"] for row in added})
    _remove_recorded(store)
    return rows


def _by_fleet(paths: Sequence[Path]) -> dict[Fleet, list[Told]]:
    found: dict[Fleet, list[Told]] = defaultdict(list)
    for path in paths:
        for group in read_journal(path):
            _sort_in(found, group)
    return found


def _sort_in(found: dict[Fleet, list[Told]], group: Group) -> None:
    for record in group.records:
        found[ModelName(record.answerer.model), record.answerer.run].append((group.origin, record))


def _unsettled(store: Store) -> dict[Fleet, list[Told]]:
    with store.database.read() as c:
        known = set(c.execute(select(recorded.c.name)).scalars())
    return _by_fleet([path for path in list_journals(journal_folder(store)) if path.name not in known])


def _parquet(frame: pl.DataFrame) -> bytes:
    """Return rows as Parquet: a checksum a page, no statistics, since a minimum would keep an erased value for ever."""
    buffer = io.BytesIO()
    pq.write_table(
        frame.to_arrow(),
        buffer,
        compression="zstd",
        row_group_size=_GROUP_ROWS,
        write_statistics=False,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _read(store: Store, digest: Digest) -> pl.DataFrame:
    content = io.BytesIO(store.blobs.get(digest))
    found = pl.from_arrow(pq.read_table(content, page_checksum_verification=True))
    assert isinstance(found, pl.DataFrame)  # noqa: S101 - a table is no series
    return completed(found)


def _row_of(fleet: Fleet, frame: pl.DataFrame, digest: Digest, size: int) -> dict[str, Any]:
    times = frame["asked_at"].dt.replace_time_zone("UTC")
    return {
        "model": fleet[0],
        "run": fleet[1],
        "file": digest,
        "rows": len(frame),
        "bytes": size,
        "first_at": times.min(),
        "last_at": times.max(),
    }


def _as_file(row: Row[Any]) -> LoggedFile:
    return LoggedFile(row.file, ModelName(row.model), row.run, row.rows, row.bytes, row.first_at, row.last_at)


def _remove_recorded(store: Store) -> None:
    """Remove the journals whose records a file holds."""
    with store.database.read() as c:
        names = list(c.execute(select(recorded.c.name)).scalars())
    for name in names:
        path = journal_folder(store) / name
        with told(path):
            path.unlink(missing_ok=True)
    if names:
        with store.database.write() as c:
            c.execute(delete(recorded).where(recorded.c.name.in_(names)))


def _remove_old(store: Store, before: datetime) -> int:
    old = [file.digest for file in takewhile(lambda f: f.last_at < before, reversed(list_files(store)))]
    if old:
        with store.database.write() as c:
            _forget(c, old)
        store.blobs.delete(old)
    return len(old)


def _forget(c: Any, files: Sequence[Digest]) -> None:
    if files:
        c.execute(delete(predictions).where(predictions.c.file.in_(files)))
        forget_files(c, files)


# ------------------------------------------------------------------ reading


def _alike(frames: Sequence[pl.DataFrame]) -> bool:
    return all(frame["inputs"].dtype == frames[0]["inputs"].dtype for frame in frames)


def _united(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return rows of several schemas: inputs have all their columns, null where a row had none."""
    inputs = pl.concat([frame["inputs"].struct.unnest() for frame in frames], how="diagonal_relaxed")
    others = pl.concat([frame.drop("inputs") for frame in frames], how="diagonal_relaxed")
    return others.with_columns(inputs.to_struct("inputs"))


def utc(moment: datetime) -> datetime:
    """Return a moment of a row as one with its zone."""
    return moment.replace(tzinfo=UTC)
