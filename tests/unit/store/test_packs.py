"""Packs: many small contents in one file, each verified when it is read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from modelmill.errors import BlobBroken
from modelmill.names import digest_of
from modelmill.store.packs import ALIGNMENT, PackReader, PackWriter, Place

CONTENTS = [b"one", b"", b"three" * 1000, b"x" * 64]


@pytest.fixture
def pack(tmp_path: Path) -> tuple[bytes, list[Place]]:
    with PackWriter(tmp_path) as writer:
        places = [writer.add(content) for content in CONTENTS]
    return writer.finish().read_bytes(), places


def test_every_entry_is_found_where_it_was_put(pack: tuple[bytes, list[Place]]) -> None:
    reader = PackReader(memoryview(pack[0]))
    assert [
        bytes(reader.entry(*place, digest_of(content))) for place, content in zip(pack[1], CONTENTS, strict=True)
    ] == CONTENTS


def test_entries_are_aligned(pack: tuple[bytes, list[Place]]) -> None:
    assert {place.offset % ALIGNMENT for place in pack[1]} == {0}


def test_the_same_entries_are_the_same_bytes(tmp_path: Path, pack: tuple[bytes, list[Place]]) -> None:
    with PackWriter(tmp_path) as writer:
        for content in CONTENTS:
            writer.add(content)
    assert writer.finish().read_bytes() == pack[0]


def test_a_flipped_byte_is_refused(pack: tuple[bytes, list[Place]]) -> None:
    content, (_, _, place, last) = bytearray(pack[0]), pack[1]
    content[place.offset + 17] ^= 1
    reader = PackReader(memoryview(content))
    with pytest.raises(BlobBroken, match="does not hold the bytes that were recorded"):
        reader.entry(*place, digest_of(CONTENTS[2]))
    assert bytes(reader.entry(*last, digest_of(CONTENTS[3]))) == CONTENTS[3]


@pytest.mark.parametrize(("offset", "length"), [(0, 3), (-64, 3), (64, -1), (64, 10**9), (10**9, 3), (63, 3)])
def test_a_place_outside_the_pack_is_refused(pack: tuple[bytes, list[Place]], offset: int, length: int) -> None:
    with pytest.raises(BlobBroken, match="outside its pack"):
        PackReader(memoryview(pack[0])).entry(offset, length, digest_of(b"one"))


@pytest.mark.parametrize("content", [b"", b"modelmill pack\n", b"\0" * 64, b"PK" * 100])
def test_what_is_no_pack_is_refused(content: bytes) -> None:
    with pytest.raises(BlobBroken):
        PackReader(memoryview(content))


def test_a_pack_of_another_format_is_refused(pack: tuple[bytes, list[Place]]) -> None:
    newer = bytearray(pack[0])
    newer[16] = 2
    with pytest.raises(BlobBroken, match="not a pack"):
        PackReader(memoryview(newer))


def test_an_abandoned_pack_leaves_nothing(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), PackWriter(tmp_path) as writer:
        writer.add(b"x" * 10**6)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_are_the_same_bytes(tmp_path: Path, pack: tuple[bytes, list[Place]]) -> None:
    with PackWriter(tmp_path) as writer:
        places = [writer.add(CONTENTS[0]), *writer.add_all(CONTENTS[1:3]), *writer.add_all([]), writer.add(CONTENTS[3])]
    assert (writer.finish().read_bytes(), places) == pack
