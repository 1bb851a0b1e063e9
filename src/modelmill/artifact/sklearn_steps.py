"""scikit-learn's preparation of columns - scalers, imputers, encoders, ColumnTransformer - read step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modelmill.artifact.columns import Column, Step, split_missing
from modelmill.artifact.layout import Op
from modelmill.artifact.unpackable import Unpackable

_NAN, _INFINITY = float("nan"), float("inf")

Reader = Callable[[Any, list[Column]], list[Column]]


def read_step(transformer: Any, columns: list[Column]) -> list[Column]:
    """Return columns after a fitted transformer; raises `Unpackable` for one that is not known."""
    if transformer is None or (isinstance(transformer, str) and transformer == "passthrough"):
        return columns
    kind = type(transformer)
    reader = _READERS.get(kind.__name__) if kind.__module__.startswith("sklearn.") else None
    if reader is None:
        raise Unpackable(f"a {kind.__name__} in its pipeline")
    if getattr(transformer, "n_features_in_", len(columns)) != len(columns):
        raise Unpackable(f"a {kind.__name__} of other columns in its pipeline")
    return reader(transformer, columns)


def _scaler(scaler: Any, columns: list[Column]) -> list[Column]:
    means = scaler.mean_ if scaler.with_mean else None
    scales = scaler.scale_ if scaler.with_std else None
    return [
        column.then(
            *([Step(Op.SUBTRACT, float(means[place]))] if means is not None else []),
            *([Step(Op.DIVIDE, float(scales[place]))] if scales is not None else []),
        )
        for place, column in enumerate(columns)
    ]


def _min_max(scaler: Any, columns: list[Column]) -> list[Column]:
    clip = [Step(Op.CLIP, float(scaler.feature_range[0]), float(scaler.feature_range[1]))] if scaler.clip else []
    return [
        column.then(Step(Op.MULTIPLY, float(scale)), Step(Op.ADD, float(least)), *clip)
        for column, scale, least in zip(columns, scaler.scale_, scaler.min_, strict=True)
    ]


def _imputer(imputer: Any, columns: list[Column]) -> list[Column]:
    marker = imputer.missing_values
    if not isinstance(marker, int | float):
        raise Unpackable("a SimpleImputer of texts in its pipeline")
    filled = []
    for column, value in zip(columns, imputer.statistics_, strict=True):
        if value != value:  # noqa: PLR0124 - a column without any value is left out, as scikit-learn does
            continue
        fill = Step(Op.FILL, float(value)) if marker != marker else Step(Op.REPLACE, float(marker), float(value))  # noqa: PLR0124
        filled.append(column.then(fill))
    if imputer.indicator_ is not None:
        shows = Step(Op.MISSING) if marker != marker else Step(Op.EQUALS, float(marker))  # noqa: PLR0124
        filled += [columns[place].then(shows) for place in imputer.indicator_.features_]
    return filled


def _one_hot(encoder: Any, columns: list[Column]) -> list[Column]:
    if getattr(encoder, "infrequent_categories_", None) is not None and any(
        found is not None for found in encoder.infrequent_categories_
    ):
        raise Unpackable("a OneHotEncoder of infrequent categories in its pipeline")
    if encoder.handle_unknown not in {"ignore", "error"}:
        raise Unpackable(f"a OneHotEncoder with handle_unknown={encoder.handle_unknown!r} in its pipeline")
    made = []
    for place, (column, categories) in enumerate(zip(columns, encoder.categories_, strict=True)):
        dropped = None if encoder.drop_idx_ is None else encoder.drop_idx_[place]
        checked = column.then(_known(categories)) if encoder.handle_unknown == "error" else column
        made += [
            checked.then(Step(Op.EQUALS, float(category)))
            for index, category in enumerate(categories)
            if index != dropped
        ]
    return made


def _ordinal(encoder: Any, columns: list[Column]) -> list[Column]:
    if encoder.handle_unknown not in {"error", "use_encoded_value"} or getattr(encoder, "_infrequent_enabled", False):
        raise Unpackable("an OrdinalEncoder of infrequent categories in its pipeline")
    unknown = _INFINITY if encoder.handle_unknown == "error" else float(encoder.unknown_value)
    made = []
    for column, categories in zip(columns, encoder.categories_, strict=True):
        known, missing = split_missing(_numbers(categories))
        missed = float(encoder.encoded_missing_value) if missing else unknown
        made.append(column.then(Step(Op.LOOKUP, unknown, missed, known)))
    return made


def _known(categories: Any) -> Step:
    known, missing = split_missing(_numbers(categories))
    return Step(Op.KNOWN, 0.0, float(missing), known)


def _numbers(categories: Any) -> list[float]:
    numbers = np.asarray(categories, dtype=np.float64)
    if len(numbers) > 1 and (np.diff(numbers[numbers == numbers]) <= 0).any():  # noqa: PLR0124
        raise Unpackable("an encoder whose categories are not sorted in its pipeline")
    return [float(number) for number in numbers]


def _column_transformer(transformer: Any, columns: list[Column]) -> list[Column]:
    if getattr(transformer, "transformer_weights", None):
        raise Unpackable("a ColumnTransformer with weights in its pipeline")
    made: list[Column] = []
    for _, part, chosen in transformer.transformers_:
        if isinstance(part, str) and part == "drop":
            continue
        made += read_step(part, [columns[place] for place in _places(chosen, len(columns))])
    return made


def _places(chosen: Any, count: int) -> Sequence[int]:
    try:
        places = np.arange(count)[chosen if isinstance(chosen, slice) else np.asarray(chosen)]
    except (IndexError, TypeError, ValueError):
        raise Unpackable("a ColumnTransformer that names its columns, in its pipeline") from None
    return [int(place) for place in np.atleast_1d(places)]


def _pipeline(pipeline: Any, columns: list[Column]) -> list[Column]:
    for _, step in pipeline.steps:
        columns = read_step(step, columns)
    return columns


def _function(transformer: Any, columns: list[Column]) -> list[Column]:
    # A ColumnTransformer passes its other columns through one that has no function.
    if transformer.func is not None:
        raise Unpackable("a FunctionTransformer in its pipeline")
    return columns


_READERS: dict[str, Reader] = {
    "StandardScaler": _scaler,
    "MinMaxScaler": _min_max,
    "SimpleImputer": _imputer,
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
    "ColumnTransformer": _column_transformer,
    "Pipeline": _pipeline,
    "FunctionTransformer": _function,
}
