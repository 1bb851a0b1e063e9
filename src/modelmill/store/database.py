"""Rows: one way to read them, one way to write them, whatever database keeps them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, column, select, table
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from modelmill.errors import StoreTooNew
from modelmill.store.dialects import begin_writing, lock_schema, make_engine, translated
from modelmill.store.files import told
from modelmill.store.migrations import VERSION_TABLE, newest_revision, upgrade


class Database:
    """A database with two doors, `read` and `write`; the driver's errors become ours in them and nowhere else."""

    def __init__(self, url: str) -> None:
        """Take an SQLAlchemy URL; nothing is connected yet."""
        self.engine = make_engine(url)
        self.place = self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection for reading; each statement sees what was committed before it."""
        with self._translating(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction: durable when the block ends, taken back whole when it raises."""
        with self._translating(), self.engine.connect() as connection, connection.begin():
            begin_writing(connection)
            yield connection

    def migrate(self) -> None:
        """Bring the tables to this release's state; costs one query where they are."""
        if self._is_current(self.revision()):
            return
        self._make_folder()
        with self.write() as connection:
            # Of several processes that find an old store, one changes it; the others then have nothing to do.
            lock_schema(connection)
            upgrade(connection)

    @property
    def is_missing_file(self) -> bool:
        """Whether it is a file that is not there: SQLite would make an empty one, in which nothing was ever released."""
        is_file = self.engine.dialect.name == "sqlite" and self.engine.url.database not in (None, "", ":memory:")
        return is_file and not Path(self.engine.url.database or "").exists()

    def revision(self) -> str | None:
        """Return the state of the tables, None when there are none yet."""
        with self._translating():
            try:
                with self.engine.connect() as connection:
                    return _revision(connection)
            except (OperationalError, ProgrammingError):
                # The table is missing, or the database is: the next statement tells which, in our words.
                return None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _is_current(self, revision: str | None) -> bool:
        newest = newest_revision()
        if revision is not None and revision > newest:
            raise StoreTooNew(
                "the store was written by a newer modelmill",
                where=self.place,
                expected=f"revision {newest} or older",
                got=f"revision {revision}",
                next="pip install --upgrade modelmill",
                safe="nothing was changed",
            )
        return revision == newest

    def _make_folder(self) -> None:
        if self.engine.dialect.name == "sqlite" and self.engine.url.database:
            folder = Path(self.engine.url.database).parent
            with told(folder):
                folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            ours = translated(error, self.place)
            if ours is None:
                raise
            raise ours from error


def _revision(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalar()
    return found
