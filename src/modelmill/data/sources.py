"""Where rows come from: files, data frames, and the connections that `modelmill.toml` declares."""

from __future__ import annotations

import codecs
import gzip
import shlex
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from modelmill.data.casting import as_moments, as_truths
from modelmill.data.databases import is_database, read_database
from modelmill.errors import DataError, NoRows, SourceUnreadable, did_you_mean
from modelmill.model.declaration import Window
from modelmill.settings import Settings, find_project, load_settings

_BOOK = ".xlsx"
_ENDINGS = (".parquet", ".csv", ".csv.gz", ".csv.zip", _BOOK)
_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]
_IDENTIFIER = r"^[+-]?0\d|^[+-]?\d{19}"
"""Digits that a number would not give back: a leading zero, or more than 64 bits hold."""
_GLANCE = 100


class _Reading(NamedTuple):
    """For whom rows are read."""

    settings: Settings
    environment: str
    texts: frozenset[str] = frozenset()
    """The columns that hold text, whatever their values look like."""


_active: ContextVar[_Reading | None] = ContextVar("modelmill_project", default=None)


@contextmanager
def reading(settings: Settings, environment: str, texts: Iterable[str] = ()) -> Iterator[None]:
    """Make `read` resolve connections in this project and environment; `texts` are columns that hold text."""
    token = _active.set(_Reading(settings, environment, frozenset(texts)))
    try:
        yield
    finally:
        _active.reset(token)


def read(
    connection: str, *, table: str = "", query: str = "", between: Window | None = None, time: str = ""
) -> pl.DataFrame:
    """Return the rows behind a connection of `modelmill.toml`, as a polars data frame.

    `table` names one of the files where the connection is a folder, a table where it is a database, a sheet where it is an
    .xlsx book; `query` is SQL for a database. `between` keeps the rows of a window, by the column
    `time` or else the only datetime column. Outside a command the project is the nearest folder with a `modelmill.toml`,
    in environment `dev`. Raises `ConnectionUnknown`, `SourceUnreadable`.
    """
    project = _active.get() or _Reading(load_settings(find_project(Path.cwd())), "dev")
    address = project.settings.address(connection, project.environment)
    frame = read_address(connection, address, project.settings.root, project.texts, table=table, query=query)
    return frame if between is None else _within(frame, between, time)


def read_address(
    connection: str, address: str, root: Path, texts: Collection[str] = (), *, table: str = "", query: str = ""
) -> pl.DataFrame:
    """Return the rows behind an address: of a database by `table` or `query`, of a book by its sheet, or of a file."""
    if is_database(address):
        return read_database(connection, address, name=table, query=query)
    if query:
        raise SourceUnreadable(
            f"connection `{connection}` is no database, and takes no query", where=address, next="leave `query` out"
        )
    path = root / address
    if path.name.endswith(_BOOK):
        return read_table(path, texts, sheet=table)
    if table or path.is_dir():
        path = _table_of(path, connection, table)
    return read_table(path, texts)


def _table_of(folder: Path, connection: str, table: str) -> Path:
    """Return the file of a table in a folder; a connection that is a file is the table of its own name."""
    if folder.is_file() and folder.name.partition(".")[0] == table:
        return folder
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    tables = {file.name.partition(".")[0]: file for file in files if file.name.endswith(_ENDINGS)}
    if table in tables:
        return tables[table]
    known = next(iter(tables), "flights")
    raise SourceUnreadable(
        f"connection `{connection}` has no table `{table}`" if table else f"connection `{connection}` is a folder",
        where=str(folder),
        likely=did_you_mean(table, tables) if table and tables else "",
        got=", ".join(tables) if tables else "" if folder.is_dir() else f"the file `{folder.name}`",
        next=f'mm.read("{connection}", table="{known}")' if folder.is_dir() else f'mm.read("{connection}")',
    )


def _within(frame: pl.DataFrame, window: Window, time: str) -> pl.DataFrame:
    if window.start is None and window.end is None:
        return frame
    moments = as_moments(frame[time or _only_time(frame)])
    inside = moments.is_not_null()
    if window.start is not None:
        inside &= moments >= _plain(window.start)
    if window.end is not None:
        inside &= moments < _plain(window.end)
    return frame.filter(inside)


