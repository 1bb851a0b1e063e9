"""`mm.linear`: least squares for a whole fleet, as one stack of small systems.

With the rows of a segment centred, ``c = x - mean(x)`` and ``d = y - mean(y)``, its coefficients w solve

    (c'c + alpha I) w = c'd,    intercept = mean(y) - mean(x) w

(Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 3.2 and 3.4.1). All these systems, each of features x
features, are solved in one call. Each is first scaled to a unit diagonal, which makes its condition number nearly the
least that any scaling can (van der Sluis 1969). The error of such a solution is about that number times 2e-16; where the
number is larger than `CONDITION`, scikit-learn fits the segment, as it also does where a ridge has fewer rows than features.
So coefficients are scikit-learn's to 1e-9 of the largest.
"""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import DeclarationInvalid

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

CONDITION = 1e5
SINGULAR = 4e-6
"""`LinearRegression` leaves out singular values of less than 1e-6 of the largest."""
_BLOCK = 16_384
"""So many rows are centred at once: what a whole table leaves behind in memory costs more than its sums."""
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class LinearFit:
    """A fitted linear model."""

    coef_: Floats
    """(features,)."""
    intercept_: float

    def predict(self, x: Any) -> Floats:
        """Return the answers, (rows,), to ``x`` of (rows, features)."""
        answers: Floats = np.asarray(x, dtype=np.float64) @ self.coef_ + self.intercept_
        return answers


class Coefficients(NamedTuple):
    """Fitted linear models, one a segment."""

    coef: Floats
    """(segments, features)."""
    intercept: Floats
    """(segments,)."""

    def one(self, place: int) -> LinearFit:
        """Return the model of one segment."""
        return LinearFit(self.coef[place].copy(), float(self.intercept[place]))


class LinearTrain:
    """A train function: called with x and y it fits one model; a build that knows it fits all segments at once."""

    __name__ = "linear"

    def __init__(self, alpha: float, fit_intercept: bool) -> None:
        """Take the hyperparameters' defaults."""
        ordinary = inspect.Parameter.POSITIONAL_OR_KEYWORD
        hyper = {"alpha": alpha, "fit_intercept": fit_intercept}
        self.__signature__ = inspect.Signature(
            [
                *(inspect.Parameter(name, ordinary) for name in ("x", "y")),
                *(inspect.Parameter(name, ordinary, default=value) for name, value in hyper.items()),
            ]
        )
        self._defaults = hyper

    def __call__(self, x: Any, y: Any, **hyper: Any) -> LinearFit:
        """Return the model of these rows; NaN and infinity raise ValueError."""
        x, y = np.ascontiguousarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        for name, values in (("x", x), ("y", y)):
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds NaN or infinity; linear() cannot be fitted to it")
        return self.fit_all(x, y, np.array([0]), np.array([len(x)]), **hyper).one(0)

    def fit_all(self, x: Floats, y: Floats, starts: Places, ends: Places, **hyper: Any) -> Coefficients:
        """Return the models of ``x[start:end], y[start:end]``, one for each start; see `fit_all`."""
        return fit_all(x, y, starts, ends, **{**self._defaults, **hyper})


def linear(*, alpha: float = 0.0, fit_intercept: bool = True) -> LinearTrain:
    """Return a train function for ``m.train(mm.linear(alpha=1.0))``: ordinary least squares, or a ridge with `alpha`.

    `alpha` and `fit_intercept` mean what they do in scikit-learn's `Ridge` (`LinearRegression` for alpha 0), and are
    hyperparameters: ``modelmill train --set alpha=0.5``.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < math.inf:
        raise DeclarationInvalid(f"`alpha` of linear() is {alpha!r}", expected="a number from 0 up")
    if not isinstance(fit_intercept, bool):
        raise DeclarationInvalid(f"`fit_intercept` of linear() is {fit_intercept!r}", expected="True or False")
    return LinearTrain(float(alpha), fit_intercept)


def fit_all(
    x: Floats,
    y: Floats,
    starts: Places,
    ends: Places,
    alpha: float,
    fit_intercept: bool,
) -> Coefficients:
    """Return the models of ``x[start:end], y[start:end]``, one for each start.

    Each depends on its own rows alone, to the last bit. A segment whose rows hold NaN or infinity gets NaN. A column that
    is constant in a segment has the coefficient 0 there, as it has in the solution of least norm.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha is {alpha}, and may not be negative")
    with np.errstate(all="ignore"):  # what is not finite is told by what comes out
        return _fit_all(x, y, starts, ends, alpha, fit_intercept)


