"""What is published for an environment, and what a node makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from modelmill.errors import BlobBroken, NameInvalid, SignatureInvalid
from modelmill.names import ModelName, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.release.pointers import Pointer, Published, find_published, open_map, publish
from modelmill.store.signing import SigningKey
from modelmill.testing.memory import MemoryBlobs, MemoryPointers
from modelmill.testing.samples import MODEL, SPEC

KEY = SigningKey(bytes(32))
HEADER = Header(model=MODEL, spec=SPEC, by=("carrier",), task="regression", code=digest_of(b""), entry=("air", MODEL))
ENTRY = Entry(("UA",), 1, "linear", "packed", digest_of(b"pack"), 64, 7, digest_of(b"artifact"))


def released(blobs: MemoryBlobs, **others: Any) -> Pointer:
    signed = sign(KEY, FleetMap.build(HEADER, [ENTRY]))
    return Pointer(**{"release": 1, "map": blobs.put([signed.content])[0], "signature": signed.signature, **others})


def test_what_was_published_is_found() -> None:
    pointers = MemoryPointers()
    published = Published("dev", 7, {MODEL: released(MemoryBlobs())})
    publish(pointers, published)
    assert find_published(pointers, "dev") == published
    assert find_published(pointers, "prod") is None


def test_a_map_is_opened_by_the_nodes_public_key() -> None:
    blobs = MemoryBlobs()
    assert list(open_map(blobs, released(blobs), KEY.public)) == [ENTRY]


def test_an_unsigned_map_is_not_opened() -> None:
    blobs = MemoryBlobs()
    other = blobs.put([FleetMap.build(HEADER, []).encode()])[0]
    for pointer in (released(blobs, signature=bytes(64)), released(blobs, map=other)):
        with pytest.raises(SignatureInvalid):
            open_map(blobs, pointer, KEY.public)


def test_a_missing_map_is_named() -> None:
    with pytest.raises(BlobBroken, match="is missing"):
        open_map(MemoryBlobs(), released(MemoryBlobs()), KEY.public)


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"environment": "dev", "revision": "x", "models": {}}'])
def test_what_cannot_be_read_is_refused(content: bytes) -> None:
    pointers = MemoryPointers()
    pointers.publish("environment-dev.json", content)
    with pytest.raises(BlobBroken, match="`dev` cannot be read"):
        find_published(pointers, "dev")


@pytest.mark.parametrize("environment", ["", "..", "../dev", "a/b", "DEV", "x" * 64])
def test_an_environment_is_named_like_a_model(environment: str) -> None:
    with pytest.raises(NameInvalid):
        find_published(MemoryPointers(), environment)
    with pytest.raises(NameInvalid):
        publish(MemoryPointers(), Published(environment, 1, {ModelName("m"): released(MemoryBlobs())}))
