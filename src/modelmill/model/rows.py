"""`Rows`: a batch of rows as numpy columns, the one form that training, laws, batch and online prediction share.

int -> int64 (float64 when nullable) · float -> float64, NaN for null · bool -> bool (float64 when nullable) ·
date -> datetime64[D] · datetime -> datetime64[us] · text and category -> object array of str, None for null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import DeclarationInvalid, did_you_mean

Array = NDArray[Any]


class Coded(NamedTuple):
    """Text as codes into a table; a text column that nobody reads is never built. Code -1 is null."""

    codes: NDArray[np.int32]
    values: NDArray[np.object_]

    def texts(self) -> Array:
        """Return the texts, None for null."""
        missing = self.codes < 0
        if not missing.any():
            # A few rows of a table of many texts: the table is not copied for them.
            return self.values[self.codes]
        return np.append(self.values, np.array([None], dtype=object))[self.codes]


class Rows:
    """A batch of rows: ``rows.hour`` and ``rows["hour"]`` are arrays of one value a row."""

    __slots__ = ("_columns", "_length")

    def __init__(self, columns: Mapping[str, Array | Coded], length: int | None = None) -> None:
        """Take columns of equal length; `length` is needed only where there are none."""
        self._columns = columns
        first = next(iter(columns.values()), None)
        self._length = length if length is not None else 0 if first is None else _length_of(first)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Array:
        try:
            column = self._columns[name]
        except KeyError:
            raise DeclarationInvalid(f"the rows have no column `{name}`", likely=did_you_mean(name, self)) from None
        return column.texts() if isinstance(column, Coded) else column

    def __getattr__(self, name: str) -> Array:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def raw(self, name: str) -> Array | Coded:
        """Return a column as it is kept, codes included."""
        return self._columns[name]

    def take(self, which: slice | Array) -> Rows:
        """Return some of the rows; a slice copies nothing."""
        picked = {name: _pick(column, which) for name, column in self._columns.items()}
        return Rows(picked, len(np.empty(self._length, dtype=np.bool_)[which]))

    def row(self, index: int) -> dict[str, Any]:
        """Return one row as plain Python values."""
        return {name: _plain(self[name][index]) for name in self._columns}

    def as_frame(self, library: str) -> Any:
        """Return the rows as a `polars` or `pandas` data frame, for a function whose annotation asks for one."""
        return import_module(library).DataFrame({name: self[name] for name in self._columns})


def _length_of(column: Array | Coded) -> int:
    return len(column.codes) if isinstance(column, Coded) else len(column)


def _pick(column: Array | Coded, which: slice | Array) -> Array | Coded:
    return Coded(column.codes[which], column.values) if isinstance(column, Coded) else column[which]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
