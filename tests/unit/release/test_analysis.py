"""Tests that may be looked at all the time: rarely wrong where nothing is, soon sure where something is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelmill.release.analysis import (
    ALPHA,
    Comparison,
    Verdict,
    Window,
    above,
    against_limit,
    against_zero,
    below,
    mean_interval,
    overall,
    quality,
    tally,
)

SURE = -math.log(ALPHA)


def false_alarm(seed: int, share: float = 0.1, rate: float = 0.01, looks: int = 60) -> bool:
    """Return whether an A/A canary, looked at again and again, is ever called worse."""
    random = np.random.default_rng(seed)
    asked = random.integers(1, 60, looks)
    candidate = random.binomial(asked, share)
    bad, other_bad = random.binomial(candidate, rate), random.binomial(asked - candidate, rate)
    compared = Comparison()
    for n, mine, mine_bad, others_bad in zip(asked, candidate, bad, other_bad, strict=True):
        compared.add(Window(int(mine_bad), int(mine), int(others_bad), int(n - mine)))
        if compared.is_worse(ALPHA):
            return True
    return False


def test_of_a_thousand_canaries_that_are_not_worse_few_are_stopped() -> None:
    assert sum(false_alarm(seed) for seed in range(1000)) <= 50


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_five_percent_errors_are_found_within_some_hundred_requests(share: float) -> None:
    needed = []
    for seed in range(100):
        random, compared, asked = np.random.default_rng(seed), Comparison(), 0
        while asked < 2000 and not compared.is_worse(ALPHA / 3):
            mine = int(random.binomial(20, share))
            bad = int(random.binomial(mine, 0.05))
            compared.add(Window(bad, mine, 0, 20 - mine))
            asked += mine
        needed.append(asked)
    assert np.median(needed) <= 200
    assert np.percentile(needed, 95) <= 500


def test_both_sides_failing_together_is_nobodys_fault() -> None:
    compared = Comparison([Window(30, 100, 270, 900)] * 20)
    assert compared.evidence < 0


def test_a_window_of_one_side_says_nothing() -> None:
    assert Comparison([Window(9, 9, 0, 0), Window(0, 0, 5, 9)]).evidence == pytest.approx(0)


@pytest.mark.parametrize(
    ("bad", "asked", "verdict"),
    [
        (0, 0, "undecided"),
        (0, 100, "undecided"),
        (0, 380, "pass"),
        (9, 200, "fail"),
        (200, 200, "fail"),
        (5, 500, "undecided"),
    ],
)
def test_a_rate_against_a_limit(bad: int, asked: int, verdict: Verdict) -> None:
    assert against_limit(bad, asked, 0.01, ALPHA) == verdict


def test_evidence_for_both_sides_of_a_limit_excludes_itself() -> None:
    for bad in range(0, 60, 5):
        assert not (above(bad, 1000, 0.02) >= SURE and below(bad, 1000, 0.02) >= SURE)


def test_a_mean_is_in_its_interval_at_all_times() -> None:
    missed = 0
    for seed in range(200):
        values = np.random.default_rng(seed).exponential(2.0, 2000)
        missed += any(
            not low <= 2.0 <= high for low, high in (mean_interval(values[:n], ALPHA) for n in range(100, 2001, 100))
        )
    assert missed <= 20  # an asymptotic interval of a skewed sample: 5 % are promised for large ones
    assert mean_interval(np.ones(299), ALPHA) == (-math.inf, math.inf)
    assert mean_interval(np.ones(300), ALPHA) == (1.0, 1.0)


def test_a_row_in_a_hundred_that_outweighs_all_others_fools_nobody() -> None:
    """Both lose as much on average; until the other's rare losses were seen, every row says that the candidate is worse."""
    rare = [1.0 - np.where(np.random.default_rng(seed).random(2000) < 0.01, 100.0, 0.0) for seed in range(400)]
    stopped = [any(against_zero(tally(values[:n]), ALPHA) == "fail" for n in range(25, 2001, 25)) for values in rare]
    assert sum(stopped) <= 20 + 2 * 20  # as many for those that were not seen yet, and as much by chance


def test_nothing_is_concluded_from_a_spread_that_is_one_row() -> None:
    values = np.ones(1000)
    assert mean_interval(values, ALPHA)[0] > 0
    values[0] = -50.0
    assert mean_interval(values, ALPHA) == (-math.inf, math.inf)
    values[:20] = -5.0
    assert mean_interval(values, ALPHA)[0] > 0


def test_answers_that_are_a_fifth_worse_are_found() -> None:
    def found(seed: int) -> bool:
        random = np.random.default_rng(seed)
        error = random.normal(0, 10, 2000)
        other = 0.5 * error + math.sqrt(0.75) * random.normal(0, 10, 2000)
        worse = np.abs(1.2 * other)
        return any(quality(worse[:n], np.abs(error)[:n], 0.0, ALPHA / 3) == "fail" for n in range(100, 2001, 100))

    assert sum(found(seed) for seed in range(100)) >= 95


def test_equal_losses_are_not_worse_by_a_tenth() -> None:
    losses = np.abs(np.random.default_rng(0).normal(0, 10, 3000))
    assert quality(losses, losses, 0.1, ALPHA) == "pass"


def test_a_verdict_of_nothing_is_undecided() -> None:
    assert overall([]) == "undecided"
    assert overall(["pass", "undecided"]) == "undecided"
    assert overall(["pass", "fail", "undecided"]) == "fail"
    assert overall(["pass", "pass"]) == "pass"
