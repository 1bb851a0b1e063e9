"""Which of two releases does better by an outcome that is measured: an A/B test that may be looked at at all times.

Requests are shared by entity, so entities are what was drawn, not requests: one customer who asks a thousand times is one
observation. A side's mean is the sum of its outcomes over the number of its answers, a ratio of two sums over entities, whose
variance the delta method gives (A. Deng, U. Knoblich, J. Lu, Applying the delta method in metric analytics, KDD 2018).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.release.analysis import ALPHA, tuned

FEWEST_ENTITIES = 100
"""Of each side, from which on the interval is trusted: it is one of large samples."""
NARROWEST = 5_000
"""At how many entities the interval is narrowest, beside what one look alone would allow."""
MOST_OF_ONE = 0.1
"""An entity that makes more than this share of a side's variance: large samples say nothing of such a mean yet."""
UNEVEN = 0.001
"""The chance of ever calling two sides uneven which are not."""


class Measured(NamedTuple):
    """What is known of one side: its entities, and the mean of the outcome over its answers."""

    entities: int
    answers: int
    mean: float
    variance: float
    """Of the mean."""
    largest: float
    """The largest share of that variance which a single entity makes."""


def measured(totals: NDArray[np.float64], counts: NDArray[np.int64]) -> Measured:
    """Return what entities come to: `totals`, (entities,), are sums of outcomes, `counts` their answers."""
    n, answers = len(totals), int(counts.sum())
    if n < 2:
        return Measured(n, answers, float(totals.sum() / answers) if answers else 0.0, math.inf, 1.0)
    mean = float(totals.sum() / answers)
    squares = ((totals - mean * counts) * (n / answers)) ** 2
    whole = float(squares.sum())
    return Measured(n, answers, mean, whole / (n * (n - 1)), float(squares.max()) / whole if whole else 0.0)


def difference(own: Measured, other: Measured, alpha: float = ALPHA) -> tuple[float, float]:
    """Return bounds of the difference of two means, own - other, that hold at all times together.

    With a probability of 1 - `alpha`. An asymptotic confidence sequence (I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy,
    A. Ramdas, Annals of Statistics 2024, theorem 2.2) of a difference of means of two samples; the number of entities of both
    is its time. Infinite while a side has too few.
    """
    if why_unknown(own, other):
        return -math.inf, math.inf
    n, middle = own.entities + other.entities, own.mean - other.mean
    grown = n * tuned(NARROWEST, alpha) + 1
    half = math.sqrt((own.variance + other.variance) * grown / (grown - 1) * math.log(grown / alpha**2))
    return middle - half, middle + half


def why_unknown(own: Measured, other: Measured) -> str:
    """Return why nothing is concluded yet; empty where something may be."""
    fewest = min(own.entities, other.entities)
    if fewest < FEWEST_ENTITIES:
        return f"{fewest:,} of {FEWEST_ENTITIES} entities with an outcome on one side"
    largest = max(own.largest, other.largest)
    if largest > MOST_OF_ONE:
        return f"one entity makes {100 * largest:.0f} % of a side's variance: too few of the large ones were seen"
    return ""


def uneven(own: int, other: int, share: float) -> bool:
    """Return whether two sides have so many entities as a share can hardly give: then one loses some, and nothing holds.

    The ratio of what a uniform prior of the share expects to what the declared one does: an e-process, valid at all times
    (M. Lindon, A. Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022).
    """
    n = own + other
    mixed = math.lgamma(own + 1) + math.lgamma(other + 1) - math.lgamma(n + 2)
    return mixed - own * math.log(share) - other * math.log(1 - share) >= -math.log(UNEVEN)
