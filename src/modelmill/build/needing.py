"""Whether a model does what it is needed for: a condition about its metric, with the interval that its test rows allow.

A need is met where the interval of the difference lies on its good side, not met where it lies on the other, and undecided
between: `build.pairing` says how the interval is made. A metric that is no mean over rows (r2, f1, roc_auc, one's own) has
none here, and is compared as a point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from modelmill.build.gating import Candidate
from modelmill.build.pairing import losses, pair
from modelmill.model.conditions import Condition
from modelmill.model.fitted import Floats
from modelmill.model.metrics import Metric, higher_is_better

_MEANS = ("mae", "mape", "log_loss")
_WITH_INTERVAL = (*_MEANS, "rmse", "accuracy")


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """One need, and what the rows say of it."""

    condition: str
    """``better(mae) than mean by 0.1``"""
    verdict: bool | None
    """None: undecided, the rows are too few or too noisy to say."""
    value: float | None
    """The metric of the model on all test rows."""
    limit: float | None
    """What it had to reach."""
    interval: bool
    """Whether an interval decided, or the point itself."""


def judge_need(condition: Condition, found: Candidate, metrics: Mapping[str, Metric]) -> Needed:
    """Say whether a model's answers do what a condition asks of them."""
    metric = metrics[condition.metric]
    value, limit = metric(found.truth, found.answers), _limit(condition, found, metric)
    if limit is None:
        return Needed(condition=str(condition), verdict=None, value=value, limit=None, interval=False)
    with_interval = condition.metric in _WITH_INTERVAL
    verdict = _by_interval(condition, found) if with_interval else _by_point(condition, value, limit)
    return Needed(
        condition=str(condition),
        verdict=verdict,
        value=value if math.isfinite(value) else None,
        limit=limit if math.isfinite(limit) else None,
        interval=with_interval,
    )


def _limit(condition: Condition, found: Candidate, metric: Metric) -> float | None:
    """Return what the metric has to reach; None where there is no such baseline."""
    if condition.asks == "at_least":
        return condition.value
    baseline = found.baseline(condition.than)
    if baseline is None:
        return None
    other = metric(found.truth, baseline)
    margin = condition.value * abs(other)
    return other + margin if higher_is_better(condition.metric) else other - margin


def _by_point(condition: Condition, value: float, limit: float) -> bool | None:
    if not (math.isfinite(value) and math.isfinite(limit)):
        return None
    reached = value >= limit if higher_is_better(condition.metric) else value <= limit
    return reached and (condition.asks != "better" or value != limit)


def _by_interval(condition: Condition, found: Candidate) -> bool | None:
    measure, own = losses(condition.metric, found.truth, found.answers)
    low, high = pair(measure, own, _allowed(condition, found), found.lengths).interval()
    if condition.asks == "no_worse":
        return None if math.isinf(low) else low <= 0
    return True if high < 0 else False if low > 0 else None


def _allowed(condition: Condition, found: Candidate) -> Floats:
    """Return the loss (rows,) that the condition allows on each row: the model's own may not be larger in the mean."""
    name, share = condition.metric, condition.value
    if condition.asks == "at_least":
        constant = {"rmse": share**2, "accuracy": 1 - share}.get(name, share)
        return np.full(len(found.truth), constant)
    baseline = found.baseline(condition.than)
    assert baseline is not None  # noqa: S101 - the caller has looked
    _, loss = losses(name, found.truth, baseline)
    if name == "accuracy":
        return 1 - (1 + share) * (1 - loss)
    return loss * ((1 - share) ** 2 if name == "rmse" else 1 - share)
