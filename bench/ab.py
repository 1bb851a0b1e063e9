"""A/B tests that are looked at sixty times: ``python bench/ab.py --seeds 1000``.

A/A: of two sides that do not differ, how many are ever called different, or uneven - with outcomes that are yes or no, normal,
heavy-tailed (log-normal, sigma 1.5) and rare and large (one in five hundred, Pareto with exponent 2.1), shared half and half
and one to nine. A/B: how many true differences are found, and at how many entities. An entity brings geometrically many
answers, 3.3 on average.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmill.release.measured import difference, measured, uneven

MOST = 20_000
LOOKS = np.unique(np.geomspace(200, MOST, 60).astype(int))
Floats = NDArray[np.float64]


def outcomes(
    kind: str, rng: np.random.Generator, counts: NDArray[np.int64], own: NDArray[np.bool_], lift: float
) -> Floats:
    """Return the sum of each entity's outcomes; those of the own side are larger by a share."""
    n, factor = len(counts), np.where(own, 1 + lift, 1.0)
    if kind == "yes or no":
        return rng.binomial(counts, np.clip(rng.beta(1, 19, n) * factor, 0, 1)).astype(np.float64)
    if kind == "normal":
        return factor * 10 * counts + rng.normal(0, 5 * np.sqrt(counts)) + rng.normal(0, 3, n) * counts
    if kind == "log-normal":
        return np.exp(rng.normal(0, 1.5, n)) * counts * factor
    return (rng.random(n) < 0.002) * rng.pareto(2.1, n) * 1_000 * factor


def one(kind: str, share: float, lift: float, seed: int) -> tuple[str, int]:
    """Return what the first look that says something says, and at how many entities."""
    rng = np.random.default_rng(seed)
    own, counts = rng.random(MOST) < share, rng.geometric(0.3, MOST)
    totals = outcomes(kind, rng, counts, own, lift)
    for at in LOOKS.tolist():
        sides = [measured(totals[:at][some[:at]], counts[:at][some[:at]]) for some in (own, ~own)]
        if uneven(sides[0].entities, sides[1].entities, share):
            return "uneven", at
        low, high = difference(*sides)
        if low > 0 or high < 0:
            return "better" if low > 0 else "worse", at
    return "", MOST


def told(kind: str, share: float, lift: float, seeds: int) -> dict[str, Any]:
    """Return how many of some seeds said what."""
    found = [one(kind, share, lift, seed) for seed in range(seeds)]
    at = [place for verdict, place in found if verdict == "better"]
    counts = {name: sum(verdict == name for verdict, _ in found) for name in ("better", "worse", "uneven")}
    half = int(np.median(at)) if lift and at else None
    return {"outcome": kind, "share": share, "lift": lift, "of": seeds, **counts, "found at, median": half}


def main() -> None:
    """Simulate, and print a line each."""
    parser = argparse.ArgumentParser(prog="python bench/ab.py")
    parser.add_argument("--seeds", type=int, default=1_000)
    options = parser.parse_args()
    for kind in ("yes or no", "normal", "log-normal", "rare and large"):
        for share in (0.5, 0.1):
            print(json.dumps(told(kind, share, 0.0, options.seeds)), flush=True)
    for kind, lift in (("yes or no", 0.2), ("normal", 0.05), ("log-normal", 0.2)):
        print(json.dumps(told(kind, 0.5, lift, options.seeds // 5)), flush=True)


if __name__ == "__main__":
    main()
