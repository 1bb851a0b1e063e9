"""How soon a canary that answers worse is taken back by its labels, and how often one that does not.

``python bench/quality_canaries.py [SEEDS]``: seeded answers and labels go through what a deployer does at each look -
`orchestrator.quality.judged`, then `orchestrator.proving.judge` - every 25 labelled answers, up to 2,000. No node, no file:
this counts verdicts. Writes ``bench/results/quality_canaries.json``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.names import ModelName
from modelmill.orchestrator.proving import judge
from modelmill.orchestrator.quality import Compared, judged
from modelmill.release.policy import Limit, Policy
from modelmill.release.rollouts import Look, Rollout

Floats = NDArray[np.float64]
MOST, EACH = 2_000, 25
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FULL = {"asked": 10_000, "failed": 0, "classes": {"3": 10_000}}
"""Traffic without an error, so that labels alone decide."""


class Scenario(NamedTuple):
    """What the candidate answers, beside what the current release would have."""

    name: str
    metric: str
    limit: float
    draw: Callable[[np.random.Generator], Compared]
    harms: bool
    """Whether it ought to be taken back."""


# ------------------------------------------------------------------ answers


def normal(rng: np.random.Generator) -> Floats:
    return rng.normal(0, 1, MOST)


def heavy(rng: np.random.Generator) -> Floats:
    """Return errors with rare large ones: Student's t of 3 degrees of freedom."""
    return rng.standard_t(3, MOST)


def skewed(rng: np.random.Generator) -> Floats:
    """Return errors that are small mostly, and now and then ten times as large, on one side: log-normal."""
    return rng.lognormal(0, 1, MOST)


def scaled(errors: Callable[[np.random.Generator], Floats], factor: float) -> Callable[[np.random.Generator], Compared]:
    """Return errors of one kind, each model's own: pairing gains nothing. The candidate's are `factor` times as large."""
    return lambda rng: Compared(np.zeros(MOST), factor * errors(rng), errors(rng))


def shared(factor: float) -> Callable[[np.random.Generator], Compared]:
    """Return errors of which both models share what nobody can predict; the candidate has more of its own on top."""
    more = math.sqrt(factor**2 - 1)

    def draw(rng: np.random.Generator) -> Compared:
        common = normal(rng)
        return Compared(np.zeros(MOST), common + more * normal(rng), common)

    return draw


def shifted(factor: float) -> Callable[[np.random.Generator], Compared]:
    """Return answers that are off by a constant, so large that the mean absolute error is `factor` times as large."""
    low, high = 0.0, 3.0
    for _ in range(60):  # E|e + b| = b erf(b / sqrt 2) + sqrt(2 / pi) exp(-b^2 / 2), growing in b
        b = (low + high) / 2
        found = b * math.erf(b / math.sqrt(2)) + math.sqrt(2 / math.pi) * math.exp(-(b**2) / 2)
        low, high = (b, high) if found < factor * math.sqrt(2 / math.pi) else (low, b)

    def draw(rng: np.random.Generator) -> Compared:
        common = normal(rng)
        return Compared(np.zeros(MOST), common + low, common)

    return draw


def rare(rng: np.random.Generator) -> Compared:
    """Return a candidate that is always off by 1 beside one that is off by 100 once in a hundred rows: the means are equal.

    What the test of large samples is worst at: until the first of these is seen nothing says that there are any.
    """
    return Compared(np.zeros(MOST), np.ones(MOST), 100.0 * (rng.random(MOST) < 0.01))


def twins(rng: np.random.Generator) -> Compared:
    """Return two trainings of one model: what is shared, and as much noise of its own on either side."""
    common = normal(rng)
    return Compared(np.zeros(MOST), common + 0.3 * normal(rng), common + 0.3 * normal(rng))


def classes(own: float, other: float) -> Callable[[np.random.Generator], Compared]:
    """Return answers to questions of two classes that are right with a chance of `own` and of `other`."""

    def draw(rng: np.random.Generator) -> Compared:
        luck = rng.random(MOST)
        truth = rng.integers(0, 2, MOST)
        sides = [np.where(luck < chance, truth, 1 - truth) for chance in (own, other)]
        return Compared(truth.astype(float), *(np.eye(2)[side] for side in sides))

    return draw


