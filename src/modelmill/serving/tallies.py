"""What became of the copies that a shadow answered: how many, and how far its answers were from those that were given."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from modelmill.serving.meters import BOUNDS, CLASSES, quantile


class Tally(msgspec.Struct):
    """The copies of one segment, or of all of them, over a time."""

    count: int = 0
    """Rows that were answered, or failed."""
    failed: int = 0
    """Rows to which its own model gave no usable answer."""
    equal: int = 0
    """Answers that are the number that was given, to the last bit, or all of whose probabilities are."""
    agreed: int = 0
    """Answers with the label that was given; without labels, the equal ones."""
    dropped: int = 0
    """Copies that were not answered, since others waited already."""
    total: float = 0.0
    """The sum of the absolute differences; of probabilities the largest one of a row counts."""
    largest: float = 0.0
    classes: dict[int, int] = {}
    """Rows by class of what an answer took, see `meters`."""

    def add(self, answer: Sequence[float], given: Sequence[float], seconds: float, *, labels: bool) -> None:
        """Count an answer beside the one that was given, each a number or a probability a class."""
        self.count += 1
        self._took(seconds)
        if answer == given:
            self.equal += 1
            self.agreed += 1
            return
        far = max([abs(one - other) for one, other in zip(answer, given, strict=True)])
        self.total += far
        self.largest = max(self.largest, far)
        if labels and answer.index(max(answer)) == given.index(max(given)):
            self.agreed += 1

    def fail(self, seconds: float) -> None:
        """Count a row without an answer."""
        self.count += 1
        self.failed += 1
        self._took(seconds)

    def _took(self, seconds: float) -> None:
        found = bisect_right(BOUNDS, seconds)
        self.classes[found] = self.classes.get(found, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add what another one counted."""
        for name in ("count", "failed", "equal", "agreed", "dropped", "total"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        for place, count in other.classes.items():
            self.classes[place] = self.classes.get(place, 0) + count

    @property
    def compared(self) -> int:
        """Return how many answers there were to compare."""
        return self.count - self.failed

    @property
    def mean(self) -> float:
        """Return the mean absolute difference of the answers; 0 where there are none."""
        return self.total / self.compared if self.compared else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return what is told of it: counts, differences, and the latencies' quantiles in milliseconds."""
        classes = self.listed()
        p50, p99 = quantile(classes, 0.5), quantile(classes, 0.99)
        return {
            "copies": self.count,
            "failed": self.failed,
            "equal": self.equal,
            "agreed": self.agreed,
            "dropped": self.dropped,
            "mean_difference": self.mean,
            "largest_difference": self.largest,
            "p50_ms": None if p50 is None else 1000 * p50,
            "p99_ms": None if p99 is None else 1000 * p99,
        }

    def listed(self) -> list[int]:
        """Return the classes of latencies as `meters` has them."""
        return [self.classes.get(place, 0) for place in range(CLASSES)]


class Apart(NamedTuple):
    """One segment whose answers differ, or fail."""

    segment: str
    tally: Tally
