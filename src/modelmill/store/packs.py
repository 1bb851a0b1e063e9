"""Many small contents in one file, each verified when it is read.

A pack is written once and then named by its digest like any other blob. Who refers to an entry knows its offset, its
length and its digest; the pack itself has no index. Entries start at multiples of 64 bytes, so that arrays inside
them can be used where they lie.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from modelmill.errors import BlobBroken
from modelmill.names import Digest
from modelmill.store.files import temporary, told

ALIGNMENT = 64
FORMAT = 1

_HEADER = struct.Struct("<16sI44x")
_MAGIC = b"modelmill pack\n\x00"
_BUFFER_BYTES = 1 << 18


class Place(NamedTuple):
    """Where an entry lies in its pack, in bytes."""

    offset: int
    length: int


class PackWriter:
    """Writes one pack as a temporary file; `Blobs.put_file` then takes it in.

    Used as a context manager it removes the file again when the block raises.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a pack in `folder`, which is on the file system of the blobs."""
        self.path = temporary(folder)
        self._size = _HEADER.size
        with told(self.path):
            self._file = self.path.open("xb", buffering=_BUFFER_BYTES)
            self._file.write(_HEADER.pack(_MAGIC, FORMAT))

    def add(self, content: bytes | memoryview) -> Place:
        """Append one entry and return where it lies."""
        # A whole cache line: arrays inside an artifact are then aligned for every kernel.
        padding = -self._size % ALIGNMENT
        offset = self._size + padding
        with told(self.path):
            self._file.write(bytes(padding))
            self._file.write(content)
        self._size = offset + len(content)
        return Place(offset, len(content))

    def add_all(self, contents: Iterable[bytes]) -> list[Place]:
        """Append many entries at once, and return where each lies."""
        places: list[Place] = []
        parts: list[bytes] = []
        at = self._size
        for content in contents:
            padding = -at % ALIGNMENT
            parts += (bytes(padding), content)
            places.append(Place(at + padding, len(content)))
            at += padding + len(content)
        with told(self.path):
            self._file.write(b"".join(parts))
        self._size = at
        return places

    def finish(self) -> Path:
        """Complete the pack and return its temporary file."""
        with told(self.path):
            self._file.close()
        return self.path

    def abandon(self) -> None:
        """Remove the unfinished pack."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self.abandon()


class PackReader:
    """Reads the entries of one pack out of its bytes, for instance a mapped blob."""

    def __init__(self, content: memoryview) -> None:
        """Take the bytes of a pack; anything else raises BlobBroken."""
        if len(content) < _HEADER.size:
            raise BlobBroken("a pack is cut off", got=f"{len(content)} bytes")
        magic, version = _HEADER.unpack_from(content)
        if magic != _MAGIC or version != FORMAT:
            raise BlobBroken("this is not a pack", expected=f"pack format {FORMAT}", got=f"{bytes(magic)!r} {version}")
        self._content = content

    def entry(self, offset: int, length: int, digest: Digest) -> memoryview:
        """Return an entry as a view, after its bytes were compared with its digest."""
        end = offset + length
        if offset < _HEADER.size or length < 0 or end > len(self._content):
            raise BlobBroken("an entry lies outside its pack", got=f"bytes {offset}..{end} of {len(self._content)}")
        view = self._content[offset:end]
        if hashlib.sha256(view).hexdigest() != digest:
            raise BlobBroken(
                f"entry `{digest[:12]}` of a pack does not hold the bytes that were recorded",
                where=f"bytes {offset}..{end} of the pack",
                next="modelmill fsck",
            )
        return view
