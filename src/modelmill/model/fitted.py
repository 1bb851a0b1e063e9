"""From rows to answers: the one path that training, laws, batch and online prediction share.

`x` is float64, C-contiguous, of shape (rows, features). Answers are float64: of shape (rows,) for a regression,
(rows, classes) for a classification, a probability each.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import FieldUnknown, ModelReturned, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.roles import RoleFunction
from modelmill.model.rows import Array, Coded, Rows
from modelmill.model.schema import SchemaSpec
from modelmill.names import Segment

Floats = NDArray[np.float64]

_DTYPES = {"date": "datetime64[D]", "datetime": "datetime64[us]"}
_NAT = np.iinfo(np.int64).min


def make_x(role: RoleFunction | None, spec: SchemaSpec, rows: Rows) -> Floats:
    """Return the features of `rows`: by the model's own function, else the feature columns as numbers."""
    if role is None:
        columns = [_as_numbers(rows, column) for column in spec.features]
        return np.column_stack(columns) if columns else np.empty((len(rows), 0))
    x = as_matrix(role.call({"rows": rows}))
    if x.ndim != 2 or len(x) != len(rows):
        raise ModelReturned(
            f"@features returned the shape {x.shape} for {len(rows)} rows",
            where=role.where,
            expected="(rows, features)",
        )
    return x


def as_matrix(found: Any) -> Floats:
    """Return what a @features function returned as ``x``; one value a row is one feature."""
    x: Floats = np.ascontiguousarray(found, dtype=np.float64)
    return x.reshape(len(x), -1) if x.ndim == 1 and len(x) else x.reshape(0, 1) if x.ndim == 1 else x


def make_y(spec: SchemaSpec, rows: Rows) -> Floats | NDArray[np.int64]:
    """Return the target: numbers for a regression, codes of the classes for a classification."""
    target = spec.target
    if target.kind == "category":
        return category_codes(rows.raw(target.name), target.values).astype(np.int64)
    if target.kind == "bool":
        return rows[target.name].astype(np.int64)
    return rows[target.name].astype(np.float64, copy=False)


