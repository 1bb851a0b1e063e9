"""Linear models as arrays: scores are ``x @ coef.T + intercept``, and a link makes answers of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.layout import Link
from modelmill.artifact.loading import kernels

Floats = NDArray[np.float64]
MANY = 4096
"""From so many rows on numpy is as fast as the kernel, and a build that needs no other need not wait for numba."""


class Linear(NamedTuple):
    """A linear model."""

    coef: Floats
    """(scores, features)."""
    intercept: Floats
    """(scores,)."""
    link: int = Link.IDENTITY.value
    width: int = 1
    """Numbers in an answer: 1, or one a class that the model saw."""

    def fits(self, width: int) -> bool:
        """Return whether its arrays fit one another and so many columns."""
        return self.coef.shape == (len(self.intercept), width) and len(self.intercept) <= self.width

    def evaluate(self, x: Floats, answers: Floats) -> None:
        """Write the answers to (rows, features), (rows, width)."""
        if len(x) >= MANY and self.link == Link.IDENTITY and self.width == 1:
            answers[:, 0] = self.scores(self.coef[0], self.intercept[0], x)
            return
        kernels().linear(self.coef, self.intercept, x, self.link, answers)

    @staticmethod
    def scores(coef: Floats, intercept: Floats, x: Floats) -> Floats:
        """Return what the kernel computes of one score a row, to the last bit, in numpy: `coef` is one model's, or a row's."""
        found = np.zeros(len(x))
        with np.errstate(all="ignore"):  # nor does the kernel warn
            for column in range(x.shape[1]):
                found += x[:, column] * coef[..., column]
            found += intercept
        return found

    def agrees(self, x: Floats, found: Floats, expected: Floats) -> bool:
        """Return whether answers are its library's: within 1e-12 of the sum of |coefficient x feature| + |intercept|.

        Links do not widen a difference of scores, so probabilities are held to the same.
        """
        scale = (np.abs(x) @ np.abs(self.coef).T + np.abs(self.intercept)).max(axis=1, keepdims=True)
        return bool((np.abs(found - expected) <= 1e-12 * scale.reshape(-1, *[1] * (found.ndim - 1))).all())
