"""`mm.linear`: least squares, or ridge, for each segment - and for all segments of a chunk at once.

What it returns is an ordinary train function; a build that recognises it solves many segments as one stack of systems.
With centred features X (n, k) and target y, the coefficients b solve (X'X + alpha I) b = X'y; the intercept is
mean(y) - mean(x) b (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 3.2 and 3.4.1). As in
scikit-learn's `Ridge` and `LinearRegression`, the intercept is not penalised.

A system is solved through X'X only where it is well-conditioned, once its columns have been scaled to length 1 (scaling
changes neither the solution nor Cholesky's error: van der Sluis, 1969); then the coefficients are scikit-learn's to 1e-9.
All others are solved one by one, through the singular values of X: of several solutions the smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import DeclarationInvalid

Floats = NDArray[np.float64]
MOST_CONDITION = 1e5
"""Of X'X with columns of length 1: above it the solution through X'X may differ from that of X by more than 1e-9."""
MOST_OFFSET = 1e6
"""How many standard deviations a feature's mean may be from zero: centring loses as many digits."""
_SMALLEST = float(np.finfo(np.float64).eps)


class Linear:
    """A fitted linear model, named as scikit-learn names its parts."""

    __slots__ = ("coef_", "intercept_")

    def __init__(self, coef: Floats, intercept: float) -> None:
        """Take (features,) coefficients."""
        self.coef_, self.intercept_ = coef, intercept

    @property
    def n_features_in_(self) -> int:
        """Return how many features it takes."""
        return len(self.coef_)

    def predict(self, x: Floats) -> Floats:
        """Return (rows,) answers to (rows, features)."""
        found: Floats = np.asarray(x, dtype=np.float64) @ self.coef_ + self.intercept_
        return found


class Solved(NamedTuple):
    """The models of many segments."""

    coef: Floats
    """(segments, features)."""
    intercept: Floats
    """(segments,)."""
    known: NDArray[np.bool_]
    """Which segments were solved; the others are for `fit_one`."""


class LinearTrain:
    """The train function that `linear` returns."""

    def __init__(self, alpha: float, *, fit_intercept: bool) -> None:
        """Take the defaults of its hyperparameters."""
        self.alpha, self.fit_intercept = alpha, fit_intercept
        self.__name__ = "linear"

    @property
    def __signature__(self) -> Any:
        from inspect import Parameter, Signature

        kind = Parameter.POSITIONAL_OR_KEYWORD
        defaults = {"alpha": self.alpha, "fit_intercept": self.fit_intercept}
        asked = [Parameter(name, kind) for name in ("x", "y")]
        return Signature([*asked, *(Parameter(name, kind, default=value) for name, value in defaults.items())])

    def __call__(self, x: Floats, y: Floats, alpha: float | None = None, fit_intercept: bool | None = None) -> Linear:
        """Fit one segment: x (rows, features), y (rows,)."""
        wanted = self.alpha if alpha is None else alpha, self.fit_intercept if fit_intercept is None else fit_intercept
        return fit_one(x, y, *_checked(*wanted))

    def solve(self, x: Floats, y: Floats, spans: Sequence[tuple[int, int]], parameters: dict[str, Any]) -> Solved:
        """Fit all segments whose training rows lie from `start` to before `end`."""
        wanted = {"alpha": self.alpha, "fit_intercept": self.fit_intercept} | parameters
        return solve_all(x, y, spans, *_checked(wanted["alpha"], wanted["fit_intercept"]))


def linear(*, alpha: float = 0.0, fit_intercept: bool = True) -> Callable[..., Linear]:
    """Return a train function for linear models: ``sales.train(mm.linear(alpha=1.0))``.

    `alpha`: the weight of the squared coefficients, 0 for least squares. `fit_intercept`: whether a constant is added.
    Both are hyperparameters: ``modelmill train --set alpha=0.5``. Raises `DeclarationInvalid` for an impossible one; a
    segment with NaN or infinity among its features fails alone.
    """
    alpha, fit_intercept = _checked(alpha, fit_intercept)
    return LinearTrain(alpha, fit_intercept=fit_intercept)


