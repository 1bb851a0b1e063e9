"""Choosing how a fitted object is packed: which library it comes from, what stands before it, what its classes are."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from modelmill.artifact import lightgbm_trees, sklearn_linear, sklearn_steps, sklearn_trees, xgboost_trees
from modelmill.artifact.columns import Column, as_columns, untouched
from modelmill.artifact.layout import Link
from modelmill.artifact.networks import Network
from modelmill.artifact.onnx_files import OnnxModel
from modelmill.artifact.packed import Body, Packed
from modelmill.artifact.saved import Classes, Programs
from modelmill.artifact.unpackable import Unpackable
from modelmill.model.linear import LinearFit

Reader = Callable[[Any], Body]


class Library(NamedTuple):
    """A library whose structures are known, and the versions in which they were looked at."""

    readers: Mapping[str, Reader]
    """By the name of the class."""
    oldest: tuple[int, int]
    newest: tuple[int, int]


LIBRARIES = {
    "sklearn": Library({**sklearn_linear.READERS, **sklearn_trees.READERS}, (1, 6), (1, 9)),
    "lightgbm": Library(lightgbm_trees.READERS, (4, 5), (4, 7)),
    "xgboost": Library(xgboost_trees.READERS, (3, 0), (3, 2)),
}


def pack(fitted: Any, features: int, classes: int, programs: Programs) -> Packed:
    """Return a fitted object as arrays that should give its answers; whoever uses them proves it.

    `features` is how many columns ``x`` has, `classes` 0 for a regression. Raises `Unpackable` with the reason.
    """
    steps, final = _unrolled(fitted)
    reader = _reader_of(final)
    columns = untouched(features)
    for step in steps:
        columns = sklearn_steps.read_step(step, columns)
    if getattr(final, "n_features_in_", len(columns)) != len(columns):
        raise Unpackable(f"a {type(final).__name__} of other columns")
    body = reader(final)
    if programs.after and body.link == Link.CLIPPED and body.width > 2:
        raise Unpackable("a modified Huber loss before @predict, whose probabilities do not tell the likeliest class")
    columns = _as_the_model_sees(final, columns)
    return Packed(body, features, as_columns(columns, features), _classes_of(final, body, classes), programs)


def _unrolled(fitted: Any) -> tuple[list[Any], Any]:
    """Return the steps before the estimator, and the estimator."""
    if type(fitted).__name__ == "Pipeline" and type(fitted).__module__ == "sklearn.pipeline":
        *steps, (_, final) = fitted.steps
        before, last = _unrolled(final)
        return [step for _, step in steps] + before, last
    return [], fitted


def _reader_of(fitted: Any) -> Reader:
    kind = type(fitted)
    if isinstance(fitted, Network):
        raise Unpackable("a network of torch, which has no packed form")
    if isinstance(fitted, OnnxModel):
        raise Unpackable("an ONNX file's graph, which has no packed form")
    if kind is LinearFit:
        return sklearn_linear.read_regressor
    name, _, _ = kind.__module__.partition(".")
    library = LIBRARIES.get(name)
    reader = library.readers.get(kind.__name__) if library else None
    if library is None or reader is None:
        raise Unpackable(f"a {kind.__module__}.{kind.__name__}, which has no packed form")
    if not library.oldest <= _version_of(name) <= library.newest:
        raise Unpackable(f"{name} {sys.modules[name].__version__}, whose structures are not known")
    return reader


def _version_of(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", sys.modules[name].__version__)[:2])


def _as_the_model_sees(fitted: Any, columns: list[Column]) -> list[Column]:
    if not type(fitted).__name__.startswith("HistGradientBoosting"):
        return columns
    return [columns[column.source].then(*column.steps) for column in sklearn_trees.columns_of(fitted)]


def _classes_of(fitted: Any, body: Body, count: int) -> Classes | None:
    if not count:
        if hasattr(fitted, "classes_"):
            raise Unpackable("a classifier for a target that is a number")
        return None
    if not hasattr(fitted, "classes_"):
        raise Unpackable("a regression for a target that is a class")
    seen = np.asarray(fitted.classes_)
    if seen.dtype.kind not in "iu" or len(seen) != body.width or not ((seen >= 0) & (seen < count)).all():
        raise Unpackable("classes that are no codes of the target's")
    return Classes(count, tuple(int(code) for code in seen))
