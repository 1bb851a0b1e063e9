"""Supervised workers: whatever an item does, it alone is lost, with the right cause, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelmill.compute import local
from modelmill.compute.compute import Done, Limits, Lost, Task
from modelmill.compute.local import LocalCompute

JOBS = """
import mmap, os, time

def start(setup):
    if setup == "broken":
        raise ValueError("cannot start")
    def run(payload, at):
        if payload == ["hang before the first"]:
            time.sleep(600)
        for place, item in enumerate(payload):
            at(place)
            WHAT.get(item, lambda: None)()
        return (setup, payload)
    return run

def flood():
    while True:
        print("x" * 100_000)

def map_a_file():
    with open(__file__ + ".large", "w+b") as file:
        file.truncate(250 << 20)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for place in range(0, len(mapped), 4096):
                mapped[place]
            time.sleep(0.3)

def grow():
    held = []
    while True:
        held.append(bytearray(20 << 20))
        time.sleep(0.02)

WHAT = {
    "exit": lambda: os._exit(3),
    "crash": lambda: os.kill(os.getpid(), 11),
    "hang": lambda: time.sleep(600),
    "flood": flood,
    "grow": grow,
    "map": map_a_file,
    "raise": lambda: 1 / 0,
}
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "compute_jobs.py").write_text(JOBS)
    sys.path.insert(0, str(tmp_path))
    yield "compute_jobs:start"
    sys.path.remove(str(tmp_path))


@pytest.fixture
def compute(jobs: str) -> Iterator[LocalCompute]:
    with LocalCompute(jobs, "setup", workers=2, limits=Limits(1.0, 200, 8)) as opened:
        yield opened


def test_tasks_come_back_with_their_results(compute: LocalCompute) -> None:
    for number in range(20):
        compute.submit(Task(number, [number]))
    ended = [compute.wait() for _ in range(20)]
    assert all(isinstance(end, Done) for end in ended)
    assert sorted(end.task.id for end in ended) == list(range(20))
    assert all(isinstance(end, Done) and end.result == ("setup", [end.task.id]) for end in ended)


@pytest.mark.parametrize(
    ("item", "reason", "said"),
    [
        ("exit", "exit", "status 3"),
        ("crash", "signal", "SIGSEGV"),
        ("hang", "time", "longer than 1 s"),
        ("flood", "output", "more than 8 MB"),
        ("grow", "memory", "more than 200 MB"),
    ],
)
def test_the_guilty_item_is_named(compute: LocalCompute, item: str, reason: str, said: str) -> None:
    compute.submit(Task(1, ["fine", item, "fine"]))
    compute.submit(Task(2, ["fine"]))
    ended = {end.task.id: end for end in (compute.wait(), compute.wait())}
    lost = ended[1]
    assert isinstance(lost, Lost)
    assert (lost.item, lost.reason) == (1, reason)
    assert said in lost.detail
    assert isinstance(ended[2], Done)


def test_a_hang_before_the_first_item_is_ended(jobs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_OUTSIDE_S", 1.0)
    with LocalCompute(jobs, "setup", workers=1, limits=Limits(0.5)) as opened:
        opened.submit(Task(1, ["hang before the first"]))
        lost = opened.wait()
    assert isinstance(lost, Lost)
    assert (lost.item, lost.reason) == (-1, "time")


def test_pages_of_mapped_files_are_nobodys_own(compute: LocalCompute) -> None:
    compute.submit(Task(1, ["map"], patience=60.0))
    assert isinstance(compute.wait(), Done)


def test_an_exception_outside_an_item_is_ours_to_raise(compute: LocalCompute) -> None:
    compute.submit(Task(1, ["raise"]))
    with pytest.raises(ZeroDivisionError):
        compute.wait()


def test_a_worker_that_cannot_start_says_why(jobs: str) -> None:
    with pytest.raises(ValueError, match="cannot start"):
        LocalCompute(jobs, "broken", workers=1)


def test_a_killed_worker_costs_no_other_task(compute: LocalCompute) -> None:
    for number in range(6):
        compute.submit(Task(number, ["fine"]))
    os.kill(compute.pids()[0], signal.SIGKILL)
    ended = [compute.wait() for _ in range(6)]
    assert len({end.task.id for end in ended}) == 6
    assert sum(isinstance(end, Lost) for end in ended) <= 1


def test_a_worker_whose_end_is_known_already_is_replaced(compute: LocalCompute) -> None:
    """Its connection and the template's news are ready at once: what one handler reads, the other may not wait for."""
    for turn in range(3):
        for pid in compute.pids():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)  # long enough for the template to have told it
        compute.submit(Task(turn, ["after"]))
        with within(seconds=30):
            while not isinstance(compute.wait(), Done):
                compute.submit(Task(turn, ["after"]))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail instead of hanging for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"nothing came within {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_large_tasks_with_large_results_do_not_wait_for_one_another(jobs: str) -> None:
    """A worker that sends its result reads no task meanwhile: neither side may wait for the other."""
    large = [f"{number:01000}" for number in range(1000)]
    with within(30), LocalCompute(jobs, "setup", workers=1) as compute:
        for number in range(6):
            compute.submit(Task(number, large))
        ended = [compute.wait() for _ in range(6)]
    assert [done.task.id for done in ended] == list(range(6))
    assert all(isinstance(done, Done) and done.result == ("setup", large) for done in ended)


def test_capacity_counts_what_is_held(compute: LocalCompute) -> None:
    free = compute.capacity()
    compute.submit(Task(1, ["hang"]))
    assert compute.capacity() == free - 1


def test_no_worker_outlives_its_builder(tmp_path: Path, jobs: str) -> None:
    program = (
        f"import sys, time; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from modelmill.compute.local import LocalCompute\n"
        f"c = LocalCompute({jobs!r}, 's', workers=2)\n"
        "print(*c.pids(), c._template.pid, flush=True)\ntime.sleep(600)\n"
    )
    builder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    pids = [int(pid) for pid in builder.stdout.readline().split()]
    builder.kill()
    builder.wait()
    builder.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
