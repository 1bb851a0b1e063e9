"""The database's two doors, its migrations, and what it says when it cannot."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from modelmill.errors import ModelmillError, SettingInvalid, StoreFull, StoreTooNew, StoreUnavailable
from modelmill.names import digest_of
from modelmill.settings import Settings
from modelmill.store.database import Database
from modelmill.store.dialects import wal_is_safe
from modelmill.store.migrations import newest_revision
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now
from modelmill.testing.samples import MODEL

ENVIRONMENT = text("INSERT INTO release_environment VALUES (:name, 0, 0)")


def names(database: Database) -> list[str]:
    with database.read() as c:
        return list(c.execute(text("SELECT name FROM release_environment ORDER BY name")).scalars())


def test_a_block_that_raises_takes_everything_back(store: Store) -> None:
    with suppress(ZeroDivisionError), store.database.write() as c:
        c.execute(ENVIRONMENT, {"name": "dev"})
        raise ZeroDivisionError
    assert names(store.database) == []


def test_every_commit_waits_for_the_disk(store: Store) -> None:
    with store.database.read() as c:
        assert c.execute(text("PRAGMA synchronous")).scalar() == 2
        assert c.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert c.execute(text("PRAGMA journal_mode")).scalar() == ("wal" if wal_is_safe() else "truncate")


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((4, 0, 0), True),
    ],
)
def test_the_write_ahead_log_needs_its_fix(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


def test_writers_wait_for_one_another(store: Store) -> None:
    def write(number: int) -> None:
        with store.database.write() as c:
            count = c.execute(text("SELECT count(*) FROM release_environment")).scalar_one()
            time.sleep(0.01)
            c.execute(ENVIRONMENT, {"name": f"{count:02d}-{number}"})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [name[:2] for name in names(store.database)] == [f"{number:02d}" for number in range(8)]


def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    with store.database.write() as c:
        c.execute(ENVIRONMENT, {"name": "dev"})
        assert names(store.database) == []
    assert names(store.database) == ["dev"]


def test_a_reference_to_nothing_is_refused(store: Store) -> None:
    with pytest.raises(Exception, match="FOREIGN KEY"), store.database.write() as c:
        c.execute(text("INSERT INTO release_pointer VALUES ('nowhere', :model, 1)"), {"model": MODEL})


def test_moments_keep_their_microseconds(store: Store) -> None:
    from modelmill.data.tables import snapshots

    made = now()
    row = {"dataset": "d", "number": 1, "rows": 1, "segments": 1, "source": "", "created_at": made}
    with store.database.write() as c:
        c.execute(insert(snapshots).values(**row, digest=digest_of(b"x")))
        found = c.execute(select(snapshots.c.created_at, snapshots.c.digest)).one()
    assert found == (made, digest_of(b"x"))


REVISIONS = sorted((Path(__file__).parent / "revisions").glob("*.sql"))


@pytest.mark.parametrize("dump", REVISIONS, ids=lambda path: path.stem)
def test_a_store_of_an_earlier_revision_opens(dump: Path, tmp_path: Path) -> None:
    """Each dump was made by the release that wrote it: ``sqlite3 mill.db .dump``."""
    with sqlite3.connect(tmp_path / "mill.db") as old:
        old.executescript(dump.read_text())
    database = Database(f"sqlite:///{tmp_path / 'mill.db'}")
    database.migrate()
    assert database.revision() == newest_revision()
    assert names(database) == ["dev"]


def test_every_revision_has_its_dump() -> None:
    assert REVISIONS
    assert REVISIONS[-1].stem == newest_revision()


def test_a_store_of_a_newer_modelmill_is_refused(tmp_path: Path) -> None:
    with open_store(Settings(root=tmp_path)) as store, store.database.write() as c:
        c.execute(text("UPDATE store_revision SET version_num = '9999'"))
    with pytest.raises(StoreTooNew) as refused:
        open_store(Settings(root=tmp_path))
    assert refused.value.parts["got"] == "revision 9999"


def test_a_full_disk_takes_the_transaction_back(full_disk: Path) -> None:
    database = Database(f"sqlite:///{full_disk / 'mill.db'}")
    database.migrate()
    with pytest.raises(StoreFull), database.write() as c:
        c.execute(ENVIRONMENT, {"name": "x" * 1_000_000})
    assert names(database) == []


def test_processes_that_open_a_new_store_at_once_agree(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from modelmill.settings import Settings; from modelmill.store.opening import open_store; "
    )
    code += "print(open_store(Settings(root=pathlib.Path(sys.argv[1]))).key.public.hex())"
    started = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) for _ in range(4)]
    keys = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", SettingInvalid),
        ("oracle://host/db", SettingInvalid),
        ("mongodb://host/db", SettingInvalid),
        ("postgresql://user:secret@127.0.0.1:1/db", StoreUnavailable),
        ("sqlite:////proc/nowhere/mill.db", ModelmillError),
    ],
)
def test_a_database_that_cannot_be_reached(url: str, error: type[ModelmillError]) -> None:
    with pytest.raises(error) as refused:
        Database(url).migrate()
    assert "secret" not in " ".join(refused.value.lines())


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mill.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreUnavailable, match="damaged"):
        Database(f"sqlite:///{tmp_path / 'mill.db'}").migrate()


def test_a_database_that_only_reads(store: Store, tmp_path: Path) -> None:
    database = Database(f"sqlite:///file:{tmp_path / '.modelmill' / 'mill.db'}?mode=ro&uri=true")
    assert names(database) == []
    with pytest.raises(StoreFull, match="readonly"), database.write() as c:
        c.execute(ENVIRONMENT, {"name": "dev"})
