"""Sources: files that cannot be read say why, in the words of the person who has to mend them."""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

import modelmill as mm
from modelmill.data.sources import _within, read_table, reading
from modelmill.errors import NoRows, SourceUnreadable
from modelmill.settings import load_settings

TEXT = "store,y\na,1\nb,2\n"


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.csv", TEXT)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("r.csv", lambda path: path.write_text(TEXT)),
        ("r.csv.gz", lambda path: path.write_bytes(gzip.compress(TEXT.encode()))),
        ("r.csv.zip", zipped),
        ("r.parquet", lambda path: pl.DataFrame({"store": ["a", "b"], "y": [1, 2]}).write_parquet(path)),
    ],
)
def test_every_kind_of_file(tmp_path: Path, name: str, write: object) -> None:
    write(tmp_path / name)  # type: ignore[operator]
    assert read_table(tmp_path / name)["y"].to_list() == [1, 2]


def test_frames_of_both_libraries() -> None:
    for frame in (pl.DataFrame({"y": [1, 2]}), pl.LazyFrame({"y": [1, 2]}), pd.DataFrame({"y": [1, 2]})):
        assert read_table(frame)["y"].to_list() == [1, 2]


def test_a_late_text_makes_the_column_text(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("y\n" + "1\n" * 20_000 + "soon\n")
    assert read_table(tmp_path / "r.csv")["y"].dtype == pl.String


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2", ""], [1, 2, None]),
        (["1", "2.5", "NaN"], [1.0, 2.5, None]),
        (["007", "8"], ["007", "8"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["TRUE", "false"], [True, False]),
        (["2026-01-02", "2026-01-03"], [date(2026, 1, 2), date(2026, 1, 3)]),
        (["2026-01-02T03:04Z", "2026-01-03"], [datetime(2026, 1, 2, 3, 4), datetime(2026, 1, 3)]),  # noqa: DTZ001
        (["01/02/2026", "03/04/2026"], ["01/02/2026", "03/04/2026"]),
        (["", ""], [None, None]),
    ],
)
def test_csv_columns_get_the_type_that_all_their_cells_have(
    tmp_path: Path, cells: list[str], expected: list[object]
) -> None:
    (tmp_path / "r.csv").write_text("n,c\n" + "".join(f"0,{cell}\n" for cell in cells))
    assert read_table(tmp_path / "r.csv")["c"].to_list() == expected


def test_a_declared_text_stays_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("store,y\n1.10,1\n1.1,2\n")
    assert read_table(tmp_path / "r.csv", ("store",)).rows() == [("1.10", 1), ("1.1", 2)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_usual_separator(tmp_path: Path, separator: str) -> None:
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbf" + TEXT.replace(",", separator).encode())
    assert read_table(tmp_path / "r.csv").rows() == [("a", 1), ("b", 2)]


def test_a_zip_made_on_a_mac(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.csv.zip", "w") as archive:
        archive.writestr("rows.csv", TEXT)
        archive.writestr("__MACOSX/._rows.csv", b"\x00\x05\x16\x07")
    assert read_table(tmp_path / "r.csv.zip").columns == ["store", "y"]


def test_objects_of_several_types_arrive_as_text() -> None:
    found = read_table(pd.DataFrame({"y": [1, "soon", None, float("nan")], "z": [1.0, 2.0, 3.0, 4.0]}))
    assert found["y"].to_list() == ["1", "soon", None, None]
    assert found["z"].dtype == pl.Float64


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(SourceUnreadable, match="two columns of one name"):
        read_table(pd.DataFrame([[1, 2]], columns=["y", "y"]))


def test_a_window_reads_zones_and_text() -> None:
    window = mm.Window(end=datetime(2026, 1, 1, 1, tzinfo=UTC))
    frame = pl.DataFrame({"at": ["2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z", None]})
    for moments in (frame, frame.with_columns(pl.col("at").str.to_datetime(time_zone="Europe/Paris"))):
        assert len(_within(moments, window, "at")) == 1


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("r.csv", b"", NoRows, "is empty"),
        ("r.csv", "y\nM\u00fcnchen\n".encode("latin-1"), SourceUnreadable, "not UTF-8.*line 2"),
        ("r.csv", "store,y\na,1\n".encode("utf-16"), SourceUnreadable, "not UTF-8"),
        ("r.csv", b"store,y\na,1,2,3\n", SourceUnreadable, "cannot be read"),
        ("r.csv.gz", gzip.compress(TEXT.encode(), mtime=0)[:-9], SourceUnreadable, "cannot be read"),
        ("r.parquet", b"PAR1 not really", SourceUnreadable, "cannot be read"),
        ("r.xls", b"x", SourceUnreadable, "no known kind of file"),
        ("r.csv.zip", b"not a zip", SourceUnreadable, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=said):
        read_table(tmp_path / name)


def test_a_missing_file_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "flights.csv").write_text(TEXT)
    with pytest.raises(SourceUnreadable) as caught:
        read_table(tmp_path / "flihgts.csv")
    assert caught.value.parts["likely"] == "did you mean `flights.csv`?"


def test_something_else_is_refused() -> None:
    with pytest.raises(SourceUnreadable, match="`int`"):
        read_table(3)


def test_read_follows_the_connection_and_keeps_the_window(tmp_path: Path) -> None:
    (tmp_path / "modelmill.toml").write_text('[connections.rows]\ndev = "r.csv"')
    (tmp_path / "r.csv").write_text("at,y\n2026-01-01T00:00:00,1\n2026-02-01T00:00:00,2\n")
    with reading(load_settings(tmp_path, {}), "dev"):
        assert len(mm.read("rows")) == 2
        kept = mm.read("rows", between=mm.Window(start=datetime(2026, 1, 15)))  # noqa: DTZ001
        assert kept["y"].to_list() == [2]


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "modelmill.toml").write_text(
        '[connections.warehouse]\ndev = "tables"\n[connections.rows]\ndev = "r.csv"'
    )
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "stores.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "r.csv").write_text(TEXT)
    with reading(load_settings(tmp_path, {}), "dev", ["store"]):
        yield tmp_path


def test_a_folder_is_a_connection_with_tables(warehouse: Path) -> None:
    assert mm.read("warehouse", table="stores").rows() == [("a", 1), ("b", 2)]
    assert mm.read("rows", table="r").rows() == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("connection", "table", "said", "following"),
    [
        ("warehouse", "storse", "has no table `storse`", 'mm.read("warehouse", table="stores")'),
        ("warehouse", "../r", "has no table `../r`", 'mm.read("warehouse", table="stores")'),
        ("warehouse", "", "is a folder", 'mm.read("warehouse", table="stores")'),
        ("rows", "stores", "has no table `stores`", 'mm.read("rows")'),
    ],
)
def test_a_table_that_is_not_there(warehouse: Path, connection: str, table: str, said: str, following: str) -> None:
    with pytest.raises(SourceUnreadable, match=re.escape(said)) as refused:
        mm.read(connection, table=table)
    assert refused.value.parts["next"] == following
    assert str(warehouse) in refused.value.parts["where"]
