"""Taking a snapshot: check the contract, sort by segment, write the files, then one row in the database."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, false, func, select

from modelmill.data.contract import check
from modelmill.data.mixing import mixed
from modelmill.data.snapshot import (
    FORMAT,
    FileEntry,
    Manifest,
    Segments,
    Snapshot,
    decode_segments,
    encode_segments,
    starts_of,
)
from modelmill.data.subjects import hash_subjects, record_subjects
from modelmill.data.tables import snapshots
from modelmill.errors import NotFound, SnapshotBroken
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import key_text
from modelmill.names import Digest, Segment, digest_of, format_segment
from modelmill.store.opening import Store
from modelmill.store.tables import now

_FILE_ROWS = 500_000
_GROUP_ROWS = 8_192
_NUMBERED = re.compile(r"(?P<dataset>.+)@s(?P<number>[0-9]{1,9})")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class Taken(NamedTuple):
    """A snapshot with its rows still in memory."""

    snapshot: Snapshot
    segments: Segments
    frame: pl.DataFrame
    new: bool
    """False when the dataset had this very content already."""
    notices: tuple[str, ...] = ()
    """What is no mistake, and a person would want to know."""


Inspect = Callable[[pl.DataFrame, Segments], tuple[str, ...]]
"""Looks at sorted rows before they become a snapshot: raises a `DataError`, or returns notices."""


def nothing_more(_rows: pl.DataFrame, _segments: Segments) -> tuple[str, ...]:
    """Look at nothing beyond the contract."""
    return ()


def take_snapshot(  # noqa: PLR0913 - rows, the promises that they keep, and who else looks at them
    store: Store,
    dataset: str,
    spec: SchemaSpec,
    by: tuple[str, ...],
    frame: pl.DataFrame,
    source: str,
    *,
    inspect: Inspect = nothing_more,
) -> Taken:
    """Make a snapshot of `frame`; a bad drop raises a `DataError` and changes nothing.

    The same rows give the same snapshot, in whatever order they came. `inspect` looks at the rows that keep the contract.
    """
    ordered = sort_rows(check(spec, frame, source), spec, by)
    segments = index_segments(ordered, spec, by)
    notices = inspect(ordered, segments)
    (index,) = store.blobs.put([encode_segments(segments)])
    newest = _newest(store, dataset)
    if newest is not None and (newest.manifest.spec, newest.manifest.by, newest.manifest.index) == (spec, by, index):
        return Taken(newest, segments, ordered, new=False, notices=notices)
    files, subjects = write_files(store, spec, ordered, by)
    manifest = Manifest(FORMAT, dataset, spec, by, len(ordered), files, index)
    (identity,) = store.blobs.put([manifest.encode()])
    with store.database.write() as c:
        snapshot, new = record_snapshot(c, identity, manifest, len(segments), source)
        record_subjects(c, subjects)
    return Taken(snapshot, segments, ordered, new, notices)


def _newest(store: Store, dataset: str) -> Snapshot | None:
    found = list_snapshots(store, dataset, limit=1)
    return found[0] if found else None


def sort_rows(frame: pl.DataFrame, spec: SchemaSpec, by: tuple[str, ...]) -> pl.DataFrame:
    """Return a checked frame in the order of its segments, then of time; rows without a time as good as shuffled."""
    # After key and time all other columns decide, so that the order in which rows came leaves no trace.
    first = [*by, *([spec.time.name] if spec.time else [])]
    others = [name for name in frame.columns if name not in first]
    if spec.time is not None:
        return frame.sort([*first, *others], nulls_last=True)
    mark = mixed(frame, others)
    return frame.with_columns(mark).sort([*first, mark.name, *others], nulls_last=True).drop(mark.name)


def index_segments(frame: pl.DataFrame, spec: SchemaSpec, by: tuple[str, ...]) -> Segments:
    """Return where each segment lies in a sorted frame, with the SHA-256 of its key and rows."""
    keys, rows = _runs(frame, by)
    starts = starts_of(rows)
    return Segments(keys, starts, rows, _digests(frame, spec, by, keys, starts, rows))


def _runs(frame: pl.DataFrame, by: tuple[str, ...]) -> tuple[list[Segment], NDArray[np.int64]]:
    if not by:
        return [()], np.array([len(frame)], dtype=np.int64)
    groups = frame.group_by(list(by), maintain_order=True).len()
    texts = [[key_text(value) for value in groups[name].to_list()] for name in by]
    return list(zip(*texts, strict=True)), groups["len"].cast(pl.Int64).to_numpy()


def _digests(
    frame: pl.DataFrame,
    spec: SchemaSpec,
    by: tuple[str, ...],
    keys: list[Segment],
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> list[bytes]:
    # Key and number of rows first, lengths before their text: no two contents are the same bytes.
    heads = zip(keys, rows.tolist(), strict=True)
    hashes = [hashlib.sha256(f"{format_segment(key)} {count}\n".encode()) for key, count in heads]
    bounds = list(zip(starts.tolist(), (starts + rows).tolist(), strict=True))
    for column in spec.columns:
        if column.name in by:
            continue
        for view in _canonical(frame[column.name], bounds):
            for digest, part in zip(hashes, view, strict=True):
                digest.update(part)
    return [digest.digest() for digest in hashes]


def _canonical(series: pl.Series, bounds: list[tuple[int, int]]) -> Iterator[Iterator[memoryview]]:
    """Yield a column's content as one or two sequences of bytes a segment, the same on every machine."""
    if series.dtype == pl.String:
        lengths = series.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy()
        yield _numbers(lengths, bounds)
        ends = np.concatenate([[0], np.cumsum(np.maximum(lengths, 0))])
        text = memoryview("".join(series.fill_null("").to_list()).encode())
        yield (text[start:end] for start, end in ends[np.array(bounds)].tolist())
    elif series.dtype == pl.Float64:
        yield _numbers(series.fill_null(float("nan")).to_numpy(), bounds)
    else:
        yield _numbers(series.cast(pl.Int64).fill_null(np.iinfo(np.int64).min).to_numpy(), bounds)


