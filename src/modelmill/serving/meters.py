"""What a worker counts: answers, refusals and latencies, of the node and of each segment.

Latencies are counted in classes whose bounds grow by a fifth, from a microsecond to half a minute: counts of classes
add over workers and minutes, and a quantile read from them is wrong by a tenth at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

CLASSES = 96
BOUNDS: tuple[float, ...] = tuple(1e-6 * 1.2**power for power in range(CLASSES - 1))
"""Seconds; class n holds latencies below bound n and from bound n - 1 on."""

Counts = Sequence[int]
Place = tuple[str, str, int]
"""A model, one of its segments, as text, and the release that answered; segments that it does not know are `UNKNOWN`."""
UNKNOWN = "*"


def quantile(counts: Counts, share: float) -> float | None:
    """Return the latency in seconds that a share of the requests stays below; None where there are none."""
    total = sum(counts)
    if not total:
        return None
    reached = next(place for place, below in enumerate(accumulate(counts)) if below >= share * total)
    # The middle of the class, as a ratio.
    return float(BOUNDS[min(reached, CLASSES - 2)] / 1.2**0.5)


def added(several: Iterable[Counts]) -> list[int]:
    """Return counts of classes, added."""
    return [sum(counts) for counts in zip([0] * CLASSES, *several, strict=True)]


class Meter:
    """What one segment was asked since it was last looked at."""

    __slots__ = ("classes", "count", "failed")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count = 0
        self.failed = 0
        """How often its own model gave no usable answer."""
        self.classes: dict[int, int] = {}
        """Requests by class of their latency."""


class Counted(NamedTuple):
    """What one segment was asked over a time."""

    times: int
    failed: int
    classes: Mapping[int, int]


class Meters:
    """The counts of one worker."""

    def __init__(self) -> None:
        self.latencies = [0] * CLASSES
        self.answered = self.refused = self.failed = 0
        self._of: dict[Place, Meter] = {}

    def of(self, place: Place) -> Meter:
        """Return a segment's meter; whoever keeps it need not look for it again."""
        meter = self._of.get(place)
        if meter is None:
            meter = self._of[place] = Meter()
        return meter

    def count(self, status: int, seconds: float, places: Iterable[tuple[Place, bool]] = ()) -> None:
        """Count one request, and the segments that it was about: each with whether its own model failed."""
        found = bisect_right(BOUNDS, seconds)
        self.latencies[found] += 1
        if status < 400:
            self.answered += 1
        elif status < 500:
            self.refused += 1
        else:
            self.failed += 1
        for place, failed in places:
            meter = self.of(place)
            meter.count += 1
            meter.failed += failed
            meter.classes[found] = meter.classes.get(found, 0) + 1

    def count_answer(self, seconds: float, meter: Meter) -> None:
        """Count one request that was answered by one segment's model."""
        found = bisect_right(BOUNDS, seconds)
        self.latencies[found] += 1
        self.answered += 1
        meter.count += 1
        meter.classes[found] = meter.classes.get(found, 0) + 1

    def forget(self, served: Container[tuple[str, int]]) -> None:
        """Let go of the meters of releases that serve no more: `served` are models with their releases.

        What one of them has counted and nobody has taken yet stays.
        """
        self._of = {place: one for place, one in self._of.items() if one.count or (place[0], place[2]) in served}

    def take(self) -> Mapping[Place, Counted]:
        """Return what the segments counted, and begin anew."""
        found = {}
        for place, meter in self._of.items():
            if meter.count:
                found[place] = Counted(meter.count, meter.failed, meter.classes)
                meter.clear()
        return found
