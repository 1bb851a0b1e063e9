"""Casts lose nothing silently: what does not fit is found, and nothing is taken for what it is not."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any

import polars as pl
import pytest

from modelmill.data.casting import as_moments, cast, lost
from modelmill.model.columns import Column, Kind

MOMENT = datetime(2026, 1, 2, 3, 4)  # noqa: DTZ001
DAY = date(2026, 1, 2)
LONG = 9_007_199_254_740_993
"""The first whole number that a float cannot hold."""


def column(kind: Kind) -> Column:
    return Column("c", "feature", kind)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("int", [1.0, math.nan, None], [1, None, None]),
        ("int", [str(LONG), "2.0", None], [LONG, 2, None]),
        ("float", ["1e3", "-2", None], [1000.0, -2.0, None]),
        ("float", [True, None], [None, None]),
        ("bool", ["TRUE", "false", None], [True, False, None]),
        ("bool", [0, 1, None], [False, True, None]),
        ("str", [1.0, 2.0, math.nan], ["1", "2", None]),
        ("str", [1.5, 2.0], ["1.5", "2"]),
        ("str", [True, False], ["true", "false"]),
        ("date", [datetime(2026, 1, 2), MOMENT], [DAY, None]),  # noqa: DTZ001
        ("date", ["2026-01-02", "2026-01-02 00:00:00"], [DAY, DAY]),
    ],
)
def test_values_as_their_kind(kind: Kind, values: list[Any], expected: list[Any]) -> None:
    assert cast(pl.Series("c", values, strict=False), column(kind)).to_list() == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:00",
        "2026-01-02 03:04",
        "2026-01-02T03:04Z",
        "2026-01-02T05:04:00+02:00",
        "2026-01-02 03:04:00.000000",
    ],
)
def test_moments_are_read_as_requests_read_them(text: str) -> None:
    assert as_moments(pl.Series([text, None])).to_list() == [MOMENT, None]


def test_a_zone_becomes_utc() -> None:
    zoned = pl.Series([MOMENT]).dt.replace_time_zone("Europe/Paris")
    assert as_moments(zoned).to_list() == [datetime(2026, 1, 2, 2, 4)]  # noqa: DTZ001


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("datetime", [1_760_000_000]),
        ("date", [20_000]),
        ("float", [MOMENT]),
        ("int", [DAY]),
        ("int", [True]),
        ("str", [[1, 2]]),
        ("datetime", ["01/02/2026"]),
        ("int", ["12345678901234567890"]),
    ],
)
def test_what_was_mistaken_for_another_is_lost_and_found(kind: Kind, values: list[Any]) -> None:
    before = pl.Series("c", values)
    assert lost(before, cast(before, column(kind))) == [0]


def test_equal_numbers_have_equal_bytes() -> None:
    found = cast(pl.Series("c", [-0.0, 0.0]), column("float"))
    assert [math.copysign(1, value) for value in found] == [1, 1]
