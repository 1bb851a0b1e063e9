"""How a file appears in the store: complete, or not at all.

Bytes go to a temporary file on the same file system, are flushed to the disk, and only then get their name. A crash
leaves a temporary file whose name says who wrote it, so `sweep` knows when nobody will finish it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from modelmill.errors import StoreFull, StoreUnavailable

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_NAME = re.compile(r"(?P<host>[0-9a-z_-]+)\.(?P<pid>\d+)\.(?P<started>\d+)\.[0-9a-f]{16}\.tmp")
_FOREIGN_AGE_S = 24 * 3600
"""Whether a writer on another machine still lives cannot be seen from here; after a day it is taken for dead."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into the platform's words."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno not in _UNWRITABLE:
            raise StoreUnavailable(f"the store cannot be reached: {reason}", where=str(path)) from error
        raise StoreFull(
            f"the store cannot be written: {reason}",
            where=str(path),
            next="df -h .      (free some space or make the folder writable, then run the command again)",
            safe="nothing half-written is visible; what was recorded before is untouched",
        ) from error


def temporary(folder: Path) -> Path:
    """Return a fresh name in `folder` (made if missing) for a file or folder that this process is going to write."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{_host()}.{os.getpid()}.{started_at(os.getpid())}.{secrets.token_hex(8)}.tmp"


def write_temporary(folder: Path, content: bytes | memoryview) -> Path:
    """Write `content` to a new temporary file, flushed to the disk."""
    path = temporary(folder)
    with told(path), cleared_on_error(path), path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


def replace_durably(places: Iterable[tuple[Path, Path]]) -> None:
    """Give finished temporary files their names: `(temporary, name)` each; every folder is flushed once."""
    folders: set[Path] = set()
    for path, place in places:
        with told(place):
            path.replace(place)
        # Flushing a file does not cover its name: that belongs to the folder.
        folders.add(place.parent)
    for folder in sorted(folders):
        flush_folder(folder)


def write_durably(place: Path, content: bytes, scratch: Path) -> None:
    """Replace the file at `place` as one step; `scratch` is a folder for the temporary file."""
    path = write_temporary(scratch, content)
    with cleared_on_error(path):
        replace_durably([(path, place)])


def write_once(path: Path, content: bytes, mode: int) -> None:
    """Write a file unless it is there, durably; of two processes that try at once, one wins and both go on."""
    if path.exists():
        return
    scratch = temporary(path.parent)
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        # A link fails where the name is taken; a rename would replace the key of whoever was first.
        path.hardlink_to(scratch)
    except FileExistsError:
        pass
    finally:
        scratch.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """Wait until the content of `path` is on the disk."""
    with told(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


flush_folder = flush_file
"""Wait until the names in a folder are on the disk; to the operating system a folder is a file."""


@contextmanager
def cleared_on_error(*paths: Path) -> Iterator[None]:
    """Remove temporary files when what they were for did not come about."""
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink()
        raise


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files and folders in `folder` whose writer is gone."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if _abandoned(path)]


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files and folders in `folder` whose writer is gone, and return their names."""
    swept = leftovers(folder)
    for path in swept:
        with told(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return swept


def started_at(pid: int) -> int:
    """Return when a process of this machine started, in clock ticks since boot; 0 when there is no such process.

    A process id is used again one day; together with its start it is not.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(status.rpartition(b")")[2].split()[19])


def _abandoned(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    if not match:
        return False  # not one of ours: somebody may miss it
    if match["host"] == _host():
        return started_at(int(match["pid"])) != int(match["started"])
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE_S
    return False


@cache
def _host() -> str:
    return re.sub(r"[^0-9a-z_-]", "-", socket.gethostname().lower())[:40] or "host"
