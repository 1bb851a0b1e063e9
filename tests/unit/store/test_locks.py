"""One writer a project, and who it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelmill.errors import StoreLocked
from modelmill.store.locks import ProjectLock, find_holder

HOLDER = """
import pathlib, sys, time
from modelmill.store.locks import ProjectLock
with ProjectLock(pathlib.Path(sys.argv[1]), "train"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_learns_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        ProjectLock(path, "up"),
        pytest.raises(StoreLocked, match=f"pid {os.getpid()} ") as refused,
        ProjectLock(path, "train"),
    ):
        pass
    assert refused.value.what.startswith("`train` cannot write to this store")


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with ProjectLock(tmp_path / "lock", "up"):
            assert find_holder(tmp_path / "lock")
    assert find_holder(tmp_path / "lock") is None


def test_nobody_holds_a_lock_that_was_never_taken(tmp_path: Path) -> None:
    assert find_holder(tmp_path / "lock") is None


def test_giving_back_twice_is_no_error(tmp_path: Path) -> None:
    lock = ProjectLock(tmp_path / "lock", "up")
    lock.acquire()
    lock.release()
    lock.release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        holder = find_holder(path)
        assert holder
        assert (holder.pid, holder.purpose) == (other.pid, "train")
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        with ProjectLock(path, "up"):
            assert str(find_holder(path)).startswith(f"pid {os.getpid()} (")


def test_a_holder_that_cannot_be_read_is_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with ProjectLock(path, "up"):
        path.write_bytes(b"{")
        with pytest.raises(StoreLocked, match="another process"):
            ProjectLock(path, "train").acquire()
