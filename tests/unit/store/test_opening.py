"""Opening a store: found, made, or refused in words."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.errors import NotFound, StoreFull
from modelmill.settings import Settings
from modelmill.store.files import write_temporary
from modelmill.store.opening import Store, open_store


def test_a_store_is_made_once(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    with open_store(settings) as first, open_store(settings) as second:
        assert first.key.public == second.key.public
        assert (tmp_path / ".modelmill" / "mill.db").is_file()


def test_a_missing_store_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no store"):
        open_store(Settings(root=tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def kept_umask() -> Iterator[None]:
    """Give the process its own umask back: a shared store changes it."""
    before = os.umask(0o077)
    os.umask(before)
    yield
    os.umask(before)


@pytest.mark.usefixtures("kept_umask")
@pytest.mark.parametrize(("group", "mode"), [(False, 0o700), (True, 0o2770)])
def test_a_store_is_its_owners_or_its_groups(tmp_path: Path, group: bool, mode: int) -> None:
    with open_store(Settings(root=tmp_path, shared=group)) as store:
        assert stat.S_IMODE(store.folder.stat().st_mode) == mode
        assert stat.S_IMODE((store.folder / "keys" / "signing.key").stat().st_mode) == 0o600


def test_sweeping_leaves_what_is_on_its_way(store: Store) -> None:
    paths = [write_temporary(folder, b"") for folder in store.scratch_folders()]
    assert store.sweep() == []
    assert all(path.exists() for path in paths)


READ_ONLY = """
import os, pathlib, sys
from modelmill.errors import ModelmillError
from modelmill.names import digest_of
from modelmill.release.releasing import list_environments, republish
from modelmill.settings import Settings
from modelmill.store.opening import open_store
import alembic.command, sqlalchemy.dialects.sqlite.pysqlite
root = pathlib.Path(sys.argv[1])
key = open_store(Settings(root=root)).key
if os.getuid() == 0:
    import modelmill.store.opening as opening
    opening.SigningKey = type("Ours", (), {"create": staticmethod(lambda _: key)})
    os.setgid(65534)
    os.setuid(65534)
store = open_store(Settings(root=root))
print(store.blobs.get(digest_of(b"content")), list_environments(store.database))
for act in (lambda: store.blobs.put([b"new"]), lambda: store.pointers.publish("x", b""), lambda: republish(store, "dev")):
    try:
        act()
    except ModelmillError as error:
        print(error.code)
"""


def test_a_read_only_store_is_read_and_says_so_when_written(read_only_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, read_only_root], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["b'content' []", "MM504", "MM504", "MM504"], done.stderr
    assert done.returncode == 0


def test_a_store_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="the store cannot be") as refused:
        open_store(Settings(root=tmp_path / "file"))
    assert os.fspath(tmp_path) in refused.value.parts["where"]  # type: ignore[attr-defined]


def test_a_disk_that_is_full_from_the_start(full_disk: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(StoreFull):
        open_store(Settings(root=full_disk))
    assert not any(path.name.startswith("signing.") for path in full_disk.rglob("*"))
