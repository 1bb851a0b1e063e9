"""Where rows come from: files, data frames, and the connections that `modelmill.toml` declares."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmill.errors import DataError, NoRows, SourceUnreadable, did_you_mean
from modelmill.model.declaration import Window
from modelmill.settings import Settings, find_project, load_settings

if TYPE_CHECKING:
    import polars as pl

_ENDINGS = (".parquet", ".csv", ".csv.gz", ".csv.zip")
_NULLS = ["", "NA", "null", "NULL"]
_active: ContextVar[tuple[Settings, str] | None] = ContextVar("modelmill_project", default=None)


@contextmanager
def reading(settings: Settings, environment: str) -> Iterator[None]:
    """Make `read` resolve connections in this project and environment."""
    token = _active.set((settings, environment))
    try:
        yield
    finally:
        _active.reset(token)


def read(connection: str, *, between: Window | None = None, time: str = "") -> pl.DataFrame:
    """Return the rows behind a connection of `modelmill.toml`, as a polars data frame.

    `between` keeps the rows of a window, by the column `time` or else the only datetime column. Outside a command the
    project is the nearest folder with a `modelmill.toml`, in environment `dev`. Raises `ConnectionUnknown`,
    `SourceUnreadable`.
    """
    settings, environment = _active.get() or (load_settings(find_project(Path.cwd())), "dev")
    frame = read_table(settings.root / settings.address(connection, environment))
    return frame if between is None else _within(frame, between, time)


def _within(frame: pl.DataFrame, window: Window, time: str) -> pl.DataFrame:
    import polars as pl

    if window.start is None and window.end is None:
        return frame
    column = pl.col(time or _only_time(frame))
    if window.start is not None:
        frame = frame.filter(column >= window.start)
    return frame if window.end is None else frame.filter(column < window.end)


def _only_time(frame: pl.DataFrame) -> str:
    found = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    if len(found) != 1:
        raise DataError("which column is the window about?", got=", ".join(found) or "no datetime column", next="time=")
    return found[0]


def read_table(source: Path | Any) -> pl.DataFrame:
    """Return a table from a Parquet or CSV file (also gzipped or zipped), or from a polars or pandas data frame."""
    if isinstance(source, Path):
        return _read_file(source)
    import polars as pl

    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    if type(source).__module__.split(".")[0] in ("pandas", "pyarrow"):
        return pl.DataFrame(source)
    raise SourceUnreadable(
        f"rows came as a `{type(source).__name__}`", expected="a polars or pandas data frame, or a path"
    )


def describe(source: Path | Any) -> str:
    """Return what a person would call this source."""
    return str(source) if isinstance(source, Path) else f"{type(source).__module__.split('.')[0]} data frame"


def _read_file(path: Path) -> pl.DataFrame:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise SourceUnreadable(f"there is no file `{path.name}`", where=str(path), likely=did_you_mean(path.name, near))
    if path.stat().st_size == 0:
        raise NoRows(f"`{path.name}` is empty", where=str(path))
    if not path.name.endswith(_ENDINGS):
        raise SourceUnreadable(f"`{path.name}` is no known kind of file", where=str(path), expected=", ".join(_ENDINGS))
    try:
        return _read_parquet(path) if path.name.endswith(".parquet") else _read_csv(_csv_bytes(path))
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
    import polars as pl

    return pl.read_parquet(path)


def _read_csv(content: bytes) -> pl.DataFrame:
    import polars as pl

    content.decode("utf-8")
    # Types are inferred from all rows: a text in row 300,000 makes the column text, and the contract names that row.
    return pl.read_csv(content, infer_schema_length=None, null_values=_NULLS, try_parse_dates=True)


def _csv_bytes(path: Path) -> bytes:
    if path.name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    if not path.name.endswith(".zip"):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".csv")]
        if len(members) != 1:
            raise SourceUnreadable(f"`{path.name}` holds {len(members)} csv files", expected="exactly one")
        return archive.read(members[0])


def _not_utf8(path: Path, error: UnicodeDecodeError) -> SourceUnreadable:
    line = error.object[: error.start].count(b"\n") + 1
    return SourceUnreadable(
        f"`{path.name}` is not UTF-8: byte {error.object[error.start]:#04x} in line {line}",
        where=str(path),
        likely="it was saved as Latin-1 or Windows-1252",
        next=f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}",
    )
