"""A disk that fills up while a run records: what was recorded stays, the rest is not begun."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from modelmill.errors import StoreFull
from modelmill.registry.fsck import fsck
from modelmill.registry.records import ChunkRecord, Run
from modelmill.registry.runs import record_chunk, recorded_chunks, recorded_segments, start_run
from modelmill.store.opening import Store
from modelmill.testing.samples import sample_chunk, sample_start


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, which the operating system reports much like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_chunk_that_does_not_fit_is_not_begun(store: Store) -> None:
    run = start_run(store.database, sample_start(store.blobs))
    records = [sample_chunk(store.blobs, [(f"{n}-{i}",) for i in range(200)], chunk=n) for n in range(30)]
    with full_at((store.folder / "mill.db").stat().st_size + 300_000), pytest.raises(StoreFull):
        assert [record_chunk(store.database, run, record) for record in records]
    done = len(recorded_chunks(store.database, run))
    assert 0 < done < len(records)
    check(store, run, records[:done])
    for record in records:
        record_chunk(store.database, run, record)
    check(store, run, records)


def check(store: Store, run: Run, records: list[ChunkRecord]) -> None:
    """Compare what is in the store with these chunks."""
    with store.database.read() as c:
        assert c.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    assert recorded_chunks(store.database, run) == {record.chunk: record.pack for record in records}
    built, _ = recorded_segments(store.database, run)
    assert built == {version.segment for record in records for version in record.versions}
    assert fsck(store).sound
