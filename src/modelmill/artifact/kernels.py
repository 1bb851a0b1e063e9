"""The loops that evaluate packed models, compiled by numba and kept in its cache.

Signatures are explicit, so nothing is compiled while a request waits, and arrays may be read-only: they lie in a mapped
pack. No kernel uses fast-math or reorders a sum: answers are the library's own, operation by operation. A row that has no
answer - an infinity, or a missing value where the model knows none - gets NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np

from modelmill.artifact.layout import NODE, OPERATION, Flag, Link, Op

_ZERO = 1e-35
"""LightGBM counts less than this as zero."""
_LEAF, _MISSING_LEFT, _SET, _ZERO_MISSING = (int(flag) for flag in Flag)


def _array(of: Any, dimensions: int) -> Any:
    return nb.types.Array(of, dimensions, "C", readonly=True)


_NODES, _OPERATIONS = _array(nb.from_dtype(NODE), 1), _array(nb.from_dtype(OPERATION), 1)
_OUT = nb.float64[:, ::1]
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_part = nb.njit(nogil=True, error_model="numpy")
"""What kernels call is compiled into them, and needs no cache of its own."""


@_part
def _sigmoid(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score))


@_part
def _normalise(out: Any, total: float) -> None:
    for c in range(out.shape[0]):
        out[c] /= total


@_part
def _two(out: Any, second: float) -> None:
    out[0], out[1] = 1.0 - second, second


@_part
def _one_hot(out: Any, chosen: int) -> None:
    for c in range(out.shape[0]):
        out[c] = 1.0 if c == chosen else 0.0


@_part
def _softmax(out: Any) -> None:
    highest, total = out.max(), 0.0
    for c in range(out.shape[0]):
        out[c] = math.exp(out[c] - highest)
        total += out[c]
    _normalise(out, total)


@_part
def _sigmoids(out: Any, scale: float) -> float:
    total = 0.0
    for c in range(out.shape[0]):
        out[c] = _sigmoid(scale * out[c])
        total += out[c]
    return total


@_part
def _clipped(out: Any) -> None:
    total = 0.0
    for c in range(out.shape[0]):
        out[c] = (min(max(out[c], -1.0), 1.0) + 1.0) / 2.0
        total += out[c]
    if total == 0.0:
        out[:] = 1.0
        total = float(out.shape[0])
    _normalise(out, total)


@_part
def finish(link: int, scale: float, out: Any) -> None:  # noqa: C901 - one branch a link
    """Turn the raw scores of one row, which lie at the beginning of `out`, into its answer in place."""
    if link == Link.MEAN:
        _normalise(out, scale)
    elif link == Link.EXP:
        out[0] = math.exp(out[0])
    elif link == Link.SQUARE:
        out[0] = math.copysign(out[0] * out[0], out[0])
    elif link == Link.SIGMOID:
        _two(out, _sigmoid(scale * out[0]))
    elif link == Link.SOFTMAX:
        _softmax(out)
    elif link == Link.ONE_VS_REST:
        _normalise(out, _sigmoids(out, scale))
    elif link == Link.SIGMOIDS:
        _sigmoids(out, scale)
    elif link == Link.CLIPPED and out.shape[0] == 2:
        _two(out, (min(max(out[0], -1.0), 1.0) + 1.0) / 2.0)
    elif link == Link.CLIPPED:
        _clipped(out)
    elif link == Link.SIGN:
        _one_hot(out, 1 if out[0] > 0.0 else 0)
    elif link == Link.LARGEST:
        _one_hot(out, out.argmax())


@_part
def _softmax32(out: Any) -> None:
    highest, total = np.float32(out.max()), 0.0
    for c in range(out.shape[0]):
        out[c] = np.float32(math.exp(np.float32(np.float32(out[c]) - highest)))
        total += out[c]
    for c in range(out.shape[0]):
        out[c] = np.float32(np.float32(out[c]) / np.float32(total))


@_part
def finish32(link: int, out: Any) -> None:
    """Do what XGBoost's objectives do with raw scores, each step rounded to float32 as there."""
    if link == Link.EXP:
        out[0] = np.float32(math.exp(np.float32(out[0])))
    elif link == Link.SIGMOID:
        second = np.float32(1.0) / (np.float32(1.0) + np.float32(math.exp(-np.float32(out[0]))))
        out[0], out[1] = np.float32(1.0) - second, second
    elif link == Link.SOFTMAX:
        _softmax32(out)