def _fit_all(x: Floats, y: Floats, starts: Places, ends: Places, alpha: float, fit_intercept: bool) -> Coefficients:
    means, grams, products = _moments(x, y, starts, ends, fit_intercept)
    odd = (
        _drop_constant(x, starts, ends, means, grams, products) if fit_intercept else np.zeros(len(starts), dtype=bool)
    )
    if not alpha:
        odd |= _almost_singular(grams)
    diagonal = np.einsum("sii->si", grams)
    diagonal += alpha
    diagonal[diagonal == 0.0] = 1.0
    coef, conditions = _solve(grams, products)
    alone = odd | (conditions > CONDITION) | ((alpha > 0) & (ends - starts < x.shape[1]))
    for place in np.flatnonzero(alone & ~np.isnan(conditions)):
        rows = slice(starts[place], ends[place])
        coef[place] = _as_scikit_learn(x[rows], y[rows], alpha, fit_intercept)
    intercept = means[:, -1] - np.einsum("sk,sk->s", means[:, :-1], coef)
    return Coefficients(coef, intercept)


def _moments(
    x: Floats,
    y: Floats,
    starts: Places,
    ends: Places,
    center: bool,
) -> tuple[Floats, Floats, Floats]:
    """Return the means of x and y, (segments, features + 1), then c'c and c'd; zero is the mean where none is wanted."""
    segments, features = len(starts), x.shape[1]
    means = np.zeros((segments, features + 1))
    grams, products = np.zeros((segments, features, features)), np.zeros((segments, features))
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        mean = means[place]
        if center:
            mean[:-1], mean[-1] = np.add.reduce(x[start:end], axis=0), np.add.reduce(y[start:end])
            mean /= end - start
        for begin in range(start, end, _BLOCK):
            rows = slice(begin, min(begin + _BLOCK, end))
            c, d = x[rows] - mean[:-1], y[rows] - mean[-1]
            grams[place] += c.T @ c
            products[place] += d @ c
    return means, grams, products


def _drop_constant(
    x: Floats, starts: Places, ends: Places, means: Floats, grams: Floats, products: Floats
) -> NDArray[np.bool_]:
    """Make constant columns zero, of which rounding has left something; return which segments have a nearly constant one."""
    odd = np.zeros(len(starts), dtype=bool)
    counts = (ends - starts)[:, None]
    rounding = counts * (counts * _EPSILON * means[:, :-1]) ** 2
    for place, column in zip(*np.nonzero(np.einsum("sii->si", grams) <= rounding), strict=True):
        values = x[starts[place] : ends[place], column]
        if (values == values[0]).all():
            grams[place, column, :] = grams[place, :, column] = products[place, column] = 0.0
        else:
            odd[place] = True
    return odd


def _almost_singular(grams: Floats) -> NDArray[np.bool_]:
    """Return where scikit-learn's least squares leave out a direction, in which columns as they stand vary too little."""
    empty = np.einsum("sii->si", grams) == 0.0
    # A column of zeros is left out anyway, and is put where it is neither the least nor the largest.
    rest = np.trace(grams, axis1=1, axis2=2) / np.maximum((~empty).sum(axis=1), 1)
    filled = grams + np.where(empty, rest[:, None], 0.0)[:, :, None] * np.eye(grams.shape[1])
    finite = np.isfinite(filled).all(axis=(1, 2))
    values = np.linalg.eigvalsh(np.nan_to_num(filled, posinf=0.0, neginf=0.0))
    return np.asarray(finite & (values[:, :1] <= SINGULAR**2 * values[:, -1:]).any(axis=1))


def _solve(grams: Floats, products: Floats) -> tuple[Floats, Floats]:
    """Return the solutions, (segments, features), and the condition numbers of the scaled systems; NaN where there is NaN."""
    coef, conditions = np.full(products.shape, np.nan), np.full(len(grams), np.nan)
    scale = 1.0 / np.sqrt(np.einsum("sii->si", grams))
    scaled = grams * scale[:, :, None] * scale[:, None, :]
    usable = np.flatnonzero(np.isfinite(scaled).all(axis=(1, 2)) & np.isfinite(products).all(axis=1))
    values = np.linalg.eigvalsh(scaled[usable]) if grams.shape[1] else np.ones((len(usable), 1))
    conditions[usable] = np.where(values[:, 0] > 0, values[:, -1] / np.maximum(values[:, 0], 1e-300), np.inf)
    well = usable[conditions[usable] <= CONDITION]
    right = (products[well] * scale[well])[:, :, None]
    coef[well] = np.linalg.solve(scaled[well], right)[:, :, 0] * scale[well]
    return coef, conditions


def _as_scikit_learn(x: Floats, y: Floats, alpha: float, fit_intercept: bool) -> Floats:
    """Return the coefficients that scikit-learn gives: of least norm where there are many, with its own rounding."""
    library = import_module("sklearn.linear_model")
    model = library.Ridge(alpha=alpha, fit_intercept=fit_intercept) if alpha else None
    model = model or library.LinearRegression(fit_intercept=fit_intercept)
    # Of a constant column rounding may leave something, to which it would fit something.
    varies = (x != x[0]).any(axis=0) if fit_intercept else np.ones(x.shape[1], dtype=bool)
    coef = np.zeros(x.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the system is ill-conditioned is why it is asked
        if varies.any():
            coef[varies] = model.fit(x[:, varies], y).coef_
    return coef
