"""Package environments made from a lock: once for each lock, finished or not there at all, looked through before each use.

uv installs; its cache and hard links make the second environment of the same packages a matter of a second. Everything is
compiled while it is made: in many images nothing would be compiled later, and each start would take twice as long.

Whoever uses one holds a shared lock on a file beside it for as long, and whoever would remove it needs that lock alone. The
operating system gives it back when its holder ends, however that ends; so what is used is never removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from modelmill.errors import IndexUnreachable, InterpreterMissing, LockUnsatisfiable, NameInvalid
from modelmill.names import Digest, parse_digest
from modelmill.registry.lock import read_lock
from modelmill.store.blobs import Blobs
from modelmill.store.files import temporary, told
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


class Use:
    """That somebody uses an environment, or is about to: nobody removes it until this is ended, or thrown away."""

    def __init__(self, folder: Path, key: str) -> None:
        """Take note of the use of the environment `key` in `folder`, be it that it has still to be made."""
        path = _use_file(folder, key)
        with told(path):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            with suppress(OSError):  # another account's file: then it is not known when it was used last
                os.utime(path)

    def end(self) -> None:
        """Use it no more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        """End with whoever has used it."""
        if getattr(self, "_descriptor", None) is not None:
            self.end()


def _use_file(folder: Path, key: str) -> Path:
    return folder / f"{parse_digest(key)}.used"


class Environment(NamedTuple):
    """A package environment that is ready."""

    python: Path
    """Its interpreter."""
    made: bool
    """Whether it was made just now."""
    use: Use
    """As long as somebody keeps this, it stays."""


def environment_for(folder: Path, wanted: Wanted, tell: Callable[[str], None] = lambda _: None) -> Environment:
    """Return the environment of a lock, made in `folder` if it is not there or was changed since.

    Raises `InterpreterMissing`, `LockUnsatisfiable` or `IndexUnreachable`; nothing half-made stays.
    """
    found = use_environment(folder, wanted.key)
    if found is not None:
        return found
    place, use = folder / wanted.key, Use(folder, wanted.key)
    with _alone(folder / f"{wanted.key}.lock"):
        if _is_finished(place):  # somebody else was first
            return Environment(place / "bin" / "python", made=False, use=use)
        tell(f"making the environment of lock {wanted.key[:8]}   {len(wanted.requirements)} packages")
        shutil.rmtree(place, ignore_errors=True)
        try:
            _make(place, wanted)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    return Environment(place / "bin" / "python", made=True, use=use)


def has_environment(folder: Path, lock: str) -> bool:
    """Return whether a lock's environment is there as it was made."""
    return _is_finished(folder / parse_digest(lock))


def use_environment(folder: Path, lock: str) -> Environment | None:
    """Return a lock's environment, None where it was not made, or was changed since; nothing is made."""
    place = folder / parse_digest(lock)
    if not place.is_dir():  # a node that looks for it again and again writes nothing
        return None
    use = Use(folder, lock)
    return Environment(place / "bin" / "python", made=False, use=use) if _is_finished(place) else None


# ------------------------------------------------------------------ cleaning up


class Installed(NamedTuple):
    """An environment that lies in a folder, finished or not."""

    lock: Digest
    used_at: datetime
    """When its last use began."""
    bytes: int
    """What the disk has back when it is removed: hard links to uv's cache take nothing."""


def list_installed(folder: Path) -> Iterator[Installed]:
    """Yield what lies in a folder of environments."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(NameInvalid, FileNotFoundError):  # no environment, or removed at this moment
            if place.is_dir():
                yield Installed(parse_digest(place.name), _used_at(folder, place), _own_bytes(place))


def is_used(folder: Path, lock: Digest) -> bool:
    """Return whether somebody uses an environment now."""
    if not _use_file(folder, lock).exists():  # whoever uses it has made that; it tells of uses, and looking is none
        return False
    with _nobody_uses(folder, lock) as alone:
        return not alone


def remove_environment(folder: Path, lock: Digest, is_needed: Callable[[Digest], bool]) -> bool:
    """Remove an environment unless somebody uses it, or needs it after all; return whether it is gone.

    `is_needed` is asked when nobody can begin to use it any more: whoever did before has published by then what needs it.
    """
    with _nobody_uses(folder, lock) as alone:
        if not alone or is_needed(lock):
            return False
        gone = (folder / lock).rename(temporary(folder))
    shutil.rmtree(gone)  # whoever wants it now makes it anew, and waits for none of this
    return True


@contextmanager
def _nobody_uses(folder: Path, lock: Digest) -> Iterator[bool]:
    """Have whoever wants to use an environment wait for a block; false where somebody uses it already."""
    path = _use_file(folder, lock)
    with told(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def _used_at(folder: Path, place: Path) -> datetime:
    """Return when an environment was used last; of one from before that was noted, when it was made."""
    with suppress(FileNotFoundError):
        return datetime.fromtimestamp(_use_file(folder, place.name).stat().st_mtime, UTC)
    return datetime.fromtimestamp(place.stat().st_mtime, UTC)


def _own_bytes(place: Path) -> int:
    files = (os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(place) for name in names)  # noqa: PTH118 - ten thousand
    return sum(status.st_size for status in files if status.st_nlink == 1)


# ------------------------------------------------------------------ making


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