def _checked(alpha: Any, fit_intercept: Any) -> tuple[float, bool]:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise DeclarationInvalid(
            "`alpha` of mm.linear() is no weight", expected="a number from 0", got=repr(alpha)[:40]
        )
    if not isinstance(fit_intercept, bool):
        raise DeclarationInvalid("`fit_intercept` of mm.linear() is true or false", got=repr(fit_intercept)[:40])
    return float(alpha), fit_intercept


# ------------------------------------------------------------------ one segment


def fit_one(x: Floats, y: Floats, alpha: float, fit_intercept: bool) -> Linear:
    """Fit one segment; x (rows, features), y (rows,). Raises `ValueError` for NaN and infinity."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("mm.linear() cannot fit NaN or infinity; fill or drop them in @features")
    solved = solve_all(x, y, [(0, len(x))], alpha, fit_intercept)
    if solved.known[0]:
        return Linear(solved.coef[0], float(solved.intercept[0]))
    return _by_singular_values(x, y, alpha, fit_intercept)


def _by_singular_values(x: Floats, y: Floats, alpha: float, fit_intercept: bool) -> Linear:
    """Fit through the singular values of X: b = V diag(s / (s^2 + alpha)) U'y, the smallest of several solutions."""
    middle, level = (x.mean(axis=0), y.mean()) if fit_intercept else (np.zeros(x.shape[1]), 0.0)
    u, s, vt = np.linalg.svd(x - middle, full_matrices=False)
    large = s > _SMALLEST * max(x.shape) * s.max(initial=0.0)
    factors = np.divide(s, s * s + alpha, out=np.zeros_like(s), where=large)
    coef = vt.T @ (factors * (u.T @ (y - level)))
    return Linear(coef, float(level - middle @ coef))


# ------------------------------------------------------------------ all segments


def solve_all(
    x: Floats,
    y: Floats,
    spans: Sequence[tuple[int, int]],
    alpha: float,
    fit_intercept: bool,
) -> Solved:
    """Fit segments as one stack of systems (segments, features, features); see `LinearTrain.solve`."""
    width = x.shape[1]
    counts = np.array([end - start for start, end in spans])
    middles, levels = np.zeros((len(spans), width)), np.zeros(len(spans))
    if fit_intercept:
        middles, levels = _means(x, spans, counts[:, None]), _means(y, spans, counts)
    grams, moments = np.empty((len(spans), width, width)), np.empty((len(spans), width))
    for place, (start, end) in enumerate(spans):
        rows = x[start:end] - middles[place]
        np.matmul(rows.T, rows, out=grams[place])
        np.matmul(rows.T, y[start:end] - levels[place], out=moments[place])
    known = _is_centred_well(middles, np.einsum("ijj->ij", grams), counts)
    grams[:, range(width), range(width)] += alpha
    coef, conditioned = _solve(grams, moments)
    return Solved(coef, levels - (middles * coef).sum(axis=1), known & conditioned & np.isfinite(coef).all(axis=1))


def _means(values: Floats, spans: Sequence[tuple[int, int]], counts: NDArray[np.int64]) -> Floats:
    """Return the mean of each span of rows."""
    places = [place for span in spans for place in span]
    if places[-1] == len(values):
        places.pop()
    found: Floats = np.add.reduceat(values, places)[::2] / counts
    return found


def _is_centred_well(middles: Floats, spread: Floats, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where no feature's mean swallows its deviations, but for a feature that is exactly constant at zero."""
    deviation = np.sqrt(spread / counts[:, None])
    return np.asarray((np.abs(middles) <= MOST_OFFSET * deviation).all(axis=1))


def _solve(grams: Floats, moments: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the solutions, and which systems are well-conditioned; the others' solutions mean nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(np.einsum("ijj->ij", grams))
        scaled = grams / (lengths[:, :, None] * lengths[:, None, :])
    usable = np.isfinite(scaled).all(axis=(1, 2)) & np.isfinite(moments).all(axis=1)
    scaled[~usable] = np.eye(grams.shape[1])
    values = np.linalg.eigvalsh(scaled)
    usable &= values[:, 0] * MOST_CONDITION >= values[:, -1]
    scaled[~usable] = np.eye(grams.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.linalg.solve(scaled, (moments / lengths)[:, :, None])[:, :, 0] / lengths
    return found, usable
