"""Opening a store: the folder, the database, the blobs, the pointers and the key, together."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from modelmill.errors import NotFound, StoreUnavailable
from modelmill.settings import Settings
from modelmill.store.blobs import FolderBlobs, FolderPointers, blobs_of, pointers_of
from modelmill.store.database import Database
from modelmill.store.files import sweep, told
from modelmill.store.signing import SigningKey, public_key


@dataclass(frozen=True, slots=True)
class Store:
    """Everything an installation keeps. As a context manager it closes the database when the block ends."""

    folder: Path
    database: Database
    blobs: FolderBlobs
    pointers: FolderPointers

    @property
    def key(self) -> SigningKey:
        """Return the private key; only who made the store can read it."""
        return SigningKey.load(self.folder)

    @property
    def public_key(self) -> bytes:
        """Return the public half, 32 bytes."""
        return public_key(self.folder)

    @property
    def scratch(self) -> Path:
        """Return the folder for files that only one command needs."""
        return self.folder / "scratch"

    @property
    def lock_path(self) -> Path:
        """Return the file that `locks.ProjectLock` takes for this store."""
        return self.folder / "lock"

    def scratch_folders(self) -> tuple[Path, ...]:
        """Return every folder in which a crash may leave temporary files."""
        return self.scratch, self.blobs.scratch, self.pointers.scratch, self.folder / "keys"

    def sweep(self) -> list[Path]:
        """Remove the temporary files whose writer is gone, and return their names."""
        return [path for folder in self.scratch_folders() for path in sweep(folder)]

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def open_store(settings: Settings, *, create: bool = True) -> Store:
    """Open the project's store and bring its tables up to date.

    A missing store is made, unless `create` is false. The group of a store that is shared may use all of it but its keys.
    """
    folder = settings.store_folder
    if settings.shared or _is_shared(folder):
        os.umask(0o007)  # of the whole process: what it writes into the store is for the group, too
    if not (folder / "keys").is_dir():
        if not create:
            raise NotFound(f"there is no store at `{folder}`", next="modelmill train      (makes it)")
        _make_folders(folder, 0o2770 if settings.shared else 0o700)
    if not (folder / "keys" / "signing.pub").exists():
        SigningKey.create(folder)
    database = Database(settings.database_url)
    if database.is_missing_file and any(pointers_of(folder).folder.glob("*.json")):
        raise StoreUnavailable(
            "the database's file is gone, and something was released from it",
            where=database.place,
            likely="it was moved, or its disk is not mounted",
            next="put it back; to begin anew, remove the whole store",
            safe="nodes serve on, and start, without it; modelmill rollback works, too",
        )
    database.migrate()
    return Store(folder, database, blobs_of(folder), pointers_of(folder))


def _is_shared(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IWGRP)
    except OSError:
        return False


def _make_folders(folder: Path, mode: int) -> None:
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        for name in ("scratch", "blobs", "pointers"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "keys").mkdir(exist_ok=True)
        (folder / "keys").chmod(mode & ~0o020)  # whoever could replace the public key could sign
        if mode & stat.S_IWGRP:
            (folder / "mill.db").touch(0o660)  # SQLite would make it writable by its owner alone
