"""Every backend of `Blobs` and `Pointers` does the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelmill.store.blobs import Blobs, FolderBlobs, FolderPointers, Pointers
from modelmill.testing.conformance import BLOBS_SUITE, POINTERS_SUITE
from modelmill.testing.memory import MemoryBlobs, MemoryPointers


@pytest.fixture(params=["memory", "folder"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return MemoryBlobs() if request.param == "memory" else FolderBlobs(tmp_path / "blobs")


@pytest.fixture(params=["memory", "folder"])
def pointers(request: pytest.FixtureRequest, tmp_path: Path) -> Pointers:
    return MemoryPointers() if request.param == "memory" else FolderPointers(tmp_path / "pointers")


@pytest.mark.parametrize("conforms", BLOBS_SUITE, ids=lambda check: check.__name__)
def test_blobs(conforms: Callable[[Blobs, Path], None], blobs: Blobs, tmp_path: Path) -> None:
    conforms(blobs, tmp_path)


@pytest.mark.parametrize("conforms", POINTERS_SUITE, ids=lambda check: check.__name__)
def test_pointers(conforms: Callable[[Pointers, Path], None], pointers: Pointers, tmp_path: Path) -> None:
    conforms(pointers, tmp_path)
