"""Sheets of .xlsx books, as files, connections and imports."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

import modelmill as mm
from modelmill.data.contract import check
from modelmill.data.sources import read_table, reading
from modelmill.errors import ColumnTypeChanged, ConnectionUnknown, SourceUnreadable
from modelmill.settings import load_settings

ROWS = pl.DataFrame(
    {
        "store": ["s1", "s2"],
        "at": [datetime(2026, 1, 1), datetime(2026, 1, 2)],  # noqa: DTZ001
        "price": [1.5, None],
        "code": ["007", "8"],
    }
)


class Row(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    price: float = mm.target()


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Return a project with a book of two sheets."""
    from xlsxwriter import Workbook  # type: ignore[import-untyped]

    with Workbook(str(tmp_path / "book.xlsx")) as sheets:
        ROWS.write_excel(sheets, worksheet="prices")
        pl.DataFrame({"note": ["x"]}).write_excel(sheets, worksheet="notes")
    (tmp_path / "modelmill.toml").write_text(
        '[connections.book]\ndev = "book.xlsx"\n[connections.db]\ndev = "sqlite:///${FOLDER_OF_ROWS}/rows.db"\n'
    )
    return tmp_path


def test_a_sheet_is_a_table(book: Path) -> None:
    found = read_table(book / "book.xlsx", sheet="prices")
    assert found["price"].to_list() == [1.5, None]
    assert found["at"].to_list() == [moment.date() for moment in ROWS["at"]]  # the cells show no time
    with reading(load_settings(book), "dev"):
        assert mm.read("book", table="prices").rows() == found.rows()


@pytest.mark.parametrize(("sheet", "said"), [("", "has several sheets"), ("price", "has no sheet `price`")])
def test_which_sheet(book: Path, sheet: str, said: str) -> None:
    with pytest.raises(SourceUnreadable, match=said) as refused:
        read_table(book / "book.xlsx", sheet=sheet)
    assert "prices" in refused.value.parts["got"]


def test_a_damaged_book(book: Path) -> None:
    (book / "book.xlsx").write_bytes(b"PK no book")
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        read_table(book / "book.xlsx")


def test_a_column_that_became_text_blocks(book: Path) -> None:
    from xlsxwriter import Workbook

    with Workbook(str(book / "book.xlsx")) as sheets:
        ROWS.with_columns(price=pl.Series(["1.5 EUR", "2"])).write_excel(sheets, worksheet="prices")
    with pytest.raises(ColumnTypeChanged) as refused:
        check(mm.Model("m", Row).spec, read_table(book / "book.xlsx"), "book.xlsx")
    assert "1.5 EUR" in refused.value.parts["got"]


def test_a_query_is_for_a_database(book: Path) -> None:
    with reading(load_settings(book), "dev"), pytest.raises(SourceUnreadable, match="takes no query"):
        mm.read("book", query="select 1")


def test_an_address_takes_its_secrets_from_the_environment(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(book)
    with reading(settings, "dev"), pytest.raises(ConnectionUnknown, match="FOLDER_OF_ROWS"):
        mm.read("db", table="rows")
    monkeypatch.setenv("FOLDER_OF_ROWS", str(book))
    from sqlalchemy import create_engine, text

    with create_engine(f"sqlite:///{book}/rows.db").begin() as c:
        c.execute(text("create table rows (y integer)"))
        c.execute(text("insert into rows values (7)"))
    with reading(settings, "dev"):
        assert mm.read("db", table="rows")["y"].to_list() == [7]
