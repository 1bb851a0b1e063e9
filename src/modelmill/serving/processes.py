"""What the operating system shows of processes: who they are, what they listen on, and which files they hold.

Read from /proc, so of Linux. A process that ends meanwhile is left out; of another user's process the descriptors and maps
cannot be read, and it says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from modelmill.store.files import started_at

_PROC = Path("/proc")
_LISTEN_STATE = "0A"
_IPV4_WITHIN = "0000000000000000FFFF0000"
"""How an older address begins where the system keeps it as one of the newer kind, as for gRPC."""
_REMOVED = " (deleted)"
_MAP_FIELDS = 6


class Process(NamedTuple):
    """One process at one moment."""

    pid: int
    parent: int
    user: int
    """The number of the account that it runs in."""
    since: datetime
    words: tuple[str, ...]
    """Its command line."""


class Held(NamedTuple):
    """What a process has open."""

    sockets: frozenset[str]
    """Their inodes."""
    files: frozenset[str]
    maps: frozenset[str]
    """Files that are mapped into its memory."""


def list_processes() -> list[Process]:
    """Return the processes that live; one that has ended and was not taken note of is none."""
    return [found for entry in _PROC.glob("[0-9]*") if (found := find_process(int(entry.name))) is not None]


def find_process(pid: int) -> Process | None:
    """Return a process, None where it has ended."""
    folder = _PROC / str(pid)
    try:
        state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
        words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        user = folder.stat().st_uid
    except OSError:
        return None
    return None if state == b"Z" else Process(pid, int(parent), user, _since(pid), tuple(words))


def held_by(pid: int) -> Held | None:
    """Return what a process has open, None where that cannot be seen."""
    try:
        links = list(_links(_PROC / str(pid) / "fd"))
        lines = (_PROC / str(pid) / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    mapped = (fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == _MAP_FIELDS)
    return Held(
        sockets=frozenset(link[len("socket:[") : -1] for link in links if link.startswith("socket:[")),
        files=frozenset(link.removesuffix(_REMOVED) for link in links if link.startswith("/")),
        maps=frozenset(path.removesuffix(_REMOVED) for path in mapped if path.startswith("/")),
    )


def listening() -> dict[str, str]:
    """Return what is listened on, by the inode of the socket: ``127.0.0.1:8700``."""
    found: dict[str, str] = {}
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / name).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN_STATE:
                    found[fields[9]] = _address(fields[1])
    return found


def descendants(processes: Mapping[int, Process], roots: set[int]) -> set[int]:
    """Return the processes that descend from any of these, and these."""
    found = {pid for pid in roots if pid in processes}
    while True:
        more = {one.pid for one in processes.values() if one.parent in found} - found
        if not more:
            return found
        found |= more


def _links(folder: Path) -> Iterator[str]:
    for entry in folder.iterdir():
        with suppress(OSError):  # closed meanwhile
            yield str(entry.readlink())


def _address(text: str) -> str:
    """Return ``0100007F:21FC`` as an address: words of four bytes, each in the machine's order."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[place : place + 8])[::-1] for place in range(0, len(host), 8)]
    if len(words) == 1:
        return f"{'.'.join(map(str, words[0]))}:{int(port, 16)}"
    if host.upper().startswith(_IPV4_WITHIN):
        return f"{'.'.join(map(str, words[3]))}:{int(port, 16)}"
    groups = b"".join(words).hex(":", 2)
    return f"[{groups}]:{int(port, 16)}"


def _since(pid: int) -> datetime:
    return datetime.fromtimestamp(_booted() + started_at(pid) / os.sysconf("SC_CLK_TCK"), UTC)


@cache
def _booted() -> int:
    """Return when the machine was started, in seconds since 1970."""
    lines = (_PROC / "stat").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))