def _as_numbers(rows: Rows, column: Column) -> Floats:
    if column.kind == "category":
        codes = category_codes(rows.raw(column.name), column.values)
        return np.where(codes < 0, np.nan, codes).astype(np.float64)
    values = rows[column.name]
    if column.kind in _DTYPES:
        days = (values - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
        return np.asarray(days, dtype=np.float64)
    return values.astype(np.float64, copy=False)


def category_codes(column: Any, values: Sequence[str]) -> NDArray[np.int32]:
    """Return each text's place in the declared values, -1 for null."""
    place: dict[Any, int] = {value: code for code, value in enumerate(values)}
    if isinstance(column, Coded):
        table = np.array([place.get(text, -1) for text in column.values] + [-1], dtype=np.int32)
        return table[column.codes]
    return np.array([place.get(text, -1) for text in column], dtype=np.int32)


def answer(fitted: Any, role: RoleFunction | None, classes: int, x: Floats, rows: Rows, segment: Segment) -> Floats:
    """Return the answers of a fitted object; `classes` is 0 for a regression."""
    if role is not None:
        raw = role.call({"model": fitted, "x": x, "rows": rows, "segment": segment})
    elif classes and hasattr(fitted, "predict_proba"):
        raw = fitted.predict_proba(x)
    elif hasattr(fitted, "predict"):
        raw = fitted.predict(x)
    else:
        raise ModelReturned(
            f"a `{type(fitted).__name__}` has no predict()", next="return a fitted model, or write @predict(model, x)"
        )
    numbers = _as_floats(raw)
    if numbers is None:
        raise _unusable(fitted, role, "None" if raw is None else f"a {type(raw).__name__} that is no array of numbers")
    if not np.isfinite(numbers).all():
        raise _unusable(fitted, role, "NaN or infinity")
    try:
        shaped = _as_probabilities(numbers, fitted, classes, len(x)) if classes else numbers.reshape(-1)
    except (IndexError, ValueError):
        raise _unusable(fitted, role, f"answers that fit no {classes} classes") from None
    if len(shaped) != len(x):
        raise _unusable(fitted, role, f"{len(shaped)} answers for {len(x)} rows")
    return shaped


def _as_floats(raw: Any) -> Floats | None:
    """Return what a model answered as numbers, None where it is none."""
    try:
        return None if raw is None else np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _unusable(fitted: Any, role: RoleFunction | None, returned: str) -> ModelReturned:
    where = role.where if role else f"{type(fitted).__name__}.predict()"
    return ModelReturned(f"{where} returned {returned}", where=where)


def _as_probabilities(numbers: Floats, fitted: Any, classes: int, rows: int) -> Floats:
    if numbers.ndim == 2 and numbers.shape[1] == classes:
        return numbers
    full = np.zeros((rows, classes))
    if numbers.ndim == 2:
        # A segment may have seen only some of the classes: scikit-learn then returns only their columns.
        seen = np.asarray(getattr(fitted, "classes_", np.arange(numbers.shape[1])), dtype=np.int64)
        full[:, seen] = numbers
    else:
        chosen = numbers.astype(np.int64)
        if (chosen < 0).any():
            raise IndexError("a class is an index from 0")
        full[np.arange(rows), chosen] = 1.0
    return full


def answer_value(answers: Floats, index: int, labels: Sequence[str]) -> float | dict[str, float]:
    """Return one answer as a caller sees it: a number, or a probability by label."""
    if not labels:
        return float(answers[index])
    return dict(zip(labels, answers[index].tolist(), strict=True))


def typical_row(spec: SchemaSpec, rows: Rows) -> dict[str, Any]:
    """Return the row that stands for all: the median of numbers and times, the most frequent of the rest."""
    return {column.name: _typical(rows.raw(column.name), column) for column in spec.request_columns}


def _typical(values: Array | Coded, column: Column) -> Any:
    if isinstance(values, Coded):
        return _most_frequent(values)
    if not len(values):
        return None
    if column.kind == "bool":
        return _most_frequent_truth(values)
    if column.role == "key" or not (column.numeric or column.kind in _DTYPES):
        return values[0] if column.role == "key" and values[0] == values[-1] else statistics.mode(values.tolist())
    return _lower_median(values, column)


def _most_frequent(texts: Coded) -> Any:
    """Return the most frequent text, None where that is null."""
    if not len(texts.codes):
        return None
    # Counted from the least code: the rows of one segment hold few of a table's many texts.
    least = int(texts.codes.min())
    code = least + int(np.bincount(texts.codes - least).argmax())
    return texts.values[code] if code >= 0 else None


def _most_frequent_truth(values: Array) -> bool | None:
    """Return the more frequent of true and false, None where more are missing; a nullable column holds 1, 0 and NaN."""
    true, false = int((values == 1).sum()), int((values == 0).sum())
    missing = len(values) - true - false
    return None if missing > max(true, false) else true > false


def _lower_median(values: Array, column: Column) -> Any:
    """Return the lower median: a value that really occurred, and an integer where the column has integers."""
    # As times numpy compares them slowly, minding NaT; as integers they are as fast as numbers.
    times = values.dtype.kind == "M"
    numbers = values.view(np.int64) if times else values
    if column.nullable:
        numbers = numbers[numbers != _NAT] if times else numbers[~np.isnan(numbers)]
    if not len(numbers):
        return None
    middle = (len(numbers) - 1) // 2
    return np.partition(numbers, middle).view(values.dtype)[middle]


def typical_rows(
    spec: SchemaSpec, rows: Rows, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> dict[str, Sequence[Any]]:
    """Return, by column, the typical values of segments that lie one after the other; see `typical_row`."""
    found: dict[str, Sequence[Any]] = {}
    for column in spec.request_columns:
        values = rows.raw(column.name)
        numeric = column.numeric or column.kind in _DTYPES
        if isinstance(values, Coded) or column.role == "key" or column.nullable or not numeric:
            found[column.name] = _typical_of_each(values, column, starts, lengths)
        else:
            found[column.name] = _medians(values, starts, lengths)  # type: ignore[assignment]  # an array is one, too
    return found


def _typical_of_each(
    values: Array | Coded, column: Column, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> list[Any]:
    if isinstance(values, Coded):
        codes, texts = values.codes, values.values
        least, most = np.minimum.reduceat(codes, starts), np.maximum.reduceat(codes, starts)
        if (least == most).all():
            # Of one text in each segment, as a key is, nothing has to be counted.
            return [texts[code] if code >= 0 else None for code in least.tolist()]
    cuts = [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    whole = Rows({column.name: values})
    return [_typical(whole.take(cut).raw(column.name), column) for cut in cuts]


def _medians(values: Array, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Array:
    """Return the lower medians; segments of one length are taken together."""
    numbers = values.view(np.int64) if values.dtype.kind == "M" else values
    found = np.empty(len(starts), dtype=numbers.dtype)
    for length in np.unique(lengths).tolist():
        which, middle = np.flatnonzero(lengths == length), (length - 1) // 2
        block = numbers.take(starts[which][:, None] + np.arange(length))
        block.partition(middle, axis=1)
        found[which] = block[:, middle]
    return found.view(values.dtype)


def column_array(column: Column, values: Sequence[Any]) -> NDArray[Any]:
    """Return plain values of one column as `Rows` keeps them."""
    if column.kind in _DTYPES:
        return np.array(values, dtype=_DTYPES[column.kind])
    if column.kind in ("str", "category"):
        return np.array(values, dtype=object)
    if column.kind == "float" or column.nullable:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return np.array(values, dtype=np.bool_ if column.kind == "bool" else np.int64)


class Asker:
    """The `ask` of a law: one fitted object behind the whole path from named fields to an answer."""

    __slots__ = (
        "_features",
        "_fitted",
        "_known",
        "_labels",
        "_places",
        "_predict",
        "_segment",
        "_spec",
        "_typical",
        "_x",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the path, named
        self,
        spec: SchemaSpec,
        labels: Sequence[str],
        features: RoleFunction | None,
        predict: RoleFunction | None,
        fitted: Any,
        segment: Segment,
        typical: Mapping[str, Any],
    ) -> None:
        """Take the parts of the path, and the row whose values stand for fields that are left out."""
        self._spec, self._labels, self._fitted, self._segment = spec, labels, fitted, segment
        self._features, self._predict = features, predict
        self._typical = {
            column.name: column_array(column, [typical.get(column.name)]) for column in spec.request_columns
        }
        self._known = {column.name: column for column in spec.request_columns}
        self._places = {column.name: place for place, column in enumerate(spec.features)}
        self._x = make_x(None, spec, Rows(self._typical, 1)) if features is None else None
        """The typical row's features, where a field is one of them as it stands."""

    def __call__(self, **fields: Any) -> Any:
        """Return the answer to the typical row with these fields changed."""
        columns = dict(self._typical)
        for name, value in fields.items():
            if name not in self._known:
                raise FieldUnknown(f"ask() does not know the field `{name}`", likely=did_you_mean(name, self._known))
            columns[name] = column_array(self._known[name], [value])
        rows = Rows(columns, 1)
        answers = answer(self._fitted, self._predict, len(self._labels), self._x_of(rows, fields), rows, self._segment)
        return answer_value(answers, 0, self._labels)

    def _x_of(self, rows: Rows, changed: Iterable[str]) -> Floats:
        """Return the features of the one row; where no function makes them, only what changed is computed again."""
        if self._x is None:
            return make_x(self._features, self._spec, rows)
        x = self._x.copy()
        for name in changed:
            if name in self._places:
                x[0, self._places[name]] = _as_numbers(rows, self._known[name])[0]
        return x
