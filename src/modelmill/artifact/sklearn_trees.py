"""scikit-learn's trees and ensembles, read from their node tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelmill.artifact.columns import Column, Step, split_missing, untouched
from modelmill.artifact.layout import Flag, Link, Op
from modelmill.artifact.trees import NO_LEAVES, NO_SETS, Tables, Trees, lay_out
from modelmill.artifact.unpackable import Unpackable

_NO_CHILD = -1
_SET_WORDS = 8
"""HistGradientBoosting knows at most 255 categories of a column."""


def read_tree(fitted: Any) -> Trees:
    """Return a fitted decision tree."""
    return _mean_of([fitted], fitted)


def read_forest(fitted: Any) -> Trees:
    """Return a fitted forest: the mean of its trees, added in their order (Breiman, 2001)."""
    return _mean_of(list(fitted.estimators_), fitted)


def _mean_of(trees: list[Any], fitted: Any) -> Trees:
    if fitted.n_outputs_ != 1:
        raise Unpackable("more than one target")
    states = [tree.tree_.__getstate__() for tree in trees]
    values = np.concatenate([state["values"][:, 0, :] for state in states])
    tables = _tables(states, values[:, 0])
    nodes, roots = lay_out(tables)
    missing = bool(trees[0]._support_missing_values(np.zeros((1, 1))))  # noqa: SLF001 - predict() itself asks this
    if not hasattr(fitted, "classes_"):
        return Trees(nodes, roots, np.zeros(1), link=Link.MEAN, scale=len(trees), single=True, missing=missing)
    leaves = np.ascontiguousarray(values[tables.leaf])
    width = leaves.shape[1]
    return Trees(nodes, roots, np.zeros(1), leaves=leaves, link=Link.MEAN, width=width, single=True, missing=missing)


def _tables(states: list[dict[str, Any]], values: Any) -> Tables:
    nodes = np.concatenate([state["nodes"] for state in states])
    leaf = nodes["left_child"] == _NO_CHILD
    return Tables(
        sizes=[len(state["nodes"]) for state in states],
        left=nodes["left_child"],
        right=nodes["right_child"],
        leaf=leaf,
        feature=nodes["feature"],
        value=np.where(leaf, values, nodes["threshold"]),
        flags=np.where(nodes["missing_go_to_left"] != 0, int(Flag.MISSING_LEFT), 0),
    )


def read_gradient_boosting(fitted: Any) -> Trees:
    """Return a fitted GradientBoosting model: a start, and the learning rate times each tree (Friedman, 2001)."""
    trees = fitted.estimators_.ravel()
    states = [tree.tree_.__getstate__() for tree in trees]
    values = np.concatenate([state["values"][:, 0, 0] for state in states])
    nodes, roots = lay_out(_tables(states, fitted.learning_rate * values))
    return Trees(nodes, roots, _start(fitted), **_ending(fitted), single=True)


def _start(fitted: Any) -> Any:
    if fitted.init is not None and not (isinstance(fitted.init, str) and fitted.init == "zero"):
        raise Unpackable("an initial model of its own")
    raw = fitted._raw_predict_init(np.zeros((1, fitted.n_features_in_), dtype=np.float32))  # noqa: SLF001 - a constant
    return np.asarray(raw, dtype=np.float64).reshape(-1)


def _ending(fitted: Any) -> dict[str, Any]:
    """Return the link of a boosted model, its scale and its width."""
    if not hasattr(fitted, "classes_"):
        link = type(fitted._loss.link).__name__  # noqa: SLF001 - which no public attribute tells
        if link not in {"IdentityLink", "LogLink"}:
            raise Unpackable(f"the link {link}")
        return {"link": Link.EXP if link == "LogLink" else Link.IDENTITY}
    loss = type(fitted._loss).__name__  # noqa: SLF001
    if loss == "HalfMultinomialLoss":
        return {"link": Link.SOFTMAX, "width": len(fitted.classes_)}
    scales = {"HalfBinomialLoss": 1.0, "ExponentialLoss": 2.0}
    if loss not in scales:
        raise Unpackable(f"the loss {loss}")
    return {"link": Link.SIGMOID, "scale": scales[loss], "width": 2}


def read_hist_gradient_boosting(fitted: Any) -> Trees:
    """Return a fitted HistGradientBoosting model: a baseline and the leaf values of all trees."""
    predictors = [predictor for iteration in fitted._predictors for predictor in iteration]  # noqa: SLF001
    nodes = np.concatenate([predictor.nodes for predictor in predictors])
    sizes = [len(predictor.nodes) for predictor in predictors]
    leaf, of_sets = nodes["is_leaf"] != 0, nodes["is_categorical"] != 0
    sets, begins = _sets(predictors, sizes, nodes)
    value = np.where(leaf, nodes["value"], np.where(of_sets, begins, nodes["num_threshold"]))
    flags = np.where(nodes["missing_go_to_left"] != 0, int(Flag.MISSING_LEFT), 0) | np.where(of_sets, int(Flag.SET), 0)
    tables = Tables(sizes, nodes["left"], nodes["right"], leaf, nodes["feature_idx"], value, flags)
    laid_out, roots = lay_out(tables)
    start = np.asarray(fitted._baseline_prediction, dtype=np.float64).reshape(-1)  # noqa: SLF001
    return Trees(laid_out, roots, start, sets=sets, leaves=NO_LEAVES, **_ending(fitted), missing=True)


def _sets(predictors: list[Any], sizes: list[int], nodes: Any) -> tuple[Any, Any]:
    """Return all sets of categories, each after its number of words, and where that of each node begins."""
    each = [predictor.raw_left_cat_bitsets for predictor in predictors]
    counts = np.array([len(sets) for sets in each])
    if not counts.sum():
        return NO_SETS, np.zeros(len(nodes))
    before = np.repeat(np.concatenate(([0], np.cumsum(counts)[:-1])), sizes)
    every = np.concatenate([sets for sets in each if len(sets)])
    with_lengths = np.column_stack([np.full(len(every), _SET_WORDS, dtype=np.uint32), every])
    return with_lengths.astype("<u4").ravel(), (before + nodes["bitset_idx"]) * (_SET_WORDS + 1)


def columns_of(fitted: Any) -> list[Column]:
    """Return the columns as the trees of a HistGradientBoosting model see them: categories first, as their places."""
    plain = untouched(fitted.n_features_in_)
    categorical = fitted.is_categorical_
    if categorical is None or getattr(fitted, "_preprocessor", None) is None:
        return plain
    encoder = fitted._preprocessor.named_transformers_["encoder"]  # noqa: SLF001 - "categorical splits need it"
    encoded = []
    for place, categories in zip(np.flatnonzero(categorical), encoder.categories_, strict=True):
        known, _ = split_missing(categories)
        encoded.append(plain[place].then(Step(Op.LOOKUP, float("nan"), float("nan"), known)))
    return encoded + [plain[place] for place in np.flatnonzero(~categorical)]


_NAMES = {
    read_tree: ("DecisionTree", "ExtraTree"),
    read_forest: ("RandomForest", "ExtraTrees"),
    read_gradient_boosting: ("GradientBoosting",),
    read_hist_gradient_boosting: ("HistGradientBoosting",),
}
READERS = {
    f"{name}{kind}": reader
    for reader, names in _NAMES.items()
    for name in names
    for kind in ("Regressor", "Classifier")
}
