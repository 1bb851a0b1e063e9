"""scikit-learn's linear models, read from their coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelmill.artifact.layout import Link
from modelmill.artifact.linear import Linear
from modelmill.artifact.unpackable import Unpackable


def read_regressor(fitted: Any) -> Linear:
    """Return a fitted linear regression."""
    coef = np.atleast_2d(np.asarray(fitted.coef_, dtype=np.float64))
    if len(coef) != 1:
        raise Unpackable("more than one target")
    return Linear(coef, np.asarray(fitted.intercept_, dtype=np.float64).reshape(-1))


def read_logistic(fitted: Any) -> Linear:
    """Return a fitted logistic regression: one sigmoid for two classes, else a softmax (Bishop, PRML, 4.3)."""
    return _classifier(fitted, Link.SOFTMAX)


def read_sgd_classifier(fitted: Any) -> Linear:
    """Return a classifier fitted by stochastic gradient descent: what its answers are depends on its loss."""
    if fitted.loss == "log_loss":
        return _classifier(fitted, Link.ONE_VS_REST)
    if fitted.loss == "modified_huber":
        return _classifier(fitted, Link.CLIPPED)
    return _classifier(fitted, Link.LARGEST)


_OF_TWO = {Link.SOFTMAX: Link.SIGMOID, Link.ONE_VS_REST: Link.SIGMOID, Link.LARGEST: Link.SIGN}


def _classifier(fitted: Any, link: Link) -> Linear:
    coef = np.asarray(fitted.coef_, dtype=np.float64)
    intercept = np.broadcast_to(np.asarray(fitted.intercept_, dtype=np.float64), (len(coef),)).copy()
    of_two = len(coef) == 1
    return Linear(coef, intercept, _OF_TWO.get(link, link) if of_two else link, 2 if of_two else len(coef))


READERS = dict.fromkeys(("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SGDRegressor"), read_regressor)
READERS |= {"LogisticRegression": read_logistic, "SGDClassifier": read_sgd_classifier}
