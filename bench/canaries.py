"""How often canaries are stopped that should not be, and how soon those that should.

    python bench/canaries.py [--canaries 1000] [--seeds 200] [--seed 1] [--json FILE]

Traffic is simulated and seeded; what judges it is the deployer's own code (`proving.judge`), asked at every look, so that
a wrong stop at any of them counts. Looks come as the deployer's do, every two seconds at first and seldom later, for an hour
at most. Three parts:

A/A         the candidate is the current release again, under many rates of errors, shares and amounts of traffic; in rings
            some stores always fail, or begin to fail by themselves
poisons     5 % errors, answers that are NaN, 50 times as slow: after how many of its requests, and looks, it is stopped
rings       5,000 stores in rings of 50, 500 and 5,000, of which 2 % break: how many models were ever exposed
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.names import ModelName
from modelmill.orchestrator.proving import breaking, judge, pause_s
from modelmill.release.analysis import ALPHA
from modelmill.release.policy import Limit, Policy
from modelmill.release.rollouts import Look, Rollout
from modelmill.serving.meters import BOUNDS

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy((0.1, 0.5, 1.0), "requests", 20.0, (Limit("error_rate", 0.02), Limit("p99_ms", 100.0)))
RINGS = Policy((0.01, 0.1, 1.0), "segments", 60.0, (Limit("error_rate", 0.01),))
STORES = 5_000
MOST_S = 3600.0
"""Then a canary that waits is left."""
PAST_S = 3600.0
"""How much of what stores were asked before is known."""


class Side(NamedTuple):
    """How one release behaves: the share of requests that fail, and how slow it is."""

    errors: float = 0.0
    slower: float = 1.0


class Ended(NamedTuple):
    """How a canary ended."""

    state: str
    """``stopped``, ``done`` or ``waits``"""
    looks: int
    seconds: float
    asked: int
    """Requests that the candidate was sent."""
    step: int
    why: str


# ------------------------------------------------------------------ one canary


def seen(rng: np.random.Generator, asked: int, failed: int, slower: float = 1.0) -> dict[str, Any]:
    """Return what the node would have counted of one side: latencies around a millisecond."""
    seconds = 0.001 * slower * rng.lognormal(0.0, 0.6, asked)
    places, counts = np.unique(np.searchsorted(BOUNDS, seconds, side="right"), return_counts=True)
    classes = {str(place): int(count) for place, count in zip(places, counts, strict=True)}
    return {"asked": asked, "failed": failed, "classes": classes}


Traffic = Callable[[np.random.Generator, float, float, list[Look]], dict[str, Any]]
"""What both sides were sent since the last look: of the step's share, so many seconds, and all looks before."""


def roll(rng: np.random.Generator, policy: Policy, traffic: Traffic) -> Ended:
    """Look at a canary again and again, as the deployer does, until it has ended."""
    looks: list[Look] = []
    step, step_s, asked, now_s = 0, 0.0, 0, 0.0

    def ended(state: str, why: str) -> Ended:
        return Ended(state, len(looks), now_s, asked, step, why)

    while now_s < MOST_S:
        pause = pause_s(now_s - step_s)
        now_s += pause
        at, step_at = (BEGAN + timedelta(seconds=seconds) for seconds in (now_s, step_s))
        found = traffic(rng, policy.steps[step], pause, looks)
        looks.append(Look(at, step, found))
        asked += found["candidate"]["asked"]
        rollout = Rollout(
            1, "prod", ModelName("sales"), 2, 1, "running", policy, step, None, BEGAN, step_at, None, "", ""
        )
        judged = judge(rollout, looks)
        if judged.verdict == "fail":
            return ended("stopped", judged.why)
        if judged.verdict == "pass" and now_s - step_s >= policy.hold_s:
            if step + 2 == len(policy.steps):
                return ended("done", "")
            step, step_s = step + 1, now_s
    return ended("waits", judged.why)