SCENARIOS = (
    Scenario("20 % worse, errors partly shared", "mae", 0.1, shared(1.2), harms=True),
    Scenario("20 % worse, off by a constant", "mae", 0.1, shifted(1.2), harms=True),
    Scenario("20 % worse rmse, errors partly shared", "rmse", 0.1, shared(1.2), harms=True),
    Scenario("20 % worse, nothing shared", "mae", 0.1, scaled(normal, 1.2), harms=True),
    Scenario("accuracy 0.72 beside 0.90", "accuracy", 0.1, classes(0.72, 0.9), harms=True),
    Scenario("20 % worse, nothing shared, limit 0", "mae", 0.0, scaled(normal, 1.2), harms=True),
    Scenario("A/A: two trainings, limit 10 %", "mae", 0.1, twins, harms=False),
    Scenario("A/A: two trainings, limit 0", "mae", 0.0, twins, harms=False),
    Scenario("A/A: nothing shared, limit 0", "mae", 0.0, scaled(normal, 1.0), harms=False),
    Scenario("A/A: heavy tails, nothing shared, limit 0", "mae", 0.0, scaled(heavy, 1.0), harms=False),
    Scenario("A/A: skewed, nothing shared, limit 0", "mae", 0.0, scaled(skewed, 1.0), harms=False),
    Scenario("means equal, the other's losses rare and large, limit 0", "mae", 0.0, rare, harms=False),
    Scenario("10 % worse exactly, limit 10 %", "mae", 0.1, scaled(normal, 1.1), harms=False),
    Scenario("10 % worse exactly, skewed, limit 10 %", "mae", 0.1, scaled(skewed, 1.1), harms=False),
    Scenario("accuracy 0.81 beside 0.90 exactly, limit 10 %", "accuracy", 0.1, classes(0.81, 0.9), harms=False),
)


# ------------------------------------------------------------------ looking


def ends_at(scenario: Scenario, seed: int, each: int = EACH) -> tuple[int | None, bool]:
    """Return after how many labelled answers a canary is taken back, None for never; and whether it had passed by then."""
    limit = Limit("worse", scenario.limit, scenario.metric)
    policy = Policy((0.1, 1.0), "requests", 60.0, (Limit("error_rate", 0.01), limit))
    rollout = Rollout(1, "prod", ModelName("sales"), 2, 1, "running", policy, 0, None, NOW, NOW, None, "", "")
    whole = scenario.draw(np.random.default_rng(seed))
    if judge(rollout, [Look(NOW, 0, {"candidate": FULL, "other": FULL})]).verdict != "undecided":
        raise AssertionError("a canary without labels has to wait")
    passed = False
    for rows in range(each, MOST + 1, each):
        seen = judged(limit, Compared(*(part[:rows] for part in whole)))
        look = Look(NOW, 0, {"candidate": FULL, "other": FULL, "quality": {str(limit): seen}})
        verdict = judge(rollout, [look]).verdict
        passed = passed or verdict == "pass"
        if verdict == "fail":
            return rows, passed
    return None, passed


def measured(scenario: Scenario, seeds: int, each: int = EACH) -> dict[str, Any]:
    """Return how many seeds were taken back, and how soon."""
    began = time.monotonic()
    found = [ends_at(scenario, seed, each) for seed in range(seeds)]
    rows = sorted(rows for rows, _ in found if rows is not None)
    return {
        "scenario": scenario.name + ("" if each == EACH else ", all labels at once"),
        "harms": scenario.harms,
        "seeds": seeds,
        "taken_back": len(rows),
        "passed_at_any_look": sum(passed for _, passed in found),
        "rows_p50": rows[len(rows) // 2] if rows else None,
        "rows_p95_of_all": rows[math.ceil(0.95 * seeds) - 1] if len(rows) >= 0.95 * seeds else None,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Run every scenario: harm with a tenth of the seeds, for it is rare that it needs more."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    found = []
    for scenario in SCENARIOS:
        found.append(measured(scenario, max(100, seeds // 10) if scenario.harms else seeds))
        if scenario.harms:
            found.append(measured(scenario, 100, MOST))
        for one in found[-2:] if scenario.harms else found[-1:]:
            print(json.dumps(one), flush=True)
    out = Path(__file__).parent / "results" / "quality_canaries.json"
    out.write_text(json.dumps({"most": MOST, "each": EACH, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
