"""LightGBM's models, read from the text in which it saves them: all numbers of a kind at once, for all trees."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.layout import Flag, Link
from modelmill.artifact.trees import NO_SETS, Tables, Trees, lay_out
from modelmill.artifact.unpackable import Unpackable

_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_NONE, _ZERO, _NAN = 0, 1, 2
"""How LightGBM treats a missing value at a node; see `NumericalDecision` in its tree.h."""
_AS_THEY_ARE = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})
_EXPONENTIATED = frozenset({"poisson", "gamma", "tweedie"})


def read(fitted: Any) -> Trees:
    """Return a fitted LGBMRegressor, LGBMClassifier, or a Booster of a regression."""
    booster = getattr(fitted, "booster_", fitted)
    if callable(getattr(fitted, "objective_", None)):
        raise Unpackable("an objective of its own")
    text = _Text(booster.model_to_string())
    ending = _ending(text, of_booster=booster is fitted)
    if text.has("is_linear=1"):
        raise Unpackable("linear models in its leaves")
    leaves = text.numbers("num_leaves", int)
    tables, sets = _tables(text, leaves)
    nodes, roots = lay_out(tables)
    scores = int(text.word("num_tree_per_iteration"))
    if text.has("average_output"):
        if ending["link"] != Link.IDENTITY:
            raise Unpackable("averaged trees of an objective that is not plain")
        ending = {"link": Link.MEAN, "scale": len(leaves)}
    return Trees(nodes, roots, np.zeros(scores), sets=sets, **ending, missing=True)


class _Text:
    """A saved model: lines of ``key=value``."""

    def __init__(self, text: str) -> None:
        self._text = text.partition("\nend of trees")[0]

    def has(self, line: str) -> bool:
        return f"\n{line}\n" in self._text

    def word(self, key: str) -> str:
        found = re.search(rf"\n{key}=(.*)", self._text)
        return found[1] if found else ""

    def numbers(self, key: str, kind: Any) -> NDArray[Any]:
        """Return the numbers of a key, of all trees one after the other."""
        # A pattern that begins with plain characters is searched for ten times as fast as one that begins with ^.
        lines = re.findall(rf"\n{key}=(.*)", self._text)
        return np.array(list(map(kind, " ".join(lines).split())), dtype=np.int64 if kind is int else np.float64)


def _ending(text: _Text, *, of_booster: bool) -> dict[str, Any]:
    name, *options = text.word("objective").split()
    settings = dict(option.partition(":")[::2] for option in options)
    if name in _AS_THEY_ARE:
        return {"link": Link.SQUARE if "sqrt" in settings else Link.IDENTITY}
    if name in _EXPONENTIATED:
        return {"link": Link.EXP}
    if of_booster:
        raise Unpackable("a Booster for classes: LGBMClassifier says what its numbers mean")
    if name == "binary":
        return {"link": Link.SIGMOID, "scale": float(settings["sigmoid"]), "width": 2}
    if name == "multiclass":
        return {"link": Link.SOFTMAX, "width": int(settings["num_class"])}
    if name == "multiclassova":
        return {"link": Link.SIGMOIDS, "scale": float(settings["sigmoid"]), "width": int(settings["num_class"])}
    raise Unpackable(f"the objective {name}")


def _tables(text: _Text, leaves: NDArray[Any]) -> tuple[Tables, NDArray[np.uint32]]:
    """Return all trees: of each its inner nodes, in LightGBM's order, and then its leaves."""
    sizes, inner_of = 2 * leaves - 1, leaves - 1
    leaf = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) >= np.repeat(inner_of, sizes)
    decision = text.numbers("decision_type", int)
    threshold = text.numbers("threshold", float)
    categorical = decision & _CATEGORICAL != 0
    sets, begins = _sets(text, leaves, threshold, categorical)
    value = np.zeros(len(leaf))
    value[leaf] = text.numbers("leaf_value", float)
    value[~leaf] = np.where(categorical, begins, threshold)
    full = {name: np.zeros(len(leaf), dtype=np.int64) for name in ("left", "right", "feature", "flags")}
    # A child below zero is a leaf: -1 the first of its tree, which stands behind the tree's inner nodes.
    behind = np.repeat(inner_of, inner_of)
    for name in ("left", "right"):
        child = text.numbers(f"{name}_child", int)
        full[name][~leaf] = np.where(child < 0, behind - child - 1, child)
    full["feature"][~leaf] = text.numbers("split_feature", int)
    full["flags"][~leaf] = _flags(decision, threshold, categorical)
    tables = Tables(sizes.tolist(), full["left"], full["right"], leaf, full["feature"], value, full["flags"])
    zero = bool((full["flags"] & Flag.ZERO_MISSING).any())
    return tables, np.zeros(1, dtype="<u4") if zero and not len(sets) else sets


def _flags(decision: NDArray[Any], threshold: NDArray[Any], categorical: NDArray[Any]) -> NDArray[Any]:
    missing = decision >> 2 & 3
    # Where no value was missing in training, one that is counts as zero.
    left = np.where(missing == _NONE, threshold >= 0, decision & _DEFAULT_LEFT != 0) & ~categorical
    zero = (missing == _ZERO) & ~categorical
    flags = left * int(Flag.MISSING_LEFT) | zero * int(Flag.ZERO_MISSING) | categorical * int(Flag.SET)
    return np.asarray(flags, dtype=np.int64)


def _sets(
    text: _Text, leaves: NDArray[Any], threshold: NDArray[Any], categorical: NDArray[Any]
) -> tuple[NDArray[np.uint32], NDArray[Any]]:
    """Return all sets of categories, each after its number of words, and where that of each inner node begins."""
    if not categorical.any():
        return NO_SETS, np.zeros(len(threshold))
    boundaries, words = text.numbers("cat_boundaries", int), text.numbers("cat_threshold", float).astype("<u4")
    counts = text.numbers("num_cat", int)
    lengths = np.diff(boundaries)[np.diff(boundaries) > 0]  # between trees the boundaries fall back to 0
    sets = np.insert(words, np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
    begins = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
    first = np.repeat(np.cumsum(counts) - counts, leaves - 1)
    place = np.where(categorical, first + threshold.astype(np.int64), 0)
    return sets.astype("<u4"), begins[place]


READERS = dict.fromkeys(("LGBMRegressor", "LGBMClassifier", "Booster"), read)
