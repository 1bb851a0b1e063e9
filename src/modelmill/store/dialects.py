"""What SQLite and PostgreSQL do differently. Everything else of the platform's SQL is the same for both.

SQLite: one writing transaction at a time (BEGIN IMMEDIATE) and `synchronous=FULL`. A write-ahead log is used only where
the linked library has the fix of 2026 for losing commits when the log is reset (3.51.3, 3.50.7, 3.44.6).
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.sql.schema import Table

from modelmill.errors import ExtraMissing, ModelmillError, SettingInvalid, StoreFull, StoreLocked, StoreUnavailable

_BUSY_S = 30
_CONNECT_S = 5
_CACHE_KB = 65536
_SCHEMA_LOCK = 6873646
"""Any number that no other user of the same PostgreSQL server takes for an advisory lock."""

_UNWRITABLE = ("database or disk is full", "readonly", "read-only", "disk i/o error", "no space left")
_SAFE = "the transaction was taken back whole: nothing half-written is visible"


def make_engine(url: str) -> Engine:
    """Return an engine for one of the databases that are supported; nothing is connected yet."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(parsed.render_as_string(hide_password=False))
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_S}}
            return create_engine(parsed, json_serializer=_json, json_deserializer=msgspec.json.decode, **options)
    except (ArgumentError, NoSuchModuleError) as error:
        raise SettingInvalid("the database's address cannot be read", got=str(error).split("\n")[0]) from error
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"the database needs the package `{error.name}`", next="pip install 'modelmill[postgres]'"
        ) from error
    raise SettingInvalid("the database is of an unknown kind", expected="`sqlite:///...` or `postgresql://...`")


def begin_writing(connection: Connection) -> None:
    """Begin a transaction that writes; with SQLite, wait here for the one that writes now."""
    if connection.dialect.name == "sqlite":
        # Straight to the driver: SQLAlchemy thinks that it has begun, and SQLite would begin for reading.
        driver: Any = connection.connection.dbapi_connection
        driver.execute("BEGIN IMMEDIATE")


def upsert(connection: Connection, table: Table) -> Any:
    """Return an INSERT into `table` that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def lock_schema(connection: Connection) -> None:
    """Let one process at a time change the tables; SQLite's writing transaction is that lock already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SCHEMA_LOCK})


def wal_is_safe(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Return whether this SQLite keeps all commits when it resets its write-ahead log."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def translated(error: DBAPIError | sqlite3.Error, place: str) -> ModelmillError | None:
    """Return what an error of the database's driver is called here, None when it is not about the store's health."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = " ".join(str(cause).split())[:300]
    if any(words in said.lower() for words in _UNWRITABLE):
        return StoreFull(f"the store cannot be written: {said}", where=place, next="modelmill doctor", safe=_SAFE)
    if "database is locked" in said:
        return StoreLocked(f"another process has been writing for {_BUSY_S} s", where=place, safe=_SAFE)
    if "not a database" in said or "malformed" in said:
        return StoreUnavailable(f"the database file is damaged: {said}", where=place, next="modelmill fsck")
    if isinstance(error, OperationalError | InterfaceError | sqlite3.OperationalError):
        return StoreUnavailable(f"the database cannot be reached: {said}", where=place, next="modelmill doctor")
    return None


def _json(value: Any) -> str:
    """Encode a value; a number that is not finite becomes null, for JSON has no word for it."""
    return msgspec.json.encode(value).decode()


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        json_serializer=_json,
        json_deserializer=msgspec.json.decode,
        connect_args={"timeout": _BUSY_S},
    )
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Python's own handling of transactions begins them late and for reading; `begin_writing` begins them instead.
    connection.isolation_level = None
    # TRUNCATE, not DELETE: after a power cut a deleted journal may be back, and would take the last commit back with it.
    journal = "WAL" if wal_is_safe() else "TRUNCATE"
    for pragma in ("synchronous=FULL", "foreign_keys=ON", f"cache_size=-{_CACHE_KB}", f"journal_mode={journal}"):
        connection.execute(f"PRAGMA {pragma}")
