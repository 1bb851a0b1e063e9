"""An order for rows that have no time: as good as shuffled, and the same on every machine and however the rows came.

The last rows of a segment test. Sorted by their values these would be the largest of some column, and every test one of
extrapolation; shuffled by a generator they would be others each time. So rows are sorted by a hash of what they hold:
SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014), column by column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NULL = np.uint64(0x5851F42D4C957F2D)


def mixed(frame: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """Return a number for every row that depends on all of these columns, and on nothing else."""
    found: Words = np.zeros(len(frame), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            found = _splitmix(found ^ _words(frame[name]))
    return pl.Series("__mixed", found)


def _splitmix(words: Words) -> Words:
    words = words + _GAMMA
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def _words(series: pl.Series) -> Words:
    """Return a column's values as 64 bits each; texts by the first eight bytes of their SHA-256."""
    words: NDArray[Any]
    if series.dtype == pl.String:
        texts = series.unique().drop_nulls().to_list()
        known = {text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts}
        words = series.replace_strict(known, default=0, return_dtype=pl.UInt64).fill_null(0).to_numpy()
    elif series.dtype == pl.Float64:
        # Plus zero, so that -0.0 and 0.0, which are equal, are the same bits.
        words = (series.fill_null(0.0).to_numpy() + 0.0).view(np.uint64)
    else:
        words = series.to_physical().cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64)
    return np.where(series.is_null().to_numpy(), _NULL, words).astype(np.uint64)