def by_requests(candidate: Side, other: Side, rate: float) -> Traffic:
    """Return traffic, in requests a second, of which each goes to the candidate with the step's share."""

    def draw(rng: np.random.Generator, share: float, seconds: float, _: list[Look]) -> dict[str, Any]:
        total = rng.poisson(rate * seconds)
        mine = int(rng.binomial(total, share))
        counts = {"candidate": (mine, candidate), "other": (total - mine, other)}
        return {
            name: seen(rng, asked, int(rng.binomial(asked, side.errors)), side.slower)
            for name, (asked, side) in counts.items()
        }

    return draw


# ------------------------------------------------------------------ rings of segments


class Stores(NamedTuple):
    """Shares of the stores by what happens to them."""

    broken: float = 0.0
    """Fail with the candidate, always."""
    always: float = 0.0
    """Fail whatever answers."""
    begin: float = 0.0
    """Begin to fail within the hour, whatever answers."""


class Fleet:
    """Stores with very different traffic."""

    def __init__(self, rng: np.random.Generator, shares: Stores, errors: float, rate: float) -> None:
        """Draw them; `errors` is the share of the other stores' requests that fail, `rate` all requests of a second."""
        self.weights = rng.permutation(1 / np.arange(10, STORES + 10))
        self.weights /= self.weights.sum()
        self.order = stratified(rng, self.weights)
        self.broken, always, begin = (rng.random(STORES) < share for share in shares)
        self.errors = np.where(always, 1.0, errors)
        self.fails_from = np.where(begin, rng.uniform(0, MOST_S, STORES), np.inf)
        self.rate, self.now_s = rate, 0.0
        past = rng.poisson(rate * PAST_S * self.weights)
        self.before, self.in_use = failing(past, rng.binomial(past, self.errors)), past > 0
        self.counts = np.zeros((2, 2, STORES), dtype=np.int64)
        """How often each store was asked, and failed, by either side."""

    def draw(self, rng: np.random.Generator, share: float, seconds: float, looks: list[Look]) -> dict[str, Any]:
        """Return one look."""
        self.now_s += seconds
        ring = np.zeros(STORES, dtype=bool)
        ring[self.order[: max(1, round(share * STORES))]] = True
        asked = rng.poisson(self.rate * seconds * self.weights)
        fails = (ring & self.broken) | (self.fails_from < self.now_s)
        failed = rng.binomial(asked, np.where(fails, 1.0, self.errors))
        masks = {"candidate": ring, "other": ~ring}
        self.counts += [np.where(side, [asked, failed], 0) for side in masks.values()]
        found = {name: seen(rng, int(asked[side].sum()), int(failed[side].sum())) for name, side in masks.items()}
        sides = {name: {f"s{n}" for n in np.flatnonzero(side)} for name, side in masks.items()}
        counted = {name: failing(*counts) for name, counts in zip(masks, self.counts, strict=True)}
        in_use = ring & self.in_use
        heard = {"segments": int((in_use & (self.counts[0][0] > 0)).sum()), "of": int(in_use.sum())}
        return found | breaking(looks, self.before, sides, counted) | {"heard": heard}


def failing(asked: NDArray[np.int64], failed: NDArray[np.int64]) -> dict[str, tuple[int, int]]:
    """Return how often stores that have failed were asked, and failed."""
    return {f"s{n}": (int(asked[n]), int(failed[n])) for n in np.flatnonzero(failed)}


