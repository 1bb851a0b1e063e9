"""Canaries that are simulated and judged at every look, in short: `bench/canaries.py` does a thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

import canaries  # type: ignore[import-not-found]


def test_few_that_are_the_same_again_are_stopped() -> None:
    found = canaries.same_again(20, seed=3)
    assert found["stopped"] <= 3, found  # of 20, at 5 % at most: more than 3 have a chance of 1 in 60
    assert found["done"] > 10, found


def test_poisons_are_stopped_soon() -> None:
    for name, found in canaries.poisons(5, seed=3).items():
        assert found["stopped"] == found["of"], name
        assert found["requests p50, p95, most"][0] <= 200, name


def test_a_fault_in_some_stores_stops_at_the_second_ring_at_the_latest() -> None:
    for number in range(4):
        rng = np.random.default_rng([3, number])
        fleet = canaries.Fleet(rng, canaries.Stores(broken=0.02, always=0.002), 0.0, 1000.0)
        ended = canaries.roll(rng, canaries.RINGS, fleet.draw)
        assert ended.state == "stopped"
        assert ended.step <= 1
