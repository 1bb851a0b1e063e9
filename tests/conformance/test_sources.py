"""Rows out of databases, of both kinds: the same rows, the same refusals, never a password."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest
from sqlalchemy import create_engine, text

from modelmill.data.databases import is_database, read_database
from modelmill.errors import SourceUnreadable, UsageError
from modelmill.store.opening import Store


@pytest.fixture
def address(store: Store) -> str:
    """Return the URL of a database with a table and a view of flights."""
    url = store.database.engine.url.render_as_string(hide_password=False)
    engine = create_engine(url)
    with engine.begin() as c:
        c.execute(text("create table flights (carrier text, delay double precision, at timestamp, seats integer)"))
        rows = [{"c": f"c{i % 3}", "d": i / 4 if i else None, "t": datetime(2026, 1, 1, i), "s": i} for i in range(6)]  # noqa: DTZ001
        c.execute(text("insert into flights values (:c, :d, :t, :s)"), rows)
        c.execute(text("create view late as select * from flights where seats > 3"))
    engine.dispose()
    return url


def test_a_table_a_view_and_a_query(address: str) -> None:
    rows = read_database("w", address, name="flights")
    assert rows.columns == ["carrier", "delay", "at", "seats"]
    assert rows["delay"].to_list() == [None, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert rows["seats"].dtype == pl.Int64
    assert read_database("w", address, name="late")["seats"].to_list() == [4, 5]
    assert read_database("w", address, query="select count(*) as n from flights")["n"].to_list() == [6]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "flihgts"}, "has no table `flihgts`"),
        ({"query": "select nothing from nowhere"}, "cannot be read"),
        ({"query": "selec 1"}, "cannot be read"),
    ],
)
def test_what_cannot_be_read(address: str, asked: dict[str, str], said: str) -> None:
    with pytest.raises(SourceUnreadable, match=said) as refused:
        read_database("w", address, **asked)
    assert refused.value.parts.keys() & {"likely", "got"}


@pytest.mark.parametrize("asked", [{}, {"name": "flights", "query": "select 1"}])
def test_either_a_table_or_a_query(address: str, asked: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="which rows"):
        read_database("w", address, **asked)


def test_a_password_is_never_told() -> None:
    with pytest.raises(SourceUnreadable) as refused:
        read_database("w", "postgresql+psycopg://reader:geheim@127.0.0.1:9/none?connect_timeout=2", name="flights")
    assert "geheim" not in str(refused.value.parts) + str(refused.value)
    assert "reader:***@127.0.0.1:9" in refused.value.parts["where"]


@pytest.mark.parametrize("address", ["nonsense://x", "oracle+nothing://x/y"])
def test_an_address_that_is_none(address: str) -> None:
    assert is_database(address)
    with pytest.raises(SourceUnreadable, match="cannot be used"):
        read_database("w", address, name="flights")
