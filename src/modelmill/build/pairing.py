"""Two models on the same rows: how much they differ, with an interval, and for which segments that is clear.

Every row is answered by both, so that only the difference of their losses counts, and what makes a row hard falls out.
The rows of one segment are not independent, therefore the interval takes segments as clusters: the sandwich estimate of
Liang and Zeger (1986), with G / (G - 1) and the t distribution of G - 1 degrees of freedom (Cameron and Miller, "A
Practitioner's Guide to Cluster-Robust Inference", 2015, II.B). Several arms share the error: the interval of each is taken
at 1 - 0.05 / arms (Dunn 1961, "Bonferroni").
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
CLEAR = 0.9545
"""A segment is clearly better or worse beyond this quantile: that of two standard errors, of many rows."""
FEWEST = 5
"""With fewer test rows than that no segment is called clearly anything."""
_ROUNDING = 1e-9
"""Differences that are smaller, as a share of the losses, are rounding: packed answers differ from others' by an ulp."""
_EXACT_BELOW = 60


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The mean loss of one model less that of another on the same rows; below zero the first is better."""

    measure: str
    """The loss: ``mae``, ``mse``, ``mape``, ``log_loss`` or ``error rate``."""
    first: float
    second: float
    """The mean losses."""
    difference: float
    error: float
    """The standard error of the difference."""
    freedom: int
    """Degrees of freedom: segments - 1; of a single segment, rows - 1."""
    rows: int
    segments: int
    better: int
    """Segments in which the first is clearly better."""
    worse: int
    unjudged: int
    """Segments with fewer than `FEWEST` rows."""

    def interval(self, arms: int = 1) -> tuple[float, float]:
        """Return the 95 % interval of the difference, corrected for so many arms; infinite where it is not known."""
        if self.freedom < 1:
            return -math.inf, math.inf
        half = t_quantile(1 - (1 - LEVEL) / arms, self.freedom) * self.error
        return self.difference - half, self.difference + half

    def verdict(self, arms: int = 1) -> str:
        """Return ``better`` or ``worse`` where the interval does not hold zero, else ``no real difference``."""
        low, high = self.interval(arms)
        return "better" if high < 0 else "worse" if low > 0 else "no real difference"


def losses(metric: str, y: Floats, p: Floats) -> tuple[str, Floats]:
    """Return the name and the values (rows,) of the loss that belongs to a metric.

    A metric that is no mean over rows is judged by the loss behind it: rmse and r2 by the squared error, f1 and roc_auc by
    the logarithmic loss. A metric of the user's own is judged by mae or log_loss.
    """
    if p.ndim == 1:
        return _regression_losses(metric, y, p)
    if metric == "accuracy":
        return "error rate", (p.argmax(axis=1) != y).astype(np.float64)
    eps = float(np.finfo(np.float64).eps)
    return "log_loss", -np.log(np.clip(p[np.arange(len(y)), y.astype(int)], eps, 1 - eps))


def _regression_losses(metric: str, y: Floats, p: Floats) -> tuple[str, Floats]:
    if metric in ("rmse", "r2"):
        return "mse", (y - p) ** 2
    if metric == "mape":
        return "mape", np.abs(y - p) / np.maximum(np.abs(y), float(np.finfo(np.float64).eps))
    return "mae", np.abs(y - p)


def pair(measure: str, first: Floats, second: Floats, lengths: NDArray[np.int64]) -> Paired:
    """Compare two models by their losses on the same rows; `lengths` says how many rows each segment has, in order."""
    difference = first - second
    difference[np.abs(difference) <= _ROUNDING * np.maximum(np.abs(first), np.abs(second))] = 0.0
    starts = np.cumsum(lengths) - lengths
    judged = clearly(difference, lengths)
    rows, segments = len(difference), len(lengths)
    mean = float(difference.mean())
    if segments > 1:
        residuals = np.add.reduceat(difference - mean, starts)
        freedom = segments - 1
    else:
        residuals, freedom = difference - mean, rows - 1
    spread = float(residuals @ residuals) * (freedom + 1) / freedom if freedom else math.inf
    return Paired(
        measure=measure,
        first=float(first.mean()),
        second=float(second.mean()),
        difference=mean,
        error=math.sqrt(spread) / rows if freedom else 0.0,
        freedom=freedom,
        rows=rows,
        segments=segments,
        better=int((judged < 0).sum()),
        worse=int((judged > 0).sum()),
        unjudged=int((lengths < FEWEST).sum()),
    )


def clearly(difference: Floats, lengths: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return -1 for each segment in which the difference is clearly below zero, 1 where clearly above, else 0.

    The paired t test of the segment's rows, at the two-sided level `CLEAR` with rows - 1 degrees of freedom.
    """
    starts = np.cumsum(lengths) - lengths
    mean = np.add.reduceat(difference, starts) / lengths
    residuals = difference - np.repeat(mean, lengths)
    enough = lengths >= FEWEST
    freedom = np.maximum(lengths - 1, 1)
    error = np.sqrt(np.add.reduceat(residuals**2, starts) / freedom / lengths)
    limits = np.array([t_quantile(CLEAR, count) for count in freedom.tolist()])
    clear = enough & (np.abs(mean) > limits * error)
    return np.where(clear, np.sign(mean), 0).astype(np.int8)


@lru_cache(maxsize=4096)
def t_quantile(level: float, freedom: int) -> float:
    """Return the t within which a share `level` of Student's distribution lies, two-sided.

    Abramowitz and Stegun, 26.7.3 and 26.7.4 (exact) for few degrees of freedom, else 26.7.5 (to 1e-6).
    """
    if freedom >= _EXACT_BELOW:
        z = NormalDist().inv_cdf((1 + level) / 2)
        terms = (
            z,
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        return float(sum(term / freedom**power for power, term in enumerate(terms)))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return the probability that |t| < sqrt(freedom) tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for power in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
