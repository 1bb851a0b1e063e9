"""Journals: what nodes were asked and answered, as a worker writes it down while it answers.

A file belongs to one worker, which holds a lock on it; nobody else appends. It is a sequence of record groups, each with a
checksum; a group is records in msgpack, one after the other. A reader takes groups until one is cut off or damaged - the
end of a file whose writer was killed - and goes on with the next file. `data.predictions` turns journals that are closed
into Parquet.

Light on purpose: a serving node writes journals, and loads neither polars nor a database.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from modelmill.store.files import told

SUFFIX = ".journal"
_GROUP = struct.Struct("<4sIIIQ")
"""A magic word, the checksum (CRC-32) of what follows, the payload's length, how many records, the first one's number."""
_CHECKED = 8
"""Where the checksummed bytes begin."""
_MAGIC = b"MMJ1"
_PART_BYTES = 128 << 10
_ARRAY = struct.Struct(">BI")
_ARRAY_32 = 0xDD
"""In msgpack: an array, whose length follows in four bytes."""


class Answerer(NamedTuple):
    """What answered."""

    model: str
    run: int
    """Of the fleet map: its schema is that of the inputs."""
    segment: str
    """As the caller named it; where the pooled model answered, still that."""
    version: int
    why: str
    """Why the pooled model answered; empty where the segment's own did."""
    environment: str = ""
    """Whose node it was; empty in journals of before this was written down."""
    release: int = 0
    """Its number there; 0 where a version was named in the request."""


class Record(msgspec.Struct, array_like=True, frozen=True):
    """The answers to the rows of one request that one segment's model gave."""

    answerer: Answerer
    id: int | str
    """The request's: the caller's own, or a number within this worker; see `request_id`."""
    at: float
    """When it was asked, in seconds since 1970."""
    seconds: float
    """How long the answer took."""
    inputs: bytes | list[list[Any]]
    """After parsing. Features, (rows, features), as little-endian float64 - or rows of plain values, in the order of the
    schema's request columns, then of its subject columns; None for null."""
    answers: bytes | list[float]
    """(rows,), or (rows, classes), as little-endian float64 or plain."""
    rows: list[int] | None = None
    """Which rows of the request these are; None for all."""


class Group(NamedTuple):
    """Records that were written together."""

    origin: str
    """Of the worker."""
    first: int
    """The number of the first record among all that the worker has written: a gap is a loss."""
    records: list[Record]


def request_id(origin: str, number: int | str) -> str:
    """Return a request's id as its caller was told it."""
    return number if isinstance(number, str) else f"{origin}-{number:x}"


class Journal:
    """One file that is being written."""

    def __init__(self, folder: Path, origin: str, number: int) -> None:
        """Begin a worker's next file; raises `OSError` where that is not possible."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{origin}-{number:06d}{SUFFIX}"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.size = 0

    def write(self, payload: bytes | bytearray, first: int, count: int, pause: float = 0.0) -> None:
        """Append a record group; raises `OSError`, and then nothing of it is there.

        `pause`: so many seconds between its parts. A thread that writes megabytes at once keeps the core for milliseconds
        from the one that answers.
        """
        rest = _GROUP.pack(_MAGIC, 0, len(payload), count, first)[_CHECKED:]
        parts = [memoryview(payload)[begin : begin + _PART_BYTES] for begin in range(0, len(payload), _PART_BYTES)]
        checksum = zlib.crc32(rest)
        for part in _paced(parts, pause):
            checksum = zlib.crc32(part, checksum)
        head = _MAGIC + checksum.to_bytes(4, "little") + rest
        first_part = memoryview(head + parts[0]) if parts else memoryview(head)
        try:
            for part in _paced([first_part, *parts[1:]], pause):
                self._append(part)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size += len(head) + len(payload)

    def _append(self, part: memoryview) -> None:
        while part:  # a full disk takes a part of it, and refuses at the next attempt
            part = part[os.write(self._file, part) :]

    def sync(self) -> None:
        """Return once everything is on the disk."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """End the file: others may now read it to its end. One that holds nothing goes."""
        if not self.size:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)


def _paced(parts: Iterable[memoryview], pause: float) -> Iterator[memoryview]:
    for part in parts:
        yield part
        if pause:
            time.sleep(pause)


def list_journals(folder: Path) -> list[Path]:
    """Return all files of a folder, in the order in which each worker wrote them."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def is_closed(path: Path) -> bool:
    """Return whether no worker writes to a file any more, be it that it was killed."""
    with told(path), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def read_journal(path: Path) -> Iterator[Group]:
    """Yield the groups of a file, up to one that is cut off or damaged."""
    origin = path.name.rpartition("-")[0]
    with told(path):
        content = memoryview(path.read_bytes())
    place = 0
    while place + _GROUP.size <= len(content):
        magic, checksum, length, count, first = _GROUP.unpack_from(content, place)
        end = place + _GROUP.size + length
        if magic != _MAGIC or end > len(content) or zlib.crc32(content[place + _CHECKED : end]) != checksum:
            return
        yield Group(origin, first, _records(content[place + _GROUP.size : end], count))
        place = end


def _records(payload: memoryview, count: int) -> list[Record]:
    return _decode(_ARRAY.pack(_ARRAY_32, count) + payload)


_decode = msgspec.msgpack.Decoder(list[Record]).decode
