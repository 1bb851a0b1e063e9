"""A file appears complete, or not at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelmill.errors import StoreFull, StoreUnavailable
from modelmill.store.files import leftovers, started_at, sweep, temporary, told, write_durably, write_temporary


def dead_writers_name(folder: Path) -> Path:
    """Return a temporary name of a process that has ended."""
    code = (
        "import sys, pathlib; from modelmill.store.files import temporary; print(temporary(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def test_a_file_is_replaced_as_one_step(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_durably(tmp_path / "name", content, tmp_path / "scratch")
    assert (tmp_path / "name").read_bytes() == b"two"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        write_durably(tmp_path / "missing" / "name", b"one", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_temporary_files_of_the_living_stay(tmp_path: Path) -> None:
    path = write_temporary(tmp_path, b"on its way")
    assert leftovers(tmp_path) == sweep(tmp_path) == []
    assert path.exists()


def test_temporary_files_of_the_dead_are_swept(tmp_path: Path) -> None:
    file, folder = dead_writers_name(tmp_path), dead_writers_name(tmp_path)
    file.write_bytes(b"half")
    (folder / "inside").mkdir(parents=True)
    assert leftovers(tmp_path) == sorted([file, folder])
    assert sweep(tmp_path) == sorted([file, folder])
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_is_used_again_is_not_the_writer(tmp_path: Path) -> None:
    mine = temporary(tmp_path)
    earlier = mine.with_name(re.sub(r"\.\d+\.([0-9a-f]{16})", r".1.\1", mine.name))
    earlier.touch()
    assert sweep(tmp_path) == [earlier]


def test_a_writer_on_another_machine_has_a_day(tmp_path: Path) -> None:
    foreign = tmp_path / f"elsewhere.{os.getpid()}.1.{'0' * 16}.tmp"
    foreign.touch()
    assert leftovers(tmp_path) == []
    os.utime(foreign, (time.time() - 90_000,) * 2)
    assert leftovers(tmp_path) == [foreign]


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", ".tmp", "a.tmp", "model.pkl"):
        (tmp_path / name).touch()
    assert leftovers(tmp_path) == []


def test_a_missing_folder_has_no_leftovers(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == []


def test_a_process_knows_its_start() -> None:
    assert started_at(os.getpid()) > 0
    assert started_at(2**22 + 1) == 0


def test_what_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match="No space left") as full, told(tmp_path):
        raise OSError(28, "No space left on device")
    assert "nothing half-written" in full.value.parts["safe"]
    with pytest.raises(StoreUnavailable, match="No such file"), told(tmp_path):
        raise FileNotFoundError(2, "No such file or directory")
