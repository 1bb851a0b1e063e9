"""Built-in metrics of a model on its test rows, in numpy; equal to scikit-learn's to 1e-12.

A regression metric takes true and predicted numbers, each of shape (n,). A classification metric takes true codes
(n,) and probabilities (n, classes), whose argmax is the predicted class. Definitions follow the scikit-learn user
guide, section "Metrics and scoring".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import DeclarationInvalid, did_you_mean

Floats = NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]

_EPSILON = float(np.finfo(np.float64).eps)


def mae(y: Floats, p: Floats) -> float:
    """Mean absolute error: mean |y - p|, in the target's unit."""
    return float(np.abs(y - p).sum() / len(y))


def rmse(y: Floats, p: Floats) -> float:
    """Root mean squared error: sqrt(mean (y - p)^2), in the target's unit."""
    error = y - p
    return float(np.sqrt(error @ error / len(error)))


def mape(y: Floats, p: Floats) -> float:
    """Mean absolute percentage error as a share: mean |y - p| / max(|y|, eps)."""
    return float((np.abs(y - p) / np.maximum(np.abs(y), _EPSILON)).sum() / len(y))


def r2(y: Floats, p: Floats) -> float:
    """Coefficient of determination: 1 - sum (y - p)^2 / sum (y - mean y)^2; of constant y, 1 if exact, else 0."""
    error, spread = y - p, y - y.sum() / len(y)
    residual, total = float(error @ error), float(spread @ spread)
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total


def accuracy(y: Floats, p: Floats) -> float:
    """Share of rows whose most probable class is the true one."""
    return float((p.argmax(axis=1) == y).mean())


def f1(y: Floats, p: Floats) -> float:
    """F1 = 2TP / (2TP + FP + FN): of class 1 for two classes, else the mean over classes seen (macro)."""
    predicted = p.argmax(axis=1)
    codes = [1] if p.shape[1] == 2 else sorted({*y.astype(int).tolist(), *predicted.tolist()})
    return float(np.mean([_f1_of(y == code, predicted == code) for code in codes]))


def _f1_of(true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    hits = int((true & predicted).sum())
    involved = int(true.sum()) + int(predicted.sum())
    return 2 * hits / involved if involved else 0.0


def roc_auc(y: Floats, p: Floats) -> float:
    """Area under the ROC curve of class 1, by ranks (Mann-Whitney U, ties share their mean rank); nan for one class."""
    score, positive = p[:, 1], y == 1
    ones = int(positive.sum())
    zeros = len(y) - ones
    if not ones or not zeros:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def log_loss(y: Floats, p: Floats) -> float:
    """Mean of -ln(probability of the true class), probabilities clipped to [eps, 1 - eps]."""
    chosen = p[np.arange(len(y)), y.astype(int)]
    return float(-np.log(np.clip(chosen, _EPSILON, 1 - _EPSILON)).mean())


def of_each(name: str, y: Floats, p: Floats, starts: NDArray[np.int64]) -> Floats:
    """Return a built-in regression metric of each of many segments, which lie one after the other from `starts` on.

    It is the metric of that name up to the rounding of sums.
    """
    counts = np.diff(np.append(starts, len(y)))
    with np.errstate(all="ignore"):
        return _OF_EACH[name](y, p, starts, counts)


def _mae_of_each(y: Floats, p: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    return _sums(np.abs(y - p), starts) / counts


def _rmse_of_each(y: Floats, p: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    return np.sqrt(_sums((y - p) ** 2, starts) / counts)


def _mape_of_each(y: Floats, p: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    return _sums(np.abs(y - p) / np.maximum(np.abs(y), _EPSILON), starts) / counts


def _r2_of_each(y: Floats, p: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    residual = _sums((y - p) ** 2, starts)
    total = _sums((y - np.repeat(_sums(y, starts) / counts, counts)) ** 2, starts)
    constant = np.maximum.reduceat(y, starts) == np.minimum.reduceat(y, starts)
    found = 1.0 - residual / np.where(constant, 1.0, total)
    # There it jumps, and whether a sum is exactly 0 depends on how it is rounded: the definition itself decides.
    for place in np.flatnonzero(constant):
        rows = slice(starts[place], starts[place] + counts[place])
        found[place] = r2(y[rows], p[rows])
    return found


def _sums(values: Floats, starts: NDArray[np.int64]) -> Floats:
    sums: Floats = np.add.reduceat(values, starts)
    return sums


_OF_EACH = {"mae": _mae_of_each, "rmse": _rmse_of_each, "mape": _mape_of_each, "r2": _r2_of_each}
REGRESSION: dict[str, Metric] = {"mae": mae, "rmse": rmse, "mape": mape, "r2": r2}
CLASSIFICATION: dict[str, Metric] = {"accuracy": accuracy, "f1": f1, "roc_auc": roc_auc, "log_loss": log_loss}
MEANS = ("mae", "rmse", "mape", "log_loss", "accuracy")
"""Metrics that are a mean over rows, or the root of one: whether these got worse can be said while labels come."""
HIGHER_IS_BETTER = frozenset({"r2", "accuracy", "f1", "roc_auc"})

_DEFAULTS = {
    "regression": ("mae", "rmse", "r2"),
    "binary": ("log_loss", "accuracy", "roc_auc"),
    "multiclass": ("log_loss", "accuracy", "f1"),
}


def default_metrics(task: str) -> tuple[str, ...]:
    """Return the metrics of a task; the first is its score."""
    return _DEFAULTS[task]


def metrics_for(task: str) -> dict[str, Metric]:
    """Return all built-in metrics that fit a task."""
    if task == "regression":
        return REGRESSION
    return CLASSIFICATION if task == "binary" else {n: m for n, m in CLASSIFICATION.items() if n != "roc_auc"}


def higher_is_better(name: str) -> bool:
    """Return whether a larger value of this metric is the better one; of a user's metric it is not."""
    return name in HIGHER_IS_BETTER


def check_metric(name: str, task: str, own: dict[str, Metric]) -> None:
    """Refuse a metric that neither modelmill nor the model file defines for this task."""
    known = {**metrics_for(task), **own}
    if name not in known:
        raise DeclarationInvalid(f"there is no {task} metric `{name}`", likely=did_you_mean(name, known))
