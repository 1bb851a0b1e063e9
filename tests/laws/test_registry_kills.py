"""A recorder that is killed at any moment leaves chunks that are recorded whole, or not begun."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from modelmill.registry.fsck import fsck
from modelmill.registry.runs import get_run, recorded_chunks, recorded_segments
from modelmill.settings import Settings
from modelmill.store.opening import open_store
from modelmill.testing.samples import MODEL

KILLS = 6
CHUNK = 20

RECORD = """
import pathlib, sys
from modelmill.registry.runs import record_chunk, recorded_chunks, start_run
from modelmill.settings import Settings
from modelmill.store.opening import open_store
from modelmill.testing.samples import sample_chunk, sample_start
with open_store(Settings(root=pathlib.Path(sys.argv[1]))) as store:
    run = start_run(store.database, sample_start(store.blobs, idempotency_key="the same run"))
    first = 1 + max(recorded_chunks(store.database, run), default=-1)
    print("begun", flush=True)
    for chunk in range(first, first + 100_000):
        segments = [(f"{chunk}-{number}",) for number in range(int(sys.argv[2]))]
        record_chunk(store.database, run, sample_chunk(store.blobs, segments, chunk=chunk, data=b"x" * 2000))
"""


def test_kills_at_random_moments(tmp_path: Path) -> None:
    draw = random.Random(8)
    seen = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", RECORD, str(tmp_path), str(CHUNK)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as recorder:
            assert recorder.stdout
            assert recorder.stdout.readline() == b"begun\n"
            time.sleep(draw.uniform(0.05, 0.4))
            recorder.kill()
        seen = check(tmp_path, at_least=seen)
    assert seen > 0


def check(root: Path, at_least: int) -> int:
    """Compare rows, packs and files; return how many chunks there are."""
    with open_store(Settings(root=root)) as store:
        run = get_run(store.database, MODEL)
        chunks = recorded_chunks(store.database, run)
        built, _ = recorded_segments(store.database, run)
        assert run.number == 1
        assert sorted(chunks) == list(range(len(chunks)))
        assert built == {(f"{chunk}-{number}",) for chunk in chunks for number in range(CHUNK)}
        assert len(chunks) >= at_least
        report = fsck(store, repair=True)
        assert report.sound
        assert len(report.orphans) <= KILLS
        assert fsck(store).leftovers == ()
        return len(chunks)
