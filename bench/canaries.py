"""How often canaries are stopped that should not be, and how soon those that should.

    python bench/canaries.py [--canaries 1000] [--seeds 200] [--seed 1] [--json FILE]

Traffic is simulated and seeded; what judges it is the deployer's own code (`rolling.judge`), asked at every look, so that
a wrong stop at any of them counts. A look is two seconds of traffic. Three parts:

A/A         the candidate is the current release again, under many rates of errors, shares and amounts of traffic
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
from modelmill.orchestrator.rolling import BREAKS, LOOK_S, judge
from modelmill.release.analysis import ALPHA
from modelmill.release.policy import Limit, Policy
from modelmill.release.rollouts import Look, Rollout
from modelmill.serving.meters import BOUNDS

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy((0.1, 0.5, 1.0), "requests", 20.0, (Limit("error_rate", 0.02), Limit("p99_ms", 100.0)))
RINGS = Policy((0.01, 0.1, 1.0), "segments", 60.0, (Limit("error_rate", 0.01),))
STORES = 5_000
LOOKS_A_MINUTE = 30
MOST_LOOKS = 120
"""Of a canary: then it waits for traffic that does not come, and is left."""


class Side(NamedTuple):
    """How one release behaves: the share of requests that fail, and how slow it is."""

    errors: float = 0.0
    slower: float = 1.0


class Ended(NamedTuple):
    """How a canary ended."""

    state: str
    """``stopped``, ``done`` or ``waits``"""
    looks: int
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


Traffic = Callable[[np.random.Generator, float], dict[str, Any]]
"""What both sides were sent in one look, given the step's share."""


def roll(rng: np.random.Generator, policy: Policy, traffic: Traffic) -> Ended:
    """Look at a canary again and again, as the deployer does, until it has ended."""
    looks: list[Look] = []
    step, step_at, asked, at = 0, BEGAN, 0, BEGAN
    while len(looks) < MOST_LOOKS:
        at += timedelta(seconds=LOOK_S)
        found = traffic(rng, policy.steps[step])
        looks.append(Look(at, step, found))
        asked += found["candidate"]["asked"]
        rollout = Rollout(
            1, "prod", ModelName("sales"), 2, 1, "running", policy, step, None, BEGAN, step_at, None, "", ""
        )
        judged = judge(rollout, looks)
        if judged.verdict == "fail":
            return Ended("stopped", len(looks), asked, step, judged.why)
        if judged.verdict == "pass" and (at - step_at).total_seconds() >= policy.hold_s:
            if step + 2 == len(policy.steps):
                return Ended("done", len(looks), asked, step, "")
            step, step_at = step + 1, at
    return Ended("waits", len(looks), asked, step, judged.why)


def by_requests(candidate: Side, other: Side, per_look: float) -> Traffic:
    """Return traffic of which each request goes to the candidate with the step's share."""

    def draw(rng: np.random.Generator, share: float) -> dict[str, Any]:
        total = rng.poisson(per_look)
        mine = int(rng.binomial(total, share))
        counts = {"candidate": (mine, candidate), "other": (total - mine, other)}
        return {
            name: seen(rng, asked, int(rng.binomial(asked, side.errors)), side.slower)
            for name, (asked, side) in counts.items()
        }

    return draw


# ------------------------------------------------------------------ rings of segments


