"""The gate: whether a new version may answer in its champion's place, condition by condition, on the same test rows.

"Clearly" is said by the paired tests of `build.pairing`. A gate that asked a retrained version to *beat* its champion would
refuse every other one for nothing, and freeze small segments for ever: it only asks that the version is not clearly worse.
What cannot be judged does not pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.build.pairing import FEWEST, Paired, losses, pair
from modelmill.model.conditions import Condition, no_worse
from modelmill.model.fitted import Floats
from modelmill.model.metrics import Metric, higher_is_better
from modelmill.model.rows import Rows


class Candidate(NamedTuple):
    """The new answers of a segment, or of a model of several, and what they are compared with; all on the same test rows."""

    truth: Floats
    """(rows,)"""
    answers: Floats
    """(rows,), or (rows, classes)."""
    champion: Floats | None
    """What answered until now; None where nothing did."""
    mean: Floats
    """What the mean of the training rows, or their share of each class, would answer."""
    pooled: Floats | None
    """None where there is no pooled model, it is the one that is judged, or no condition is about it."""
    lengths: NDArray[np.int64]
    """How many rows each segment has: of one segment, a single number."""
    rows: Rows | None = None
    """The test rows themselves, for conditions about a slice of them."""

    def on(self, condition: Condition) -> Candidate | None:
        """Return the same on a condition's slice; None where there are no such rows."""
        if not condition.on:
            return self
        if self.rows is None:
            raise AssertionError("conditions about a slice come with the rows")
        mask = condition.mask(self.rows)
        if not mask.any():
            return None
        counts = np.add.reduceat(mask, np.cumsum(self.lengths) - self.lengths)
        return Candidate(
            truth=self.truth[mask],
            answers=self.answers[mask],
            champion=None if self.champion is None else self.champion[mask],
            mean=self.mean[mask],
            pooled=None if self.pooled is None else self.pooled[mask],
            lengths=counts[counts > 0],
        )

    def baseline(self, than: str) -> Floats | None:
        """Return the answers of a baseline."""
        return {"champion": self.champion, "mean": self.mean, "pooled": self.pooled}[than]


class Gate:
    """The conditions of a model, ready to be asked of many candidates."""

    def __init__(self, conditions: Sequence[Condition], metrics: Mapping[str, Metric]) -> None:
        """Take the declared conditions; where there are none, a version may not be clearly worse than its champion."""
        self.conditions = tuple(conditions) or (no_worse(next(iter(metrics)), than="champion"),)
        self.metrics = metrics

    @property
    def asks_about_pooled(self) -> bool:
        """Return whether a condition compares with the pooled model."""
        return any(condition.than == "pooled" for condition in self.conditions)

    @property
    def asks_about_slices(self) -> bool:
        """Return whether a condition is about some of the rows only."""
        return any(condition.on for condition in self.conditions)

    def refusal(self, candidate: Candidate) -> tuple[Condition, str] | None:
        """Return the first condition that does not hold, and why; None where all hold."""
        for condition in self.conditions:
            found = candidate.on(condition)
            if found is not None and (why := self._why_not(condition, found)):
                return condition, why
        return None

    def _why_not(self, condition: Condition, found: Candidate) -> str:
        if condition.asks == "at_least":
            return self._below(condition, found)
        baseline = found.baseline(condition.than)
        if baseline is None:
            return ""
        if len(found.truth) < FEWEST:
            return f"{len(found.truth)} test rows are too few to say"
        paired = compare(condition.metric, found.truth, found.answers, baseline, found.lengths)
        if condition.asks == "no_worse":
            return self._told(condition, found, baseline, "clearly worse") if clear_sign(paired) > 0 else ""
        return self._not_better(condition, found, baseline, paired)

    def _below(self, condition: Condition, found: Candidate) -> str:
        value = self.metrics[condition.metric](found.truth, found.answers)
        # Written so that a metric which is no number does not pass.
        holds = value <= condition.value if not higher_is_better(condition.metric) else value >= condition.value
        return "" if holds else f"{condition.metric} {value:.4g} on {len(found.truth):,} rows"

    def _not_better(self, condition: Condition, found: Candidate, baseline: Floats, paired: Paired) -> str:
        own, other = self._values(condition, found, baseline)
        margin = condition.value * abs(other)
        better = own >= other + margin if higher_is_better(condition.metric) else own <= other - margin
        if not better or own == other:
            return self._told(condition, found, baseline, "")
        if condition.than == "champion" and clear_sign(paired) >= 0:
            return self._told(condition, found, baseline, "not clearly better")
        return ""

    def _values(self, condition: Condition, found: Candidate, baseline: Floats) -> tuple[float, float]:
        metric = self.metrics[condition.metric]
        return metric(found.truth, found.answers), metric(found.truth, baseline)

    def _told(self, condition: Condition, found: Candidate, baseline: Floats, verdict: str) -> str:
        own, other = self._values(condition, found, baseline)
        ending = f": {verdict}" if verdict else ""
        return f"{condition.metric} {own:.4g}, the {condition.than}'s {other:.4g}, on {len(found.truth):,} rows{ending}"


def compare(metric: str, truth: Floats, answers: Floats, others: Floats, lengths: NDArray[np.int64]) -> Paired:
    """Compare answers with others to the same rows, by the loss that belongs to a metric."""
    measure, first = losses(metric, truth, answers)
    _, second = losses(metric, truth, others)
    return pair(measure, first, second, lengths)


def clear_sign(paired: Paired) -> int:
    """Return -1 where the first is clearly better, 1 where it is clearly worse, else 0."""
    if paired.segments == 1:
        return paired.worse - paired.better
    return {"better": -1, "worse": 1}.get(paired.verdict(), 0)