@_part
def _copy(values: Any, single: bool, row: Any) -> None:
    """Copy the features of a row, rounded to float32 where its library compares them so."""
    for c in range(values.shape[0]):
        row[c] = np.float32(values[c]) if single else values[c]


@_part
def _has_answer(row: Any, missing: bool) -> bool:
    for c in range(row.shape[0]):  # noqa: SIM110 - numba compiles no generator
        if math.isinf(row[c]) or (math.isnan(row[c]) and not missing):
            return False
    return True


@nb.njit(nb.void(_array(nb.float64, 2), _array(nb.float64, 1), _array(nb.float64, 2), nb.int64, _OUT), **_OPTIONS)
def linear(coef: Any, intercept: Any, x: Any, link: int, out: Any) -> None:
    """Write the answers of a linear model, (rows, width); `coef` is (scores, features)."""
    for r in range(x.shape[0]):
        for k in range(coef.shape[0]):
            score = 0.0
            for c in range(coef.shape[1]):
                score += x[r, c] * coef[k, c]
            out[r, k] = score + intercept[k]
        finish(link, 1.0, out[r])


@_part
def _leaf(nodes: Any, root: int, row: Any) -> int:
    """Return the leaf of a row in a tree of plain thresholds."""
    at = root
    while not nodes[at].flags & _LEAF:
        node = nodes[at]
        value = row[node.feature]
        left = value <= node.value or (math.isnan(value) and node.flags & _MISSING_LEFT)
        at = node.child if left else node.child + 1
    return at


@_part
def _in_set(sets: Any, begin: int, value: float) -> Any:
    """Return whether a category is in the set that begins with its number of words."""
    if not 0 <= value < 32 * np.int64(sets[begin]):
        return False
    place = np.int64(value)
    return (sets[begin + 1 + (place >> 5)] >> np.uint32(place & 31)) & np.uint32(1) == 1


@_part
def _goes_left(node: Any, value: float, sets: Any) -> Any:
    if math.isnan(value) or (node.flags & _ZERO_MISSING and -_ZERO <= value <= _ZERO):
        return (node.flags & _MISSING_LEFT) != 0
    if node.flags & _SET:
        # As C casts to an integer: -0.5 is category 0.
        return _in_set(sets, int(node.value), float(int(value)) if abs(value) < 2.0**31 else -1.0)
    return value <= node.value


@_part
def _leaf_by_kind(nodes: Any, root: int, row: Any, sets: Any) -> int:
    """Return the leaf of a row in a tree that splits by sets of categories or takes zero as missing, too."""
    at = root
    while not nodes[at].flags & _LEAF:
        node = nodes[at]
        at = node.child if _goes_left(node, row[node.feature], sets) else node.child + 1
    return at


_SETS = _array(nb.uint32, 1)
_MODEL = (_NODES, _array(nb.int32, 1), _SETS, _array(nb.float64, 1))


@nb.njit(
    nb.void(*_MODEL, _array(nb.float64, 2), nb.boolean, nb.boolean, nb.int64, nb.float64, _OUT),
    **_OPTIONS,
)
def boosted(  # noqa: PLR0913, PLR0917 - a kernel takes arrays and numbers
    nodes: Any,
    roots: Any,
    sets: Any,
    start: Any,
    x: Any,
    single: bool,
    missing: bool,
    link: int,
    scale: float,
    out: Any,
) -> None:
    """Write the answers of trees whose leaf values are added in float64, one score after the other, from `start` on."""
    scores, row = start.shape[0], np.empty(x.shape[1])
    for r in range(x.shape[0]):
        _copy(x[r], single, row)
        if not _has_answer(row, missing):
            out[r, :] = np.nan
            continue
        for k in range(scores):
            total = start[k]
            for t in range(k, roots.shape[0], scores):
                if sets.shape[0]:
                    total += nodes[_leaf_by_kind(nodes, roots[t], row, sets)].value
                else:
                    total += nodes[_leaf(nodes, roots[t], row)].value
            out[r, k] = total
        finish(link, scale, out[r])


