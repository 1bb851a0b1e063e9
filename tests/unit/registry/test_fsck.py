"""fsck finds what is lost, and tidies what a crash left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from modelmill.names import Digest, digest_of
from modelmill.registry.fleet import FleetMap, Header, sign
from modelmill.registry.fsck import fsck
from modelmill.registry.records import ChunkRecord, Run, RunState
from modelmill.registry.runs import finish_run, record_chunk, start_run
from modelmill.registry.versions import current_entries
from modelmill.store.opening import Store
from modelmill.testing.samples import MODEL, SPEC, sample_chunk, sample_start

NOW = timedelta(seconds=-60)
"""A grace that lets even the youngest orphan go."""


@pytest.fixture
def run(store: Store) -> Run:
    """Return a finished run with a pack and a map."""
    run = start_run(store.database, sample_start(store.blobs))
    record_chunk(store.database, run, sample_chunk(store.blobs, [("UA",), ("AA",)]))
    header = Header(model=MODEL, spec=SPEC, by=("carrier",), task="regression", code=run.code, entry=("air", MODEL))
    signed = sign(store.key, FleetMap.build(header, current_entries(store.database, MODEL)))
    return finish_run(store.database, run, RunState.DONE, {}, (store.blobs.put([signed.content])[0], signed.signature))


def pack_of(store: Store) -> Digest:
    return next(current_entries(store.database, MODEL)).pack


def test_a_sound_store(store: Store, run: Run) -> None:
    report = fsck(store)
    assert report.sound
    assert (report.orphans, report.leftovers) == ((), ())
    assert report.checked == len(set(store.blobs.digests()))
    assert run.map in set(store.blobs.digests())


@pytest.mark.parametrize(
    ("what", "digest"),
    [
        ("pack", lambda store, _: pack_of(store)),
        ("map", lambda _, run: run.map),
        ("code", lambda _, run: run.code),
        ("snapshot", lambda _, run: run.snapshot),
    ],
)
@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_damage_is_named(store: Store, run: Run, what: str, digest: Callable[[Store, Run], Digest], harm: str) -> None:
    path = store.blobs.path_of(digest(store, run))
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"x" + path.read_bytes()[1:])
    report = fsck(store, repair=True, grace=NOW)
    assert not report.sound
    assert what in {damage.what for damage in report.damaged}
    assert {damage.digest for damage in report.damaged} == {digest(store, run)}


def test_files_of_an_archive_are_followed(store: Store, tmp_path: Path) -> None:
    from modelmill.registry.facts import capture_code

    (tmp_path / "air.py").write_text("x = 1\n")
    start_run(
        store.database, sample_start(store.blobs, code=capture_code(store.blobs, tmp_path, [tmp_path / "air.py"]))
    )
    store.blobs.delete([digest_of(b"x = 1\n")])
    assert [damage.what for damage in fsck(store).damaged] == ["file `air.py` of a code archive"]


def test_a_version_beyond_the_end_of_its_pack(store: Store) -> None:
    run = start_run(store.database, sample_start(store.blobs))
    record = sample_chunk(store.blobs, [("UA",)])
    short = ChunkRecord(chunk=0, pack=record.pack, pack_bytes=record.versions[0].offset, versions=record.versions)
    record_chunk(store.database, run, short)
    assert [damage.problem for damage in fsck(store).damaged] == ["a version lies beyond its end"]


def test_an_orphan_is_no_damage_and_goes_when_it_is_old(store: Store, run: Run) -> None:
    (orphan,) = store.blobs.put([b"nobody refers to me"])
    assert fsck(store).orphans == (orphan,)
    assert fsck(store, repair=True).removed == 0
    assert fsck(store, repair=True, grace=NOW).removed == 1
    assert fsck(store).orphans == ()
    assert fsck(store).sound
    assert run.map in set(store.blobs.digests())


def test_a_live_run_keeps_the_blobs_that_it_has_not_recorded_yet(store: Store) -> None:
    run = start_run(store.database, sample_start(store.blobs))
    record = sample_chunk(store.blobs, [("UA",)])
    assert fsck(store, repair=True, grace=NOW).removed == 0
    assert record_chunk(store.database, run, record)
    assert fsck(store).sound


def test_temporary_files_of_a_crash_are_swept(store: Store) -> None:
    code = "import os, pathlib, sys; from modelmill.store.files import write_temporary\n"
    code += "write_temporary(pathlib.Path(sys.argv[1]), b'half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, store.blobs.scratch], check=False)
    assert len(fsck(store).leftovers) == 1
    assert fsck(store, repair=True).removed == 1
    assert fsck(store).leftovers == ()
