"""Where bytes are kept: named by their digest, created once, verified on the way out.

`Blobs` is all that the platform asks of a place for bytes, and `Pointers` is the one kind of name that may change:
what an environment serves right now. Both are Protocols with an implementation per kind of place.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from modelmill.errors import BlobBroken, NameInvalid
from modelmill.names import Digest, digest_of, parse_digest
from modelmill.store.files import (
    cleared_on_error,
    flush_file,
    flush_folder,
    replace_durably,
    told,
    write_durably,
    write_temporary,
)

_POINTER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_DIGEST_NAME = re.compile(r"[0-9a-f]{64}")


class Blobs(Protocol):
    """A place for immutable bytes. Every method may be called by many processes at once."""

    def put(self, contents: Iterable[bytes]) -> list[Digest]:
        """Keep `contents`, durable when this returns; what is there already is not written again."""

    def put_file(self, path: Path) -> Digest:
        """Move a finished file in, durable when this returns; `path` is gone afterwards."""

    def get(self, digest: Digest) -> bytes:
        """Return the bytes of a blob; missing or changed bytes raise BlobBroken."""

    def open(self, digest: Digest) -> memoryview:
        """Return a read-only view of a blob that is not verified here: a pack verifies entry by entry."""

    def digests(self) -> Iterator[Digest]:
        """Yield the digest of every blob, in no particular order."""

    def delete(self, digests: Iterable[Digest]) -> None:
        """Remove blobs; one that is missing already is no error."""


class Pointers(Protocol):
    """A few small named contents that are replaced as one step."""

    def publish(self, name: str, content: bytes) -> None:
        """Make `content` what `name` stands for; a reader sees the old bytes or the new, never a mixture."""

    def current(self, name: str) -> bytes | None:
        """Return what `name` stands for, None when nothing was published yet."""


def blobs_of(store: Path) -> FolderBlobs:
    """Return the blobs of the store at this folder; a serving node needs no more."""
    return FolderBlobs(store / "blobs")


def pointers_of(store: Path) -> FolderPointers:
    """Return the pointers of the store at this folder."""
    return FolderPointers(store / "pointers")


class FolderBlobs:
    """Blobs as files: ``ab/<64 hexadecimal digits>``, and ``tmp/`` for those on their way in."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; nothing is written before the first blob."""
        self.folder = folder
        self.scratch = folder / "tmp"

    def put(self, contents: Iterable[bytes]) -> list[Digest]:
        """Keep `contents`; see `Blobs.put`."""
        digests: list[Digest] = []
        written: dict[Path, Path] = {}
        try:
            for content in contents:
                digests.append(digest := digest_of(content))
                place = self.path_of(digest)
                # Flushed before it is named: a crash in between leaves a temporary file, never a short blob.
                if place not in written and not _holds(place, len(content)):
                    written[place] = write_temporary(self.scratch, content)
            self._admit([(path, place) for place, path in written.items()])
        finally:
            # Those that were admitted are no longer here; the others nobody will finish.
            for path in written.values():
                path.unlink(missing_ok=True)
        return digests

    def put_file(self, path: Path) -> Digest:
        """Move a finished file in; see `Blobs.put_file`."""
        with cleared_on_error(path), told(path):
            with path.open("rb") as file:
                digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
                size = os.fstat(file.fileno()).st_size
            place = self.path_of(digest)
            if _holds(place, size):
                path.unlink()
            else:
                flush_file(path)
                self._admit([(path, place)])
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return the bytes of a blob; see `Blobs.get`."""
        with self._opened(digest) as file:
            content = file.read()
        if digest_of(content) != digest:
            raise BlobBroken(
                f"blob `{digest[:12]}` does not hold the bytes that were recorded",
                where=str(self.path_of(digest)),
                next="modelmill fsck",
            )
        return content

    def open(self, digest: Digest) -> memoryview:
        """Return a read-only view of a blob; see `Blobs.open`."""
        with self._opened(digest) as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")  # an empty file cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def digests(self) -> Iterator[Digest]:
        """Yield the digest of every blob; see `Blobs.digests`."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if _DIGEST_NAME.fullmatch(path.name) and path.name.startswith(path.parent.name):
                yield Digest(path.name)

    def delete(self, digests: Iterable[Digest]) -> None:
        """Remove blobs; see `Blobs.delete`."""
        for digest in digests:
            place = self.path_of(digest)
            with told(place):
                place.unlink(missing_ok=True)

    def path_of(self, digest: Digest) -> Path:
        """Return the file of a blob, for readers that map files themselves."""
        name = parse_digest(digest)
        return self.folder / name[:2] / name

    def _admit(self, moves: list[tuple[Path, Path]]) -> None:
        if not all(place.parent.is_dir() for _, place in moves):
            self._make_folders()
        replace_durably(moves)

    def _make_folders(self) -> None:
        """Make all 256 folders at once, so that no later blob waits for the name of its folder to be durable."""
        with told(self.folder):
            for number in range(256):
                (self.folder / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        flush_folder(self.folder)

    @contextmanager
    def _opened(self, digest: Digest) -> Iterator[BinaryIO]:
        place = self.path_of(digest)
        with told(place):
            try:
                file = place.open("rb")
            except FileNotFoundError as error:
                raise BlobBroken(f"blob `{digest[:12]}` is missing", where=str(place), next="modelmill fsck") from error
            with file:
                yield file


class FolderPointers:
    """Pointers as small files that are replaced as one step."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; nothing is written before the first pointer."""
        self.folder = folder
        self.scratch = folder / ".tmp"

    def publish(self, name: str, content: bytes) -> None:
        """Make `content` what `name` stands for; see `Pointers.publish`."""
        write_durably(self._path(name), content, self.scratch)

    def current(self, name: str) -> bytes | None:
        """Return what `name` stands for; see `Pointers.current`."""
        path = self._path(name)
        with told(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def published_at(self, name: str) -> datetime | None:
        """Return when what `name` stands for was published, by this machine's clock; None when nothing was."""
        with suppress(FileNotFoundError):
            return datetime.fromtimestamp(self._path(name).stat().st_mtime, UTC)
        return None

    def _path(self, name: str) -> Path:
        return self.folder / parse_pointer_name(name)


def parse_pointer_name(text: str) -> str:
    """Return `text` as the name of a pointer: lower-case letters, digits, `.`, `_` and `-`, at most 100."""
    if not _POINTER_NAME.fullmatch(text):
        raise NameInvalid(
            f"`{text[:80]}` is not the name of a pointer", expected="lower-case letters, digits, `.`, `_` and `-`"
        )
    return text


def _holds(place: Path, size: int) -> bool:
    """Return whether a blob is there; a file of another size is what a failing disk left, and is replaced."""
    try:
        return place.stat().st_size == size
    except FileNotFoundError:
        return False
