"""Histograms: every value is counted where a plain reading of the bins puts it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelmill.data.histogram import EXTRA, Bins, count, freeze_bins
from modelmill.model.columns import Column
from modelmill.model.rows import Rows
from modelmill.model.schema import SchemaSpec

BINS = Bins("x", edges=(0.0, 1.0, 2.0, 4.0))
BELOW, ABOVE, MISSING = 3, 4, 5
SPEC = SchemaSpec("S", "", (Column("person", "subject", "str"), Column("x", "feature", "float")))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (0.0, 0),
        (0.999, 0),
        (1.0, 1),
        (2.0, 2),
        (3.9, 2),
        (4.0, 2),
        (-0.1, BELOW),
        (4.1, ABOVE),
        (math.nan, MISSING),
    ],
)
def test_a_value_is_counted_in_its_bin(value: float, place: int) -> None:
    (found,) = count([BINS], Rows({"x": np.array([value])}), np.array([1]))
    assert found.tolist() == [[int(n == place) for n in range(BINS.width)]]


def test_each_segment_has_its_own_counts() -> None:
    (found,) = count([BINS], Rows({"x": np.array([0.5, 0.5, 3.0, math.nan])}), np.array([2, 0, 2]))
    assert found.tolist() == [[2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]]


def test_bins_are_a_tenth_of_the_table_each() -> None:
    rows = Rows({"x": np.random.default_rng(3).normal(size=1000)})
    bins = freeze_bins(SPEC, rows)
    assert [b.column for b in bins] == ["x"]
    assert count(bins, rows, np.array([1000]))[0].tolist() == [[100] * 10 + [0] * EXTRA]


@pytest.mark.parametrize("values", [[7.0] * 5, [math.nan] * 5])
def test_a_column_without_spread_has_one_bin(values: list[float]) -> None:
    rows = Rows({"x": np.array(values)})
    bins = freeze_bins(SPEC, rows)
    assert bins[0].width == 1 + EXTRA
    assert int(count(bins, rows, np.array([5]))[0].sum()) == 5
