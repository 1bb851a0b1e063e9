"""The Protocols of `store` without a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from modelmill.errors import BlobBroken
from modelmill.names import Digest, digest_of, parse_digest
from modelmill.store.blobs import parse_pointer_name


class MemoryBlobs:
    """Blobs in a dict."""

    def __init__(self) -> None:
        """Begin empty."""
        self._contents: dict[Digest, bytes] = {}

    def put(self, contents: Iterable[bytes]) -> list[Digest]:
        """Keep `contents`; see `Blobs.put`."""
        return [self._keep(bytes(content)) for content in contents]

    def put_file(self, path: Path) -> Digest:
        """Take a file in; see `Blobs.put_file`."""
        digest = self._keep(path.read_bytes())
        path.unlink()
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return the bytes of a blob; see `Blobs.get`."""
        try:
            return self._contents[parse_digest(digest)]
        except KeyError as error:
            raise BlobBroken(f"blob `{digest[:12]}` is missing") from error

    def open(self, digest: Digest) -> memoryview:
        """Return a read-only view of a blob; see `Blobs.open`."""
        return memoryview(self.get(digest))

    def digests(self) -> Iterator[Digest]:
        """Yield the digest of every blob; see `Blobs.digests`."""
        yield from list(self._contents)

    def delete(self, digests: Iterable[Digest]) -> None:
        """Remove blobs; see `Blobs.delete`."""
        for digest in digests:
            self._contents.pop(parse_digest(digest), None)

    def _keep(self, content: bytes) -> Digest:
        digest = digest_of(content)
        self._contents.setdefault(digest, content)
        return digest


class MemoryPointers:
    """Pointers in a dict."""

    def __init__(self) -> None:
        """Begin empty."""
        self._contents: dict[str, bytes] = {}

    def publish(self, name: str, content: bytes) -> None:
        """Make `content` what `name` stands for; see `Pointers.publish`."""
        self._contents[parse_pointer_name(name)] = bytes(content)

    def current(self, name: str) -> bytes | None:
        """Return what `name` stands for; see `Pointers.current`."""
        return self._contents.get(parse_pointer_name(name))
