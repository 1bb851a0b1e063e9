"""Parents: the models of levels, such as a carrier's, each fitted like the pooled model from the rows of all its segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.build.plan import UNCHANGED, Plan, Step, reason_for
from modelmill.data.snapshot import Segments
from modelmill.model.columns import Column
from modelmill.model.declaration import Model
from modelmill.model.fitted import make_y
from modelmill.model.rows import Array, Coded, Rows
from modelmill.model.values import key_of_text, text_of
from modelmill.names import Digest, Parent, Segment, digest_of
from modelmill.registry.change import Digests
from modelmill.registry.records import Head

Places = NDArray[np.int64]


class Group(NamedTuple):
    """The rows that have the values of a parent."""

    parent: Parent
    places: Places
    """Where they lie in the table, ascending."""


def plan_parents(
    model: Model, labelled: Segments, rows: Rows, tests: NDArray[np.bool_], plan: Plan, heads: Mapping[Segment, Head]
) -> Plan:
    """Return a plan with the parents that have to be built beside it: those whose code, rows or declaration changed.

    `rows` are all of the build table, `tests` says which of them test. A value with fewer than `min_rows` rows, with only
    one class among them, or with nothing to train on or to test on gets no model: the next level answers.
    """
    steps = []
    for group in chain.from_iterable(groups_of(level, rows) for level in model.levels):
        if _is_enough(model, rows, tests, group.places):
            step = Step(group.parent, 0, len(group.places), _digest(labelled, group.places), "")
            reason = reason_for(Digests(plan.code, step.data, plan.model), heads.get(group.parent))
            if reason != UNCHANGED:
                steps.append(step._replace(reason=reason))
    return plan._replace(parents=steps)


def places_of(rows: Rows, columns: Mapping[str, Column], parent: Parent) -> Places:
    """Return where the rows of a parent lie among `rows`, ascending."""
    found = np.ones(len(rows), dtype=np.bool_)
    for name, text in parent.values().items():
        found &= _has_value(rows.raw(name), columns[name], text)
    return np.flatnonzero(found)


def _has_value(values: Array | Coded, column: Column, text: str) -> NDArray[np.bool_]:
    if isinstance(values, Coded):
        code = np.flatnonzero(values.values == text)
        return np.asarray(values.codes == code[0]) if len(code) else np.zeros(len(values.codes), dtype=np.bool_)
    return np.asarray(values == key_of_text(column, text))


def groups_of(level: Sequence[str], rows: Rows) -> Iterator[Group]:
    """Yield the values of a level's columns with their rows, in an order that the rows alone decide."""
    codes = np.zeros(len(rows), dtype=np.int64)
    for name in level:
        _, inverse = np.unique(_numbers(rows.raw(name)), return_inverse=True)
        # Coded anew after each column: a product of many columns' counts could pass 64 bits.
        _, codes = np.unique(codes * (int(inverse.max(initial=0)) + 1) + inverse, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        first = rows.take(slice(int(places[0]), int(places[0]) + 1)).row(0)
        yield Group(Parent.of({name: text_of(first[name]) for name in level}), places)


def _numbers(values: Array | Coded) -> Array:
    return values.codes if isinstance(values, Coded) else values


def _is_enough(model: Model, rows: Rows, tests: NDArray[np.bool_], places: Places) -> bool:
    testing = int(tests[places].sum())
    if len(places) < model.min_rows or not 0 < testing < len(places):
        return False
    if model.task == "regression":
        return True
    y = make_y(model.spec, rows.take(places))
    return bool(y.min() != y.max())


def _digest(labelled: Segments, places: Places) -> Digest:
    """Return the digest of all segments that a parent has rows of: no row of it changes without one of theirs."""
    touched = np.unique(np.searchsorted(labelled.starts + labelled.rows, places, side="right"))
    return digest_of(b"".join(labelled.digests[place] for place in touched.tolist()))