def stratified(rng: np.random.Generator, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return stores in the order in which a canary draws them: the first of all tenths of the traffic come first."""
    tenths = np.argsort(-weights).reshape(10, -1)
    return np.stack([rng.permutation(tenth) for tenth in tenths]).T.ravel()


# ------------------------------------------------------------------ the three parts


def same_again(canaries: int, seed: int) -> dict[str, Any]:
    """Count the A/A canaries that are stopped, over rates of errors, amounts of traffic, requests and rings."""
    rng = np.random.default_rng(seed)
    found = {"canaries": canaries, "stopped": 0, "done": 0, "waits": 0, "whys": []}
    for number in range(canaries):
        errors, rate = float(rng.choice([0.0, 0.001, 0.005, 0.01])), float(rng.choice([25, 100, 500]))
        if number % 2:
            side = Side(errors)
            ended = roll(rng, POLICY, by_requests(side, side, rate))
        else:
            # What fails, fails in some stores always, or from some moment on: whether these are in a ring is chance.
            always, begin = (float(rng.choice([0.0, 0.002, 0.004])) for _ in range(2))
            fleet = Fleet(rng, Stores(always=always, begin=begin), errors / 2, rate)
            ended = roll(rng, LOOSE_RINGS, fleet.draw)
        found[ended.state] += 1
        if ended.state == "stopped":
            found["whys"].append(f"{number % 2} {ended.why}")
    return found


LOOSE_RINGS = Policy((0.01, 0.1, 1.0), "segments", 60.0, (Limit("error_rate", 0.2),))
"""Rings whose declared limit is beyond what a few stores that always fail reach: only the comparison may stop them."""

POISONS = {
    "5 % errors": Side(errors=0.05),
    "NaN": Side(errors=1.0),
    "50 times as slow": Side(slower=50.0),
}


def poisons(seeds: int, seed: int) -> dict[str, Any]:
    """Return after how many looks, and requests to the candidate, poisons are stopped."""
    found = {}
    for name, side in POISONS.items():
        for errors in (0.0, 0.002):
            ended = [
                roll(
                    np.random.default_rng([seed, number]),
                    POLICY,
                    by_requests(side._replace(errors=max(side.errors, errors)), Side(errors), 100.0),
                )
                for number in range(seeds)
            ]
            found[f"{name}, {100 * errors:g} % errors beside it"] = summary(ended)
    return found


def summary(ended: list[Ended]) -> dict[str, Any]:
    """Return how canaries that should be stopped ended."""
    asked, looks, seconds = (np.array([getattr(one, name) for one in ended]) for name in ("asked", "looks", "seconds"))
    within = (looks <= 2) | (asked <= 200)
    return {
        "stopped": sum(one.state == "stopped" for one in ended),
        "of": len(ended),
        "within 2 looks or 200 requests": int(within.sum()),
        "requests p50, p95, most": [int(np.percentile(asked, p)) for p in (50, 95, 100)],
        "looks p50, p95, most": [int(np.percentile(looks, p)) for p in (50, 95, 100)],
        "seconds p50, p95, most": [int(np.percentile(seconds, p)) for p in (50, 95, 100)],
    }


def rings(seeds: int, seed: int) -> dict[str, Any]:
    """Return at which ring a fault in 2 % of the stores is stopped, and how many models were exposed at most."""
    found = {}
    for errors in (0.0, 0.002):
        for rate in (100.0, 1000.0):
            ended = []
            for number in range(seeds):
                rng = np.random.default_rng([seed, number])
                fleet = Fleet(rng, Stores(broken=0.02, always=0.002), errors, rate)
                ended.append(roll(rng, RINGS, fleet.draw))
            exposed = [STORES if one.state == "done" else round(RINGS.steps[one.step] * STORES) for one in ended]
            states = {name: sum(one.state == name for one in ended) for name in ("stopped", "done", "waits")}
            found[f"{100 * errors:g} % errors, {rate:g} requests/s"] = {
                **states,
                "at ring 1": sum(one.state == "stopped" and one.step == 0 for one in ended),
                "at ring 2": sum(one.state == "stopped" and one.step == 1 for one in ended),
                "models exposed at most": max(exposed),
                "out of patience": sum("cannot be shown" in one.why for one in ended),
                **{name: summary(ended)[name] for name in ("requests p50, p95, most", "seconds p50, p95, most")},
            }
    return found


def main() -> int:
    """Run the three parts and print what they found; the exit code says whether the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canaries", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {
        "seed": options.seed,
        "same again": same_again(options.canaries, options.seed),
        "poisons": poisons(options.seeds, options.seed),
        "rings": rings(options.seeds, options.seed),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if reached(found) else 1


def reached(found: dict[str, Any]) -> bool:
    """Return whether few good canaries are stopped, all poisons are, and no fault ever reaches the third ring."""
    rare = found["same again"]["stopped"] <= found["same again"]["canaries"] * ALPHA
    sure = all(one["stopped"] == one["of"] for one in found["poisons"].values())
    narrow = all(one["models exposed at most"] <= RINGS.steps[1] * STORES for one in found["rings"].values())
    return bool(rare and sure and narrow)


if __name__ == "__main__":
    sys.exit(main())
