"""What recording costs in calls that do not depend on the machine: statements, commits, flushes to the disk, files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from modelmill.registry.runs import record_chunk, start_run
from modelmill.store.opening import Store
from modelmill.testing.samples import sample_chunk, sample_start

SEGMENTS = 70
"""A chunk costs seven flushes: two for the pack and its name, five for a commit with SQLite's rollback journal."""

RECORD = """
import pathlib, sys
from modelmill.registry.runs import record_chunk, start_run
from modelmill.settings import Settings
from modelmill.store.opening import open_store
from modelmill.testing.samples import sample_chunk, sample_start
with open_store(Settings(root=pathlib.Path(sys.argv[1]))) as store:
    run = start_run(store.database, sample_start(store.blobs))
    for chunk in range(int(sys.argv[2])):
        segments = [(f"{chunk}-{number}",) for number in range(int(sys.argv[3]))]
        record_chunk(store.database, run, sample_chunk(store.blobs, segments, chunk=chunk))
"""


def calls(folder: Path, chunks: int, pattern: str) -> int:
    """Return how often the operating system was asked for something while so many chunks were packed and recorded."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("optional component missing: strace")
    folder.mkdir()
    command: list[str | Path] = [
        strace,
        "-f",
        "-qq",
        "-e",
        "trace=fsync,fdatasync,execve",
        "-o",
        folder / "calls",
        sys.executable,
    ]
    subprocess.run([*command, "-c", RECORD, folder, str(chunks), str(SEGMENTS)], check=True)
    return len(re.findall(pattern, (folder / "calls").read_text()))


def test_a_model_costs_at_most_a_tenth_of_a_flush(tmp_path: Path) -> None:
    few, many = (calls(tmp_path / str(chunks), chunks, r"(?:fsync|fdatasync)\(") for chunks in (2, 12))
    assert 0 < (many - few) / (10 * SEGMENTS) <= 0.1


def test_recording_starts_no_process(tmp_path: Path) -> None:
    assert calls(tmp_path / "run", 2, r"execve\(.*= 0") == 1


def test_a_chunk_is_one_file(store: Store) -> None:
    run = start_run(store.database, sample_start(store.blobs))
    before = len(list(store.folder.rglob("*")))
    for chunk in range(5):
        segments = [(f"{chunk}-{number}",) for number in range(SEGMENTS)]
        record_chunk(store.database, run, sample_chunk(store.blobs, segments, chunk=chunk))
    assert len(list(store.folder.rglob("*"))) - before == 5


def test_a_chunk_is_one_commit(store: Store) -> None:
    commits: list[Any] = []
    run = start_run(store.database, sample_start(store.blobs))
    event.listen(store.database.engine, "commit", commits.append)
    record_chunk(store.database, run, sample_chunk(store.blobs, [(f"{n}",) for n in range(SEGMENTS)]))
    assert len(commits) == 1
