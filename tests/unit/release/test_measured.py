"""What is measured of two releases: bounds of the difference that hold however often one looks, or none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.release.measured import FEWEST_ENTITIES, Measured, difference, measured, uneven, why_unknown


def side(mean: float, entities: int, seed: int, of_each: int = 1, spread: float = 1.0) -> Measured:
    """Return a side whose entities each bring so many answers, all of them alike."""
    values = np.random.default_rng(seed).normal(mean, spread, entities)
    return measured(values * of_each, np.full(entities, of_each))


def test_the_mean_is_over_answers_and_the_variance_over_entities() -> None:
    found = measured(np.array([1.0, 9.0]), np.array([1, 3]))
    assert (found.entities, found.answers, found.mean) == (2, 4, 2.5)
    one, many = side(1.0, 500, 1), side(1.0, 500, 1, of_each=50)
    assert many.mean == pytest.approx(one.mean)
    assert many.variance == pytest.approx(one.variance)  # who asks fifty times is one observation


def test_one_that_does_better_is_found_and_one_that_does_not_is_not() -> None:
    low, high = difference(side(1.5, 2_000, 1), side(1.0, 2_000, 2))
    assert 0 < low < 0.5 < high
    low, high = difference(side(1.0, 2_000, 1), side(1.0, 2_000, 2))
    assert low < 0 < high


@given(st.integers(0, 10_000), st.floats(-3, 3), st.integers(1, 20))
def test_both_ways_are_one_statement(seed: int, mean: float, of_each: int) -> None:
    own, other = side(mean, 150, seed, of_each), side(0.0, 150, seed + 1)
    low, high = difference(own, other)
    assert difference(other, own) == pytest.approx((-high, -low))
    assert low <= own.mean - other.mean <= high


@given(st.integers(0, 10_000))
def test_more_entities_say_more(seed: int) -> None:
    few, many = (difference(side(0, n, seed), side(0, n, seed + 1)) for n in (200, 20_000))
    assert many[1] - many[0] < few[1] - few[0]


def test_looking_all_the_time_finds_nothing_where_there_is_nothing() -> None:
    looks, found = np.unique(np.geomspace(200, 5_000, 40).astype(int)), 0
    for seed in range(100):
        chance = np.random.default_rng(seed)
        values, is_own = chance.exponential(1.0, 5_000), chance.random(5_000) < 0.5
        counts = np.ones(5_000, dtype=np.int64)
        for at in looks:
            own, other = (measured(values[:at][some[:at]], counts[:at][some[:at]]) for some in (is_own, ~is_own))
            low, high = difference(own, other)
            if low > 0 or high < 0:
                found += 1
                break
    assert found <= 5


def test_of_too_few_and_of_one_that_is_all_nothing_is_said() -> None:
    few = side(1.0, FEWEST_ENTITIES - 1, 1)
    assert difference(few, side(9.0, 500, 2)) == (-math.inf, math.inf)
    assert "99 of 100 entities" in why_unknown(few, side(9.0, 500, 2))
    totals = np.append(np.zeros(999), 1e6)
    whale = measured(totals, np.ones(1_000, dtype=np.int64))
    assert "one entity makes" in why_unknown(side(0.0, 500, 1), whale)
    assert why_unknown(side(0.0, 500, 1), side(0.0, 500, 2)) == ""


def test_nothing_is_no_side() -> None:
    nothing = measured(np.empty(0), np.empty(0, dtype=np.int64))
    assert (nothing.entities, nothing.mean) == (0, 0.0)
    assert why_unknown(nothing, side(0.0, 500, 1)).startswith("0 of")


@pytest.mark.parametrize(
    ("own", "other", "share", "lost"),
    [
        (500, 500, 0.5, False),
        (1_000, 9_000, 0.1, False),
        (400, 600, 0.5, True),
        (800, 9_200, 0.1, True),
        (0, 0, 0.5, False),
    ],
)
def test_sides_that_no_share_gives_are_uneven(own: int, other: int, share: float, lost: bool) -> None:
    assert uneven(own, other, share) is lost
