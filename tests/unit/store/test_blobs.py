"""What is particular to blobs and pointers in a folder; what all backends do is in the conformance suite."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.errors import BlobBroken, StoreFull
from modelmill.names import digest_of
from modelmill.store.blobs import FolderBlobs, FolderPointers, blobs_of, pointers_of
from modelmill.store.packs import PackReader, PackWriter


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def test_a_blob_lies_under_its_digest(blobs: FolderBlobs) -> None:
    (digest,) = blobs.put([b"content"])
    assert blobs.path_of(digest) == blobs.folder / digest[:2] / digest
    assert blobs.path_of(digest).read_bytes() == b"content"


def test_nothing_temporary_is_left(blobs: FolderBlobs) -> None:
    blobs.put([b"one", b"two", b"one"])
    assert list(blobs.scratch.iterdir()) == []


def test_a_blob_that_is_there_is_not_written_again(blobs: FolderBlobs) -> None:
    (digest,) = blobs.put([b"content"])
    before = blobs.path_of(digest).stat()
    blobs.put([b"content"])
    assert blobs.path_of(digest).stat() == before


def test_a_cut_off_blob_is_replaced(blobs: FolderBlobs) -> None:
    (digest,) = blobs.put([b"content"])
    blobs.path_of(digest).write_bytes(b"")
    blobs.put([b"content"])
    assert blobs.get(digest) == b"content"


@pytest.mark.parametrize("position", [0, 3, 6])
def test_a_flipped_byte_is_refused(blobs: FolderBlobs, position: int) -> None:
    (digest,) = blobs.put([b"content"])
    content = bytearray(b"content")
    content[position] ^= 1
    blobs.path_of(digest).write_bytes(content)
    with pytest.raises(BlobBroken, match=digest[:12]):
        blobs.get(digest)


def test_a_stranger_in_the_folder_is_no_blob(blobs: FolderBlobs) -> None:
    (digest,) = blobs.put([b"content"])
    blobs.path_of(digest).with_name("notes.txt").touch()
    (blobs.folder / "ff" / ("00" * 32)).touch()
    assert list(blobs.digests()) == [digest]


def test_an_iterator_that_raises_leaves_nothing(blobs: FolderBlobs) -> None:
    def contents() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        blobs.put(contents())
    assert list(blobs.digests()) == []
    assert list(blobs.scratch.iterdir()) == []


PUT = """
import pathlib, sys
from modelmill.store.blobs import FolderBlobs
FolderBlobs(pathlib.Path(sys.argv[1])).put(b"%d" % number for number in range(50))
"""


def test_many_processes_may_put_the_same(blobs: FolderBlobs) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", PUT, blobs.folder]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert sorted(blobs.digests()) == sorted(digest_of(b"%d" % number) for number in range(50))
    assert list(blobs.scratch.iterdir()) == []


def test_a_full_disk_leaves_no_blob(full_disk: Path) -> None:
    blobs = FolderBlobs(full_disk / "blobs")
    with pytest.raises(StoreFull):
        blobs.put([b"small", b"large" * 100_000])
    assert list(blobs.digests()) == []
    assert list(blobs.scratch.iterdir()) == []


def test_a_full_disk_leaves_no_pack(full_disk: Path) -> None:
    blobs = FolderBlobs(full_disk / "blobs")
    with pytest.raises(StoreFull), PackWriter(blobs.scratch) as pack:
        pack.add(b"x" * 1_000_000)
    assert list(blobs.scratch.iterdir()) == []


def test_a_full_disk_keeps_the_old_pointer(full_disk: Path) -> None:
    pointers = FolderPointers(full_disk / "pointers")
    pointers.publish("environment-dev.json", b"old")
    with pytest.raises(StoreFull):
        pointers.publish("environment-dev.json", b"new" * 200_000)
    assert pointers.current("environment-dev.json") == b"old"


def test_a_pack_becomes_a_blob(blobs: FolderBlobs) -> None:
    with PackWriter(blobs.scratch) as pack:
        place = pack.add(b"an artifact")
    digest = blobs.put_file(pack.finish())
    assert bytes(PackReader(blobs.open(digest)).entry(*place, digest_of(b"an artifact"))) == b"an artifact"


def test_a_store_has_its_folders(tmp_path: Path) -> None:
    assert blobs_of(tmp_path).folder == tmp_path / "blobs"
    assert pointers_of(tmp_path).folder == tmp_path / "pointers"
