"""Strict casts: from what a source delivers to the declared kind, losing nothing silently.

A value that does not fit becomes null here, and `lost` tells which those are. A number is never read as a moment, a
moment never as a number, a truth value never as either: such a column was mistaken for another.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl

from modelmill.model.columns import Column

DTYPES: dict[str, Any] = {
    "float": pl.Float64,
    "int": pl.Int64,
    "bool": pl.Boolean,
    "str": pl.String,
    "category": pl.String,
    "date": pl.Date,
    "datetime": pl.Datetime("us"),
}
"""What each kind is kept as."""

_SHAPES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")


def cast(series: pl.Series, column: Column) -> pl.Series:
    """Return the values as the column's kind; null where a value is null, NaN, or does not fit."""
    try:
        found = _CASTS[column.kind](series)
    except pl.exceptions.PolarsError:
        found = _nothing(series, DTYPES[column.kind])
    return found.alias(column.name)


def lost(before: pl.Series, after: pl.Series) -> list[int]:
    """Return the rows that held a value before a cast and hold none after it. NaN is no value."""
    held = before.is_not_null() & before.is_not_nan() if before.dtype.is_float() else before.is_not_null()
    return (held & after.is_null()).arg_true().to_list()


def as_moments(series: pl.Series) -> pl.Series:
    """Return moments in UTC, without a zone; text is ISO 8601, as in a request."""
    if series.dtype == pl.String:
        return _parsed(series)
    if not isinstance(series.dtype, pl.Datetime | pl.Date):
        return _nothing(series, pl.Datetime("us"))
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us"), strict=False)


def as_truths(series: pl.Series) -> pl.Series:
    """Return truth values, from themselves, from 0 and 1, or from the words."""
    if series.dtype == pl.String:
        words = series.str.to_lowercase()
        return words.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    if series.dtype == pl.Boolean:
        return series
    return series.replace_strict({0: False, 1: True}, default=None, return_dtype=pl.Boolean)


def _nothing(series: pl.Series, dtype: Any) -> pl.Series:
    return pl.Series(series.name, [None], dtype=dtype).new_from_index(0, len(series))


def _as_floats(series: pl.Series) -> pl.Series:
    if not (series.dtype.is_numeric() or series.dtype == pl.String):
        return _nothing(series, pl.Float64)
    numbers = series.cast(pl.Float64, strict=False).fill_nan(None)
    # There is a zero below zero: equal values should have equal bytes, and so equal digests.
    return numbers.set((numbers == 0).fill_null(value=False), 0.0)


def _as_ints(series: pl.Series) -> pl.Series:
    if not (series.dtype.is_numeric() or series.dtype == pl.String):
        return _nothing(series, pl.Int64)
    if series.dtype.is_integer():
        return series.cast(pl.Int64, strict=False)
    if series.dtype == pl.String:
        # Not by way of a float, which would round a long number.
        return series.cast(pl.Int64, strict=False).fill_null(_whole(series.cast(pl.Float64, strict=False)))
    return _whole(series.cast(pl.Float64, strict=False))


def _whole(numbers: pl.Series) -> pl.Series:
    whole = (numbers == numbers.floor()).fill_null(value=False)
    return numbers.zip_with(whole, _nothing(numbers, pl.Float64)).cast(pl.Int64, strict=False)


def _as_texts(series: pl.Series) -> pl.Series:
    if series.dtype.is_nested() or series.dtype == pl.Object:
        return _nothing(series, pl.String)
    if series.dtype.is_float():
        # A column of whole numbers becomes one of floats where a library marks what is missing with NaN.
        return _whole(series).cast(pl.String).fill_null(series.fill_nan(None).cast(pl.String))
    return series.cast(pl.String, strict=False)


def _as_dates(series: pl.Series) -> pl.Series:
    if series.dtype == pl.Date:
        return series
    moments = as_moments(series)
    midnight = (moments.dt.truncate("1d") == moments).fill_null(value=False)
    return moments.zip_with(midnight, _nothing(moments, moments.dtype)).cast(pl.Date)


def _parsed(texts: pl.Series) -> pl.Series:
    plain = texts.str.strip_suffix("Z")
    found = _nothing(texts, pl.Datetime("us"))
    for shape in _SHAPES:
        if found.null_count() > texts.null_count():
            found = found.fill_null(plain.str.to_datetime(shape, time_unit="us", strict=False))
    rest = lost(texts, found)
    return found.scatter(rest, [_moment(text) for text in texts.gather(rest)]) if rest else found


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


_CASTS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "float": _as_floats,
    "int": _as_ints,
    "bool": as_truths,
    "str": _as_texts,
    "category": _as_texts,
    "datetime": as_moments,
    "date": _as_dates,
}