class Fleet:
    """Stores with very different traffic; some break with the candidate, some fail whatever answers."""

    def __init__(self, rng: np.random.Generator, broken: float, always: float, errors: float, per_look: float) -> None:
        self.weights = rng.permutation(1 / np.arange(10, STORES + 10))
        self.weights /= self.weights.sum()
        self.order = stratified(rng, self.weights)
        self.broken, always_broken = (rng.random(STORES) < share for share in (broken, always))
        self.errors = np.where(always_broken, 1.0, errors)
        self.per_look = per_look
        self.known = {kind: np.zeros(STORES, dtype=bool) for kind in BREAKS}
        """Those that have begun to fail."""
        self.minute = np.zeros((2, STORES), dtype=np.int64)
        """How often each was asked, and failed, in this minute of the node's history."""
        self.looks = 0

    def draw(self, rng: np.random.Generator, share: float) -> dict[str, Any]:
        """Return one look."""
        ring = np.zeros(STORES, dtype=bool)
        ring[self.order[: max(1, round(share * STORES))]] = True
        asked = rng.poisson(self.per_look * self.weights)
        failed = rng.binomial(asked, np.where(ring & self.broken, 1.0, self.errors))
        sides = {"candidate": ring, "other": ~ring}
        found = {name: seen(rng, int(asked[side].sum()), int(failed[side].sum())) for name, side in sides.items()}
        self.looks += 1
        self.minute = self.minute * (self.looks % LOOKS_A_MINUTE != 0) + [asked, failed]
        return found | {"broken": {kind: self._broken(kind, sides) for kind in BREAKS}}

    def _broken(self, kind: str, sides: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
        known = self.known[kind]
        newly = np.zeros(STORES, dtype=bool)
        failing = np.flatnonzero(self.minute[1])
        newly[failing] = [BREAKS[kind](*counts) for counts in self.minute[:, failing].T.tolist()]
        newly &= ~known
        self.known[kind] = known | newly
        return {
            name: {"names": [f"s{n}" for n in np.flatnonzero(newly & side)], "sound": int((side & ~known).sum())}
            for name, side in sides.items()
        }


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
        errors, per_look = float(rng.choice([0.0, 0.001, 0.005, 0.01])), float(rng.choice([50, 200, 1000]))
        if number % 2:
            side = Side(errors)
            ended = roll(rng, POLICY, by_requests(side, side, per_look))
        else:
            # What fails, fails in some stores always: whether these are in a ring is chance.
            always = float(rng.choice([0.0, 0.002, 0.004]))
            fleet = Fleet(rng, 0.0, always, errors / 2, per_look)
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
                    by_requests(side._replace(errors=max(side.errors, errors)), Side(errors), 200.0),
                )
                for number in range(seeds)
            ]
            found[f"{name}, {100 * errors:g} % errors beside it"] = summary(ended)
    return found


def summary(ended: list[Ended]) -> dict[str, Any]:
    """Return how canaries that should be stopped ended."""
    asked, looks = (np.array([getattr(one, name) for one in ended]) for name in ("asked", "looks"))
    within = (looks <= 2) | (asked <= 200)
    return {
        "stopped": sum(one.state == "stopped" for one in ended),
        "of": len(ended),
        "within 2 looks or 200 requests": int(within.sum()),
        "requests p50, p95, most": [int(np.percentile(asked, p)) for p in (50, 95, 100)],
        "looks p50, p95, most": [int(np.percentile(looks, p)) for p in (50, 95, 100)],
    }


def rings(seeds: int, seed: int) -> dict[str, Any]:
    """Return at which ring a fault in 2 % of the stores is stopped, and how many models were exposed at most."""
    found = {}
    for errors in (0.0, 0.002):
        for per_look in (200.0, 2000.0):
            ended = []
            for number in range(seeds):
                rng = np.random.default_rng([seed, number])
                fleet = Fleet(rng, 0.02, 0.0, errors, per_look)
                ended.append(roll(rng, RINGS, fleet.draw))
            exposed = [STORES if one.state == "done" else round(RINGS.steps[one.step] * STORES) for one in ended]
            states = {name: sum(one.state == name for one in ended) for name in ("stopped", "done", "waits")}
            found[f"{100 * errors:g} % errors, {per_look / LOOK_S:g} requests/s"] = {
                **states,
                "at ring 1": sum(one.state == "stopped" and one.step == 0 for one in ended),
                "at ring 2": sum(one.state == "stopped" and one.step == 1 for one in ended),
                "models exposed at most": max(exposed),
                **{name: summary(ended)[name] for name in ("requests p50, p95, most",)},
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