def _plain(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _only_time(frame: pl.DataFrame) -> str:
    found = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    if len(found) != 1:
        raise DataError("which column is the window about?", got=", ".join(found) or "no datetime column", next="time=")
    return found[0]


def read_table(source: Path | Any, texts: Collection[str] = (), *, sheet: str = "") -> pl.DataFrame:
    """Return a table from a Parquet or CSV file (also gzipped or zipped), or from a polars or pandas data frame.

    `texts` are columns that hold text: those of a CSV file stay as they are written, so that `1.10` is not `1.1`.
    """
    if isinstance(source, Path):
        return _read_file(source, texts, sheet)
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    library = type(source).__module__.split(".")[0]
    if library == "pandas" and source.ndim == 2:
        return _from_pandas(source)
    if library == "pyarrow":
        return pl.DataFrame(source)
    raise SourceUnreadable(
        f"rows came as a `{type(source).__name__}`", expected="a polars or pandas data frame, or a path"
    )


def describe(source: Path | Any) -> str:
    """Return what a person would call this source."""
    return str(source) if isinstance(source, Path) else f"{type(source).__module__.split('.')[0]} data frame"


def _read_file(path: Path, declared: Collection[str], sheet: str) -> pl.DataFrame:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise SourceUnreadable(f"there is no file `{path.name}`", where=str(path), likely=did_you_mean(path.name, near))
    if path.stat().st_size == 0:
        raise NoRows(f"`{path.name}` is empty", where=str(path))
    if not path.name.endswith(_ENDINGS):
        raise SourceUnreadable(f"`{path.name}` is no known kind of file", where=str(path), expected=", ".join(_ENDINGS))
    try:
        if path.name.endswith(_BOOK):
            return _read_sheet(path, sheet)
        return _read_parquet(path) if path.name.endswith(".parquet") else _read_csv(_csv_bytes(path), declared)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SourceUnreadable(f"`{path.name}` cannot be read: {error}", where=str(path)) from error
    except DataError:
        raise
    except Exception as error:
        said = str(error).split("\n")[0][:200]
        raise SourceUnreadable(f"`{path.name}` cannot be read: {said}", where=str(path)) from error


def _read_parquet(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path)


def _read_sheet(path: Path, sheet: str) -> pl.DataFrame:
    """Return a sheet of a book, the only one where none is named; an empty cell is null, an empty row none."""
    try:
        from fastexcel import read_excel
    except ImportError as error:
        raise SourceUnreadable(
            f"`{path.name}` is a book of sheets",
            likely="what reads it is not installed",
            next="pip install 'modelmill[excel]'",
        ) from error
    names = read_excel(path).sheet_names
    if sheet not in names and (sheet or len(names) > 1):
        raise SourceUnreadable(
            f"`{path.name}` has no sheet `{sheet}`" if sheet else f"`{path.name}` has several sheets",
            where=str(path),
            got=", ".join(names)[:300],
            likely=did_you_mean(sheet, names) if sheet else "",
            next=f'table="{names[0]}"',
        )
    return pl.read_excel(path, sheet_name=sheet or names[0], drop_empty_cols=False)


def _from_pandas(frame: Any) -> pl.DataFrame:
    names = [str(name) for name in frame.columns]
    if len(set(names)) != len(names):
        raise SourceUnreadable("the data frame has two columns of one name", got=", ".join(names)[:300])
    return pl.DataFrame([_from_objects(name, frame.iloc[:, place]) for place, name in enumerate(names)])


def _from_objects(name: str, values: Any) -> pl.Series:
    try:
        return pl.Series(pl.from_pandas(values)).alias(name)
    except (pa.ArrowException, TypeError, ValueError, pl.exceptions.PolarsError):
        # Objects of several types: as text, so that the contract can say which of them does not fit.
        texts = [None if value is None or value != value else str(value) for value in values]  # noqa: PLR0124 - NaN
        return pl.Series(name, texts, dtype=pl.String)


def _read_csv(content: bytes, declared: Collection[str]) -> pl.DataFrame:
    content.decode("utf-8")
    texts = pl.read_csv(content, separator=_separator(content), infer_schema=False, null_values=_NULLS)
    return texts.select([column if column.name in declared else _typed(column) for column in texts])


def _separator(content: bytes) -> str:
    header = content.split(b"\n", 1)[0].decode()
    return "," if "," in header else max(",;\t", key=header.count)


def _typed(texts: pl.Series) -> pl.Series:
    """Return a column of a CSV file with the type that all its values have, else as the text it is.

    The reader's own guesses cost seconds, lose leading zeros, and take 01/02/2013 for the first of February.
    """
    present = texts.drop_nulls()
    if present.is_empty():
        return texts
    for guess in (_numbers, as_truths, _iso):
        if guess(present.head(_GLANCE)).null_count() == 0:
            found = guess(texts)
            if found.null_count() == texts.null_count():
                return found
    return texts


def _numbers(texts: pl.Series) -> pl.Series:
    numbers = texts.cast(pl.Int64, strict=False)
    if numbers.null_count() > texts.null_count():
        numbers = texts.cast(pl.Float64, strict=False)
    identifiers = texts.str.contains(_IDENTIFIER).any()
    return texts.clear(len(texts)) if identifiers else numbers


def _iso(texts: pl.Series) -> pl.Series:
    if not texts.str.contains(r"^\d{4}-\d\d-\d\d").all():
        return texts.clear(len(texts))
    days = texts.str.to_date("%Y-%m-%d", strict=False, exact=True)
    return days if days.null_count() == texts.null_count() else as_moments(texts)


def _csv_bytes(path: Path) -> bytes:
    if path.name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    if not path.name.endswith(".zip"):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX/")]
        if len(members) != 1:
            raise SourceUnreadable(f"`{path.name}` holds {len(members)} csv files", expected="exactly one")
        return archive.read(members[0])


def _not_utf8(path: Path, error: UnicodeDecodeError) -> SourceUnreadable:
    line = error.object[: error.start].count(b"\n") + 1
    encoding = "UTF-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "WINDOWS-1252"
    return SourceUnreadable(
        f"`{path.name}` is not UTF-8: byte {error.object[error.start]:#04x} in line {line}",
        where=str(path),
        likely="it was saved as UTF-16" if encoding == "UTF-16" else "it was saved as Latin-1 or Windows-1252",
        next=f"iconv -f {encoding} -t UTF-8 {shlex.quote(path.name)} > {shlex.quote('utf8-' + path.name)}",
    )
