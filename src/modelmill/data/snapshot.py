"""A snapshot as a value: an immutable, content-addressed state of a dataset, and where each segment lies in it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.model.schema import SchemaSpec
from modelmill.names import Digest, Segment, digest_of

FORMAT = 1


class FileEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One Parquet file of a snapshot."""

    digest: Digest
    rows: int
    bytes: int
    layer: int = 0
    """The files of a layer are sorted by segment, one after the other; rows that were appended lie in another layer."""


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot is. Its digest is the snapshot's id: the same rows in the same schema are the same snapshot."""

    format: int
    dataset: str
    spec: SchemaSpec
    by: tuple[str, ...]
    rows: int
    files: tuple[FileEntry, ...]
    index: Digest
    """The blob that holds the `Segments`."""

    @property
    def layered(self) -> bool:
        """Whether rows were appended: the files have to be merged to be in the order of the segments."""
        return self.files[-1].layer > 0

    def encode(self) -> bytes:
        """Return the manifest as bytes: one text for one value."""
        return msgspec.json.encode(self, order="deterministic")


class Snapshot(msgspec.Struct, frozen=True):
    """A recorded snapshot: ``flights@s3``."""

    id: Digest
    number: int
    source: str
    created_at: str
    segments: int
    """How many there are."""
    manifest: Manifest

    @property
    def label(self) -> str:
        """Return the name that people use."""
        return f"{self.manifest.dataset}@s{self.number}"


class Segments(msgspec.Struct, frozen=True):
    """Where each segment's rows lie, in the order of the file, and the digest of their content."""

    keys: list[Segment]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    digests: list[bytes]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[Segment, int, int, bytes]]:
        """Yield key, first row, number of rows, digest."""
        return iter(zip(self.keys, self.starts.tolist(), self.rows.tolist(), self.digests, strict=True))

    def whole(self) -> Digest:
        """Return the digest of all segments together: what the pooled model was trained on."""
        return digest_of(b"".join(self.digests))


class _Columns(msgspec.Struct, array_like=True):
    keys: list[tuple[str, ...]]
    rows: bytes
    digests: bytes


def encode_segments(segments: Segments) -> bytes:
    """Return the segments as a blob."""
    rows = segments.rows.astype("<i8").tobytes()
    return msgspec.msgpack.encode(_Columns(segments.keys, rows, b"".join(segments.digests)))


def decode_segments(content: bytes) -> Segments:
    """Return the segments in a blob."""
    columns = msgspec.msgpack.decode(content, type=_Columns)
    rows = np.frombuffer(columns.rows, dtype="<i8")
    digests = [columns.digests[i : i + 32] for i in range(0, len(columns.digests), 32)]
    return Segments(columns.keys, starts_of(rows), rows, digests)


def starts_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each segment from the number of rows of each."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(rows)[:-1]]) if len(rows) else rows
