"""Requests as MLflow's scoring servers take them: as CSV, or as JSON in one of four forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import BodyUnreadable
from modelmill.model.columns import Column
from modelmill.model.decoding import MOST_ROWS
from modelmill.model.values import value_of_text

Row = dict[str, Any]
_MOST_CELLS = 10_000


def rows_of(body: Any) -> list[Row]:
    """Return the rows of a request, each an object of named fields; raises `BodyUnreadable`."""
    given = [name for name in _FORMS if isinstance(body, dict) and name in body]
    if len(given) != 1:
        raise BodyUnreadable("a request has one of " + ", ".join(f"`{name}`" for name in _FORMS))
    rows = _FORMS[given[0]](body[given[0]])
    if not all(isinstance(row, dict) for row in rows):
        raise BodyUnreadable(f"`{given[0]}` is a list of objects with named fields")
    return rows


def rows_of_csv(body: bytes, columns: Mapping[str, Column]) -> list[Row]:
    """Return the rows of a CSV body, whose first line names the fields; empty cells are left out.

    Raises `BodyUnreadable`, or `FieldInvalid` for a cell that is none of its column's type.
    """
    text = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
    try:
        lines = list(islice(csv.reader(map(_narrow, text), strict=True), MOST_ROWS + 2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BodyUnreadable("the body is not valid CSV", got=str(error)[:200]) from None
    names, *rows = lines or [[]]
    check_count(len(rows))
    if any(len(row) != len(names) for row in rows) or len(set(names)) < len(names):
        raise BodyUnreadable("a CSV body has a line of different names, then as many cells in each line")
    cells = [[(name, text) for name, text in zip(names, row, strict=True) if text] for row in rows]
    return [{n: value_of_text(columns[n], text) if n in columns else text for n, text in row} for row in cells]


def check_count(rows: int) -> None:
    """Raise `BodyUnreadable` where a request has no rows, or too many."""
    if not 0 < rows <= MOST_ROWS:
        raise BodyUnreadable(f"a request has 1 to {MOST_ROWS} rows", got=str(rows))


def _narrow(line: str) -> str:
    """Return a line of no more cells than a table has columns."""
    if line.count(",") > _MOST_CELLS:
        raise BodyUnreadable(f"a line of CSV has at most {_MOST_CELLS} cells")
    return line


def _split(given: Any) -> list[Row]:
    asked: dict[str, Any] = given if isinstance(given, dict) else {}
    columns, data = asked.get("columns", []), asked.get("data", 0)
    if not _is_list(columns, str) or not _is_list(data, list) or any(len(row) != len(columns) for row in data):
        raise BodyUnreadable("`dataframe_split` has `columns`, and `data` with as many values in each row")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _records(given: Any) -> list[Row]:
    return given if isinstance(given, list) else [given]


def _inputs(given: Any) -> list[Row]:
    """Return rows given as objects, or as lists by column."""
    if not isinstance(given, dict) or not all(isinstance(values, list) for values in given.values()):
        return _records(given)
    if len({len(values) for values in given.values()}) != 1:
        raise BodyUnreadable("the columns of `inputs` have different numbers of rows")
    check_count(max(map(len, given.values())))
    return [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]


def _is_list(value: Any, of: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, of) for item in value)


_FORMS: dict[str, Callable[[Any], list[Row]]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _records,
    "inputs": _inputs,
}


def predictions(labels: Sequence[str], numbers: NDArray[np.float64]) -> list[Any]:
    """Return one prediction a row: a number, or the likeliest label."""
    if not labels:
        found: list[Any] = numbers.tolist()
        return found
    return [labels[code] for code in numbers.argmax(axis=1).tolist()]
