"""Rows out of a database: a connection whose address is an SQLAlchemy URL."""

from __future__ import annotations

from typing import Any

import polars as pl
from sqlalchemy import Engine, column, create_engine, inspect, select, table, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from modelmill.errors import SourceUnreadable, UsageError, did_you_mean


def is_database(address: str) -> bool:
    """Return whether an address is a URL, and no file."""
    return "://" in address


def read_database(connection: str, address: str, *, name: str = "", query: str = "") -> pl.DataFrame:
    """Return the rows of a table (``flights``, or ``schema.flights``), or of a query.

    Raises `SourceUnreadable` with what the database said; a password is never part of it.
    """
    if bool(name) == bool(query):
        raise UsageError(
            f"connection `{connection}` is a database: which rows?",
            next=f'mm.read("{connection}", table="...")   or   mm.read("{connection}", query="select ...")',
        )
    engine = _engine(connection, address)
    try:
        with engine.connect() as c:
            return pl.read_database(text(query) if query else _whole(engine, connection, name), c)
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        raise SourceUnreadable(
            f"connection `{connection}` cannot be read",
            where=_shown(engine),
            got=_without_password(said, engine)[:300],
        ) from None
    finally:
        engine.dispose()


def _engine(connection: str, address: str) -> Engine:
    try:
        return create_engine(address)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        missing = isinstance(error, ImportError)
        raise SourceUnreadable(
            f"connection `{connection}` has an address that cannot be used",
            likely=f"its driver is not installed: {error}" if missing else "",
            expected="an SQLAlchemy URL such as postgresql+psycopg://reader@host/warehouse",
            next="pip install 'modelmill[postgres]'" if missing else "",
        ) from None


def _whole(engine: Engine, connection: str, name: str) -> Any:
    schema, _, short = name.rpartition(".")
    found = inspect(engine)
    known = [*found.get_table_names(schema or None), *found.get_view_names(schema or None)]
    if short not in known:
        raise SourceUnreadable(
            f"connection `{connection}` has no table `{name}`", where=_shown(engine), likely=did_you_mean(short, known)
        )
    columns: list[Any] = [column(one["name"]) for one in found.get_columns(short, schema or None)]
    return select(*columns).select_from(table(short, schema=schema or None))


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _without_password(said: str, engine: Engine) -> str:
    password = engine.url.password
    return said.replace(str(password), "***") if password else said
