"""One writer a project, and who it is.

The operating system's lock on an open file is the truth: it goes when its holder goes, however that ends. The text
inside the file only says who holds it.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from modelmill.errors import StoreLocked
from modelmill.store.files import told

_POLL_S = 0.05


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock."""

    purpose: str
    pid: int
    command: str
    started: datetime
    user: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command}, started {self.started:%Y-%m-%d %H:%M} UTC by {self.user})"


class ProjectLock:
    """The right to write to a project, held while a ``with`` block runs; entering fails at once when it is taken."""

    def __init__(self, path: Path, purpose: str) -> None:
        """Prepare a lock on the file at `path`; `purpose` says in a word what for, such as ``up``."""
        self.path = path
        self.purpose = purpose
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        """Take the lock, or raise StoreLocked naming who has it."""
        with told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened without cutting it off: until the lock is ours, the text in it is its holder's.
            file = self.path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise _busy(self.path, self.purpose) from error
            _write_holder(file, self.purpose)
        self._file = file

    def wait(self, seconds: float) -> None:
        """Take the lock as soon as it is free; raise StoreLocked when it is not after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.acquire()
            except StoreLocked:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def release(self) -> None:
        """Give the lock back; without effect when it is not held."""
        if self._file is not None:
            # Closing is giving back. The text stays, and means nothing without the lock.
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()


def find_holder(path: Path) -> Holder | None:
    """Return who holds the lock at `path`; None when nobody does."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read_holder(path)
    return None


def _write_holder(file: BinaryIO, purpose: str) -> None:
    command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])[:200]
    holder = Holder(purpose, os.getpid(), command, datetime.now(UTC), _user())
    file.truncate(0)
    file.write(msgspec.json.encode(holder))
    file.flush()


def _read_holder(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def _busy(path: Path, purpose: str) -> StoreLocked:
    holder = _read_holder(path)
    return StoreLocked(
        f"`{purpose}` cannot write to this store: it is held by {holder or 'another process'}",
        where=str(path),
        next="wait until it has finished: modelmill status says what runs",
        safe="nothing was changed",
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
