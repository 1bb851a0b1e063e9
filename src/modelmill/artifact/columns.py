"""What is done with columns before a model sees them: each prepared column comes from one source, by simple steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.layout import OPERATION, Op
from modelmill.artifact.loading import kernels

Floats = NDArray[np.float64]


class Step(NamedTuple):
    """One step; `table` holds the sorted values that LOOKUP and KNOWN look in."""

    op: Op
    a: float = 0.0
    b: float = 0.0
    table: tuple[float, ...] = ()


class Column(NamedTuple):
    """One prepared column: where it comes from, and the steps from there."""

    source: int
    steps: tuple[Step, ...] = ()

    def then(self, *steps: Step) -> Column:
        """Return the column after further steps."""
        return Column(self.source, self.steps + steps)


def untouched(count: int) -> list[Column]:
    """Return columns as they come."""
    return [Column(source) for source in range(count)]


class Columns(NamedTuple):
    """Prepared columns as arrays."""

    operations: NDArray[np.void]
    spans: NDArray[np.int32]
    """Where the operations of each column begin; one more at the end."""
    sources: NDArray[np.int32]
    table: Floats

    def fits(self, width: int) -> bool:
        """Return whether all that it points to is there, given columns to begin with."""
        spans, ends = self.spans, self.operations["end"]
        return (
            len(spans) == len(self.sources) + 1
            and bool((np.diff(spans) >= 0).all())
            and (int(spans[0]), int(spans[-1])) == (0, len(self.operations))
            and bool(((self.sources >= 0) & (self.sources < width)).all())
            and bool(((self.operations["begin"] >= 0) & (ends <= len(self.table))).all())
        )

    def prepare(self, x: Floats) -> Floats:
        """Return (rows, prepared columns) of (rows, columns)."""
        prepared = np.empty((len(x), len(self.sources)))
        kernels().prepare(self.operations, self.spans, self.sources, self.table, x, prepared)
        return prepared


def as_columns(columns: Sequence[Column], width: int) -> Columns | None:
    """Return columns as arrays, None where they are all of `width` columns as they come."""
    if list(columns) == untouched(width):
        return None
    table: list[float] = []
    operations = np.zeros(sum(len(column.steps) for column in columns), dtype=OPERATION)
    for place, step in enumerate(step for column in columns for step in column.steps):
        operations[place] = (step.op, len(table), len(table) + len(step.table), 0, step.a, step.b)
        table.extend(step.table)
    ends = np.cumsum([0, *(len(column.steps) for column in columns)])
    sources = np.array([column.source for column in columns], dtype="<i4")
    return Columns(operations, ends.astype("<i4"), sources, np.array(table, dtype="<f8"))


def split_missing(categories: Iterable[float]) -> tuple[tuple[float, ...], bool]:
    """Return the categories that are numbers, and whether a missing value is one too."""
    every = [float(category) for category in categories]
    known = tuple(category for category in every if category == category)  # noqa: PLR0124 - NaN differs from itself
    return known, len(known) < len(every)