@nb.njit(nb.void(*_MODEL, _array(nb.float64, 2), nb.boolean, nb.int64, _OUT), **_OPTIONS)
def boosted32(  # noqa: PLR0913, PLR0917 - see `boosted`
    nodes: Any, roots: Any, sets: Any, start: Any, x: Any, missing: bool, link: int, out: Any
) -> None:
    """Do the same with sums and answers in float32, as XGBoost does."""
    scores, row = start.shape[0], np.empty(x.shape[1])
    for r in range(x.shape[0]):
        _copy(x[r], True, row)  # noqa: FBT003 - a flag of a kernel
        if not _has_answer(row, missing):
            out[r, :] = np.nan
            continue
        for k in range(scores):
            total = np.float32(start[k])
            for t in range(k, roots.shape[0], scores):
                if sets.shape[0]:
                    total = np.float32(total + np.float32(nodes[_leaf_by_kind(nodes, roots[t], row, sets)].value))
                else:
                    total = np.float32(total + np.float32(nodes[_leaf(nodes, roots[t], row)].value))
            out[r, k] = total
        finish32(link, out[r])


@nb.njit(
    nb.void(_NODES, _array(nb.int32, 1), _array(nb.float64, 2), _array(nb.float64, 2), nb.boolean, _OUT), **_OPTIONS
)
def forest(nodes: Any, roots: Any, leaves: Any, x: Any, missing: bool, out: Any) -> None:
    """Write the mean of the leaves of all trees, (rows, classes); `leaves` is (all leaves, classes)."""
    row = np.empty(x.shape[1])
    for r in range(x.shape[0]):
        out[r, :] = 0.0
        _copy(x[r], True, row)  # noqa: FBT003 - a flag of a kernel
        if not _has_answer(row, missing):
            out[r, :] = np.nan
            continue
        for t in range(roots.shape[0]):
            leaf = nodes[_leaf(nodes, roots[t], row)].child
            for k in range(out.shape[1]):
                out[r, k] += leaves[leaf, k]
        _normalise(out[r], float(roots.shape[0]))


@_part
def _place(table: Any, begin: int, end: int, value: float) -> int:
    """Return where a value stands in the sorted table[begin:end], counted from begin, -1 where it does not."""
    low, high = begin, end
    while low < high:
        middle = (low + high) // 2
        if table[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low - begin if low < end and table[low] == value else -1


@_part
def _looked_up(operation: Any, table: Any, value: float) -> float:
    missing = math.isnan(value)
    place = -1 if missing else _place(table, operation.begin, operation.end, value)
    if operation.code == Op.LOOKUP:
        return operation.b if missing else float(place) if place >= 0 else operation.a
    known = operation.b == 1.0 if missing else place >= 0
    return value if known else math.inf


@_part
def _changed(operation: Any, table: Any, value: float) -> Any:  # noqa: PLR0911 - one branch an operation
    code, a, b = operation.code, operation.a, operation.b
    missing = math.isnan(value)
    if code == Op.SUBTRACT:
        return value - a
    if code == Op.DIVIDE:
        return value / a
    if code == Op.MULTIPLY:
        return value * a
    if code == Op.ADD:
        return value + a
    if code == Op.CLIP:
        return value if missing else min(max(value, a), b)
    if code == Op.FILL:
        return a if missing else value
    if code == Op.EQUALS:
        return 1.0 if value == a or (missing and math.isnan(a)) else 0.0
    if code == Op.MISSING:
        return 1.0 if missing else 0.0
    if code == Op.REPLACE:
        return b if value == a else value
    return _looked_up(operation, table, value)


@nb.njit(
    nb.void(_OPERATIONS, _array(nb.int32, 1), _array(nb.int32, 1), _array(nb.float64, 1), _array(nb.float64, 2), _OUT),
    **_OPTIONS,
)
def prepare(operations: Any, spans: Any, sources: Any, table: Any, x: Any, out: Any) -> None:
    """Write the prepared columns, (rows, columns): each from one source by its operations; infinity stays infinity."""
    for r in range(x.shape[0]):
        for c in range(sources.shape[0]):
            value = x[r, sources[c]]
            for o in range(spans[c], spans[c + 1]):
                if math.isinf(value):
                    break
                value = _changed(operations[o], table, value)
            out[r, c] = value
