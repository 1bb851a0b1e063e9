"""The safe answer: what a model file declares for the moment in which no model, not even the pooled one, can answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelmill.errors import FieldInvalid, SafeAnswerInvalid, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.fitted import Floats
from modelmill.model.values import CHECKS

Safe = Any
"""As it is written in a model file: a number, or a label, or a probability for each label."""

_SUM_ERROR = 1e-9
"""How far from one the sum of probabilities may be: three times 1/3 is not one in binary."""


def read_safe(safe: Safe, target: Column, labels: Sequence[str]) -> tuple[float, ...]:
    """Return a declared safe answer as the numbers of one row: a number, or a probability for each label.

    Empty where none is declared. Raises `SafeAnswerInvalid` where it breaks the promise of the target, by which every
    true value is checked.
    """
    if safe is None:
        return ()
    if not labels:
        return (_number(safe, target),)
    if isinstance(safe, Mapping):
        return _probabilities(safe, target, labels)
    chosen = _label(safe, target, labels)
    return tuple(float(label == chosen) for label in labels)


def safe_answers(safe: Sequence[float], rows: int) -> Floats:
    """Return a safe answer given to some rows: (rows,), or (rows, classes)."""
    one = np.array(safe, dtype=np.float64)
    return np.repeat(one, rows) if len(one) == 1 else np.tile(one, (rows, 1))


def _number(safe: Safe, target: Column) -> float:
    try:
        return float(CHECKS[target.kind](target, safe, None))
    except FieldInvalid as error:
        raise _invalid(safe, target, error.parts.get("expected", target.rule())) from None


def _label(safe: Safe, target: Column, labels: Sequence[str]) -> str:
    text = str(safe).lower() if isinstance(safe, bool) else safe
    if text not in labels:
        raise _invalid(safe, target, f"one of {', '.join(labels)}", did_you_mean(str(text), labels))
    return str(text)


def _probabilities(safe: Mapping[Any, Any], target: Column, labels: Sequence[str]) -> tuple[float, ...]:
    given = {_label(label, target, labels): value for label, value in safe.items()}
    found = [given.get(label, 0.0) for label in labels]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    if not numbers or not all(0 <= value <= 1 for value in found) or abs(math.fsum(found) - 1) > _SUM_ERROR:
        raise _invalid(safe, target, "probabilities from 0 to 1 that sum to 1")
    return tuple(float(value) for value in found)


def _invalid(safe: Safe, target: Column, expected: str, likely: str = "") -> SafeAnswerInvalid:
    return SafeAnswerInvalid(
        f"`safe` is no answer that `{target.name}` can have", expected=expected, got=repr(safe)[:80], likely=likely
    )
