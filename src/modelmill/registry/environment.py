"""Package environments made from a lock: once for each lock, finished or not there at all, looked through before each use.

uv installs; its cache and hard links make the second environment of the same packages a matter of a second. Everything is
compiled while it is made: in many images nothing would be compiled later, and each start would take twice as long.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from modelmill.errors import IndexUnreachable, InterpreterMissing, LockUnsatisfiable
from modelmill.names import Digest, parse_digest
from modelmill.registry.lock import read_lock
from modelmill.store.blobs import Blobs
from modelmill.store.files import temporary
from modelmill.store.locks import ProjectLock

_MARK = "finished"
_INSTALL_S = 1800
_FIND_S = 60
_UNREACHABLE = (
    "error sending request",
    "dns error",
    "failed to fetch",
    "connection refused",
    "timed out",
    "connect error",
)


class Wanted(NamedTuple):
    """An environment, as a lock describes it."""

    key: str
    """What names it: the digest of the lock."""
    python: str
    """``3.11.7``"""
    requirements: Sequence[str]
    """Lines of a requirements file."""
    wheel_name: str
    wheel: bytes
    """Of modelmill itself."""


def wanted_by(blobs: Blobs, lock: Digest) -> Wanted:
    """Return the environment that a recorded lock describes."""
    found = read_lock(blobs, lock)
    packages = [package.requirement for package in found.packages]
    return Wanted(lock, found.python, packages, found.wheel_name, blobs.get(found.wheel))


def environments_in(store: Path) -> Path:
    """Return the folder of a store in which environments are made, each named by its lock."""
    return store / "cache" / "environments"


class Environment(NamedTuple):
    """A package environment that is ready."""

    python: Path
    """Its interpreter."""
    made: bool
    """Whether it was made just now."""


def environment_for(folder: Path, wanted: Wanted, tell: Callable[[str], None] = lambda _: None) -> Environment:
    """Return the environment of a lock, made in `folder` if it is not there or was changed since.

    Raises `InterpreterMissing`, `LockUnsatisfiable` or `IndexUnreachable`; nothing half-made stays.
    """
    place = folder / wanted.key
    if _is_finished(place):
        return Environment(place / "bin" / "python", made=False)
    with _alone(folder / f"{wanted.key}.lock"):
        if _is_finished(place):  # somebody else was first
            return Environment(place / "bin" / "python", made=False)
        tell(f"making the environment of lock {wanted.key[:8]}   {len(wanted.requirements)} packages")
        shutil.rmtree(place, ignore_errors=True)
        try:
            _make(place, wanted)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    return Environment(place / "bin" / "python", made=True)


def find_environment(folder: Path, lock: Digest) -> Path | None:
    """Return the interpreter of a lock's environment, None where it was not made, or was changed since; nothing is made."""
    place = folder / parse_digest(lock)
    return place / "bin" / "python" if _is_finished(place) else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = ProjectLock(path, "environment")
    lock.wait(_INSTALL_S)
    try:
        yield
    finally:
        lock.release()


def _make(place: Path, wanted: Wanted) -> None:
    """Make an environment at its own name: scripts in it hold that name, so it cannot be moved there."""
    python = find_python(wanted.python)
    _uv("venv", "--quiet", "--python", str(python), str(place))
    scratch = temporary(place.parent)
    scratch.mkdir()
    try:
        wheel, lines = scratch / wanted.wheel_name, scratch / "requirements.txt"
        wheel.write_bytes(wanted.wheel)
        lines.write_text("\n".join(wanted.requirements) + "\n")
        _install(place, ["--requirement", str(lines)], wanted)
        _install(place, [str(wheel)], wanted)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    (place / _MARK).write_text(_state_of(place))


def _install(place: Path, what: list[str], wanted: Wanted) -> None:
    """Install from the cache alone, where that suffices, else from the index."""
    common = ["pip", "install", "--quiet", "--python", str(place / "bin" / "python"), "--no-deps", "--compile-bytecode"]
    cached = _run([*common, "--offline", *what])
    if cached.returncode == 0:
        return
    fetched = _run([*common, *what])
    if fetched.returncode:
        raise _refusal(fetched.stderr.decode(errors="replace"), wanted)


def _refusal(said: str, wanted: Wanted) -> LockUnsatisfiable | IndexUnreachable:
    got = " ".join(said.split())[-400:]
    if any(text in said.lower() for text in _UNREACHABLE):
        return IndexUnreachable(
            "the packages of the lock are not in the cache, and the package index cannot be reached",
            got=got,
            next="the same command where the index can be reached",
        )
    return LockUnsatisfiable(
        f"lock `{wanted.key[:12]}` cannot be installed",
        got=got,
        likely="a version is gone from the index, or its file was exchanged",
        next="point uv at an index that has it (UV_INDEX_URL)",
    )


def find_python(version: str) -> Path:
    """Return an interpreter of exactly this version: the one that runs, else one that uv finds."""
    here = ".".join(map(str, sys.version_info[:3]))
    if version == here:
        return Path(getattr(sys, "_base_executable", "") or sys.executable)
    found = _run(["python", "find", "--no-python-downloads", version], seconds=_FIND_S)
    path = found.stdout.decode().strip()
    if found.returncode or not path:
        raise InterpreterMissing(
            f"Python {version} is not installed here",
            got=f"Python {here}",
            next=f"uv python install {version}",
        )
    return Path(path)


def _uv(*arguments: str) -> None:
    done = _run(list(arguments))
    if done.returncode:
        raise LockUnsatisfiable(
            "uv cannot make an environment", got=done.stderr.decode(errors="replace")[-400:], next="modelmill doctor"
        )


def _run(arguments: Sequence[str], seconds: float = _INSTALL_S) -> subprocess.CompletedProcess[bytes]:
    from uv import find_uv_bin

    return subprocess.run(  # noqa: S603 - our own dependency
        [find_uv_bin(), *arguments], capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
    )


# ------------------------------------------------------------------ verified


def _is_finished(place: Path) -> bool:
    """Return whether an environment is there as it was when it was finished."""
    try:
        return (place / _MARK).read_text() == _state_of(place)
    except OSError:
        return False


def _state_of(place: Path) -> str:
    """Return a digest of all files' names, sizes and times; reading them all would take longer than using them."""
    found = hashlib.sha256()
    for folder, folders, files in os.walk(place):
        folders.sort()
        if folder.endswith("__pycache__"):  # what is compiled later is no change
            continue
        for name in sorted(files):
            if name != _MARK:
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - ten thousand files
                found.update(f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()
