"""Disks that fill up and folders that nobody may write to."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as opened:
        yield opened


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Let no file grow beyond 400 kB, which the operating system reports much like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def read_only_root() -> Iterator[Path]:
    """Return a project with a store that nobody but root may write to, and that everybody may reach."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    with open_store(Settings(root=root)) as store:
        store.blobs.put([b"content"])
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield root
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(root)
