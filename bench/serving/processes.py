"""Process trees: start and end one, stop and go on, its CPU seconds and memory, and the core it runs on. Linux only."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_END_S = 15.0
_POLL_S = 0.05


class Stat(NamedTuple):
    """What the kernel says of a process."""

    pid: int
    state: str
    parent: int
    session: int
    ticks: int
    """Of CPU, user and system, of all its threads, the ended ones too."""
    born: int
    """With the pid it names a process for ever: pids are used again."""


class Memory(NamedTuple):
    """Megabytes of a tree."""

    rss: float
    """Pages that processes share count in each of them."""
    pss: float
    """Pages that processes share are divided by them."""


def start(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output in a file."""
    with log.open("wb") as file:
        return subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(root: Stat) -> None:
    """Ask a tree's root to end, and kill what is left of the tree when it has, or has not in time."""
    known = _left_of(root)
    go_on(known)
    if _lives(root):
        os.kill(root.pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline and any(_lives(process) for process in known):
        time.sleep(_POLL_S)
    for process in (*known, *_left_of(root)):
        if _lives(process):
            os.kill(process.pid, signal.SIGKILL)
            _reap(process.pid)


def _left_of(root: Stat) -> list[Stat]:
    """Return the tree of a root that may have ended: none where its pid is another's, for its session is gone then."""
    now = find_stat(root.pid)
    return tree(root.pid) if now is None or now.born == root.born else []


def _lives(process: Stat) -> bool:
    """Return whether it is still the process that it was; a child of ours that has ended is buried here."""
    _reap(process.pid)
    now = find_stat(process.pid)
    return now is not None and now.born == process.born and now.state != "Z"


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def halt(processes: Sequence[Stat]) -> None:
    """Stop processes: they use no CPU until `go_on`."""
    _send(processes, signal.SIGSTOP)


def go_on(processes: Sequence[Stat]) -> None:
    """Let stopped processes go on."""
    _send(processes, signal.SIGCONT)


def _send(processes: Sequence[Stat], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


# ------------------------------------------------------------------ looking


def find_stat(pid: int) -> Stat | None:
    """Return what the kernel says of a process, None where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name stands in brackets and may hold anything.
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[11]) + int(fields[12]), int(fields[19]))


def get_stat(pid: int) -> Stat:
    """Return what the kernel says of a process; raises `ProcessLookupError` where there is none."""
    found = find_stat(pid)
    if found is None:
        raise ProcessLookupError(pid)
    return found


def list_stats() -> Iterator[Stat]:
    """Yield every process of this machine."""
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (found := find_stat(int(folder.name))):
            yield found


def tree(root: int) -> list[Stat]:
    """Return a process, its descendants, and whatever shares a session with one of them: orphans are found so."""
    everything = list(list_stats())
    pids, before = {root}, 0
    while len(pids) != before:
        before = len(pids)
        # Sessions of the tree are those that one of its processes leads; that of the caller is not among them.
        sessions = {process.session for process in everything if process.pid in pids} & pids | {root}
        pids |= {process.pid for process in everything if process.parent in pids or process.session in sessions}
    return [process for process in everything if process.pid in pids]


def cpu_seconds(root: int) -> float:
    """Return the CPU seconds of a tree, to a hundredth; those of children that have ended are not in it."""
    return sum(process.ticks for process in tree(root)) / _TICK


def memory(root: int) -> Memory:
    """Return the memory of a tree."""
    rss = pss = 0
    for process in tree(root):
        with suppress(OSError):
            text = (PROC / str(process.pid) / "smaps_rollup").read_text()
            sizes = {name: int(rest.split()[0]) for name, _, rest in map(_parted, text.splitlines()[1:])}
            rss, pss = rss + sizes["Rss"], pss + sizes["Pss"]
    return Memory(rss / 1024, pss / 1024)


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def pin(root: int, core: int) -> None:
    """Put every thread of a tree on one core; what they start later inherits that."""
    for process in tree(root):
        with suppress(OSError):
            for thread in (PROC / str(process.pid) / "task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), {core})
