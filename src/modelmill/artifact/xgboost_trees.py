"""XGBoost's models, read from the JSON in which it saves them; its numbers are float32 all the way."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.layout import Flag, Link
from modelmill.artifact.trees import NO_SETS, Tables, Trees, lay_out
from modelmill.artifact.unpackable import Unpackable

_NO_CHILD = -1
_PLAIN = frozenset(
    {"reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror", "reg:squaredlogerror"}
)
_EXPONENTIATED = frozenset({"count:poisson", "reg:gamma", "reg:tweedie"})


class _Parameters(msgspec.Struct):
    base_score: str
    num_class: str = "0"
    num_target: str = "1"


class _Tree(msgspec.Struct):
    left_children: list[int]
    right_children: list[int]
    split_indices: list[int]
    split_conditions: list[float]
    default_left: list[int]
    split_type: list[int] = []
    categories: list[int] = []
    categories_nodes: list[int] = []
    categories_segments: list[int] = []
    categories_sizes: list[int] = []


class _Model(msgspec.Struct):
    trees: list[_Tree]
    tree_info: list[int]


class _Booster(msgspec.Struct):
    name: str
    model: _Model | None = None


class _Objective(msgspec.Struct):
    name: str


class _Learner(msgspec.Struct):
    learner_model_param: _Parameters
    gradient_booster: _Booster
    objective: _Objective


class _Saved(msgspec.Struct):
    learner: _Learner


def read(fitted: Any) -> Trees:
    """Return a fitted XGBRegressor or XGBClassifier, or a Booster of a regression."""
    booster = fitted.get_booster() if hasattr(fitted, "get_booster") else fitted
    marker = getattr(fitted, "missing", float("nan"))
    if marker is not None and marker == marker:  # noqa: PLR0124 - anything but NaN
        raise Unpackable("a number that stands for missing values")
    best = getattr(booster, "best_iteration", None) if _stopped_early(booster) else None
    learner = msgspec.json.decode(
        (booster if best is None else booster[: best + 1]).save_raw("json"), type=_Saved
    ).learner
    ending = _ending(learner, of_booster=booster is fitted)
    model = learner.gradient_booster.model
    if learner.gradient_booster.name != "gbtree" or model is None:
        raise Unpackable(f"the booster {learner.gradient_booster.name}")
    start = _start(learner, ending)
    if model.tree_info != [place % len(start) for place in range(len(model.trees))]:
        raise Unpackable("several trees for one class in a round")
    nodes, roots, sets = _trees(model.trees)
    return Trees(nodes, roots, start, sets=sets, **ending, single=True, sums_single=True, missing=True)


def _stopped_early(booster: Any) -> bool:
    return booster.attr("best_iteration") is not None


def _ending(learner: _Learner, *, of_booster: bool) -> dict[str, Any]:
    name, classes = learner.objective.name, int(learner.learner_model_param.num_class)
    if int(learner.learner_model_param.num_target) > 1:
        raise Unpackable("more than one target")
    if name in _PLAIN:
        return {"link": Link.IDENTITY}
    if name in _EXPONENTIATED:
        return {"link": Link.EXP}
    if of_booster:
        raise Unpackable("a Booster for classes: XGBClassifier says what its numbers mean")
    if name == "binary:logistic":
        return {"link": Link.SIGMOID, "width": 2}
    if name in {"multi:softprob", "multi:softmax"}:
        return {"link": Link.SOFTMAX, "width": classes}
    raise Unpackable(f"the objective {name}")


def _start(learner: _Learner, ending: dict[str, Any]) -> NDArray[np.float64]:
    """Return what the sums begin with: the base score on the scale of the sums, in float32."""
    written = learner.learner_model_param.base_score.strip("[]").split(",")
    base = np.array([float(number) for number in written], dtype=np.float32)
    if ending["link"] == Link.SIGMOID:
        base = -np.log(np.float32(1) / base - np.float32(1))
    elif ending["link"] == Link.EXP:
        base = np.log(base)
    scores = ending["width"] if ending["link"] == Link.SOFTMAX else 1
    return np.broadcast_to(base, (scores,)).astype(np.float64)


def _trees(trees: list[_Tree]) -> tuple[NDArray[np.void], NDArray[np.int32], NDArray[np.uint32]]:
    left, right = _joined(trees, "left_children"), _joined(trees, "right_children")
    leaf = left == _NO_CHILD
    numbers = np.array([n for tree in trees for n in tree.split_conditions], dtype=np.float32)
    # XGBoost goes left below the threshold, and we up to it: up to the float32 before.
    value = np.where(leaf, numbers, np.nextafter(numbers, np.float32(-np.inf))).astype(np.float64)
    missing_left = _joined(trees, "default_left") != 0
    of_sets = _joined(trees, "split_type") != 0 if all(tree.split_type for tree in trees) else np.zeros_like(leaf)
    sets = _sets(trees, value) if of_sets.any() else NO_SETS
    # XGBoost goes right for the categories of a set, and we left: its children change places.
    left, right = np.where(of_sets, right, left), np.where(of_sets, left, right)
    flags = np.where(missing_left != of_sets, int(Flag.MISSING_LEFT), 0) | np.where(of_sets, int(Flag.SET), 0)
    sizes = [len(tree.left_children) for tree in trees]
    nodes, roots = lay_out(Tables(sizes, left, right, leaf, _joined(trees, "split_indices"), value, flags))
    return nodes, roots, sets


def _joined(trees: list[_Tree], name: str) -> NDArray[np.int64]:
    return np.array([number for tree in trees for number in getattr(tree, name)], dtype=np.int64)


def _sets(trees: list[_Tree], value: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return all sets of categories, each after its number of words; `value` is told where that of a node begins."""
    words: list[int] = []
    bases = accumulate((len(tree.left_children) for tree in trees), initial=0)
    for base, tree in zip(bases, trees, strict=False):
        for node, begin, size in zip(
            tree.categories_nodes, tree.categories_segments, tree.categories_sizes, strict=True
        ):
            value[base + node] = len(words)
            words += _as_words(tree.categories[begin : begin + size])
    return np.array(words, dtype="<u4")


def _as_words(categories: list[int]) -> list[int]:
    count = max(categories) // 32 + 1
    words = [0] * count
    for category in categories:
        words[category >> 5] |= 1 << (category & 31)
    return [count, *words]


READERS = dict.fromkeys(("XGBRegressor", "XGBClassifier", "Booster"), read)
