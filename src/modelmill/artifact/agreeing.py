"""How far apart answers are that were computed in two ways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.saved import Floats

FLOOR = 0.01
"""Of the largest answer, the size below which all count as of this size."""


def apart(found: Floats, expected: Floats) -> NDArray[np.float64]:
    """Return how far each of one model's answers is from what was expected, as a share of the larger of the two.

    Of an answer near zero it is a share of a hundredth of the largest: such an answer is the difference of numbers that were
    each rounded at their own size, so its own size says nothing of what rounding does to it. NaN where one is no number.
    """
    sizes = np.maximum(np.abs(found), np.abs(expected))
    floor = max(FLOOR * float(sizes.max(initial=0.0, where=np.isfinite(sizes))), np.finfo(np.float64).tiny)
    with np.errstate(invalid="ignore"):  # of infinity from infinity
        shares: NDArray[np.float64] = np.abs(found - expected) / np.maximum(sizes, floor)
    return shares