def _numbers(values: NDArray[Any], bounds: list[tuple[int, int]]) -> Iterator[memoryview]:
    content = memoryview(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return (content[8 * start : 8 * end] for start, end in bounds)


def write_files(
    store: Store, spec: SchemaSpec, frame: pl.DataFrame, by: tuple[str, ...], layer: int = 0
) -> tuple[tuple[FileEntry, ...], dict[Digest, bytes]]:
    """Write a sorted frame as the files of a layer; return them, and of each that names people its part of the index."""
    files, subjects = [], {}
    for start, end in _cuts(_runs(frame, by)[1]):
        buffer, part = io.BytesIO(), frame[start:end]
        # No statistics: a column's minimum would keep an erased value for ever.
        part.write_parquet(buffer, compression="zstd", statistics=False, row_group_size=_GROUP_ROWS)
        content = buffer.getvalue()
        (digest,) = store.blobs.put([content])
        files.append(FileEntry(digest, end - start, len(content), layer))
        if spec.with_role("subject"):
            subjects[digest] = hash_subjects(store, spec, part)
    return tuple(files), subjects


def _cuts(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the row ranges of the files: whole segments, about half a million rows each."""
    begin = end = 0
    for length in rows.tolist():
        end += length
        if end - begin >= _FILE_ROWS:
            yield begin, end
            begin = end
    if begin < end:
        yield begin, end


def record_snapshot(
    c: Connection, identity: Digest, manifest: Manifest, segments: int, source: str
) -> tuple[Snapshot, bool]:
    """Record a snapshot as the newest of its dataset, unless it was recorded before; return it, and whether it is new."""
    same = (snapshots.c.dataset == manifest.dataset) & (snapshots.c.digest == identity)
    row = c.execute(select(snapshots).where(same)).first()
    if row:
        return Snapshot(identity, row.number, row.source, row.created_at.isoformat(), row.segments, manifest), False
    newest = select(func.max(snapshots.c.number)).where(snapshots.c.dataset == manifest.dataset)
    number = (c.execute(newest).scalar() or 0) + 1
    made = now()
    c.execute(
        snapshots.insert().values(
            dataset=manifest.dataset,
            number=number,
            digest=identity,
            rows=manifest.rows,
            segments=segments,
            source=source,
            created_at=made,
        )
    )
    return Snapshot(identity, number, source, made.isoformat(), segments, manifest), True


def load_frame(store: Store, snapshot: Snapshot) -> pl.DataFrame:
    """Return a snapshot's rows in the order of its segments, every file checked against its digest."""
    manifest = snapshot.manifest
    frame = pl.concat([pl.read_parquet(io.BytesIO(store.blobs.get(file.digest))) for file in manifest.files])
    return sort_rows(frame, manifest.spec, manifest.by) if manifest.layered else frame


def load_rows(
    store: Store, snapshot: Snapshot, every: Segments, wanted: Collection[Segment]
) -> tuple[pl.DataFrame, Segments]:
    """Return the rows of some segments, and where each lies in them; only the files that hold them are read."""
    picked = [place for place, key in enumerate(every.keys) if key in wanted]
    rows = every.rows[picked]
    spans = zip(every.starts[picked].tolist(), rows.tolist(), strict=True)
    files = _FilesOf(store, snapshot)
    frame = pl.concat([files.rows(start, length) for start, length in spans])
    segments = Segments([every.keys[p] for p in picked], starts_of(rows), rows, [every.digests[p] for p in picked])
    return frame, segments


class _FilesOf:
    """A snapshot's files, each read when a row of it is asked for."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self._store, self._files = store, snapshot.manifest.files
        self._merged = load_frame(store, snapshot) if snapshot.manifest.layered else None
        self._ends = np.cumsum([file.rows for file in self._files])
        self._read: dict[int, pl.DataFrame] = {}

    def rows(self, start: int, length: int) -> pl.DataFrame:
        """Return so many rows of one segment: it lies in one file, unless rows were appended."""
        if self._merged is not None:
            return self._merged.slice(start, length)
        place = int(np.searchsorted(self._ends, start, side="right"))
        if place not in self._read:
            self._read = {place: pl.read_parquet(io.BytesIO(self._store.blobs.get(self._files[place].digest)))}
        return self._read[place].slice(start - int(self._ends[place]) + self._files[place].rows, length)


def load_segments(store: Store, snapshot: Snapshot) -> Segments:
    """Return where each segment of a snapshot lies."""
    return decode_segments(store.blobs.get(snapshot.manifest.index))


def load_taken(store: Store, snapshot: Snapshot) -> Taken:
    """Return a recorded snapshot with its rows in memory."""
    return Taken(snapshot, load_segments(store, snapshot), load_frame(store, snapshot), new=False)


def list_snapshots(store: Store, dataset: str | None = None, limit: int = 50) -> list[Snapshot]:
    """Return the newest snapshots first."""
    query = select(snapshots).order_by(snapshots.c.id.desc()).limit(limit)
    if dataset:
        query = query.where(snapshots.c.dataset == dataset)
    with store.database.read() as c:
        return [_read(store, row) for row in c.execute(query)]


def get_snapshot(store: Store, name: str) -> Snapshot:
    """Return a snapshot by ``flights@s3``, ``flights`` (its newest) or the first digits of its id, four or more."""
    query = select(snapshots).order_by(snapshots.c.id.desc()).limit(1)
    with store.database.read() as c:
        row = c.execute(query.where(_named(name))).first() or c.execute(query.where(_identified(name))).first()
    if row is None:
        raise NotFound(f"there is no snapshot `{name}`", next="modelmill data list")
    return _read(store, row)


def _named(name: str) -> ColumnElement[bool]:
    found = _NUMBERED.fullmatch(name)
    if found is None:
        return snapshots.c.dataset == name
    return (snapshots.c.dataset == found["dataset"]) & (snapshots.c.number == int(found["number"]))


def _identified(name: str) -> ColumnElement[bool]:
    if not _PREFIX.fullmatch(name):
        return false()
    return snapshots.c.digest.between(Digest(name.ljust(64, "0")), Digest(name.ljust(64, "f")))


def _read(store: Store, row: Row[Any]) -> Snapshot:
    content = store.blobs.get(row.digest)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise SnapshotBroken(f"the manifest of snapshot `{row.dataset}@s{row.number}` cannot be read") from error
    return Snapshot(digest_of(content), row.number, row.source, row.created_at.isoformat(), row.segments, manifest)
