"""Why a segment is built: from its three digests, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import modelmill as mm
from modelmill.build.plan import has_several_classes, plan_build, reason_for
from modelmill.data.snapshot import Segments, starts_of
from modelmill.names import POOLED, Digest
from modelmill.registry.change import Digests
from modelmill.registry.versions import Head

A, B = Digest("a" * 64), Digest("b" * 64)
SAME = Digests(A, A, A)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (None, "new"),
        (Head(None, None, failed=True), "failed last time"),
        (Head(1, None, failed=False), "asked for"),
        (Head(1, SAME, failed=False), "unchanged"),
        (Head(1, SAME, failed=True), "failed last time"),
        (Head(1, Digests(B, A, A), failed=False), "code changed"),
        (Head(1, Digests(A, B, A), failed=True), "data changed"),
        (Head(1, Digests(B, B, B), failed=False), "code and data and model changed"),
    ],
)
def test_the_reason_follows_from_the_digests(head: Head | None, reason: str) -> None:
    assert reason_for(SAME, head) == reason


class Row(mm.Schema):
    """One row."""

    store: str = mm.key()
    y: float = mm.target()


def segments(*rows: int) -> Segments:
    lengths = np.array(rows, dtype=np.int64)
    keys = [(f"s{number}",) for number in range(len(rows))]
    return Segments(keys, starts_of(lengths), lengths, [bytes([number]) * 32 for number in range(len(rows))])


def test_a_plan_says_who_is_built_and_who_is_not() -> None:
    model = mm.Model("sales", Row, by=[Row.store], min_rows=10)
    plan = plan_build(model, segments(20, 9, 30), np.array([True, True, False]), A, A, {})
    assert [step.segment for step in plan.steps] == [("s0",)]
    assert plan.without == {("s1",): "fewer than 10 labelled rows", ("s2",): "only one class among its rows"}
    assert plan.pooled is not None
    assert plan.pooled.rows == 59
    assert dict(plan.explain())["s1"].startswith("fewer")


def test_an_unchanged_plan_is_empty() -> None:
    model = mm.Model("sales", Row, by=[Row.store], min_rows=10)
    first = plan_build(model, segments(20, 30), np.array([True, True]), A, A, {})
    assert first.pooled is not None
    heads = {step.segment: Head(1, first.digests(step), failed=False) for step in [*first.steps, first.pooled]}
    again = plan_build(model, segments(20, 30), np.array([True, True]), A, A, heads)
    assert again.empty
    assert again.reasons() == {"unchanged": 2}
    assert POOLED in heads


def test_classes_are_counted_within_segments() -> None:
    y = np.array([0, 0, 1, 1, 1, 0])
    assert has_several_classes(y, segments(2, 2, 2)).tolist() == [False, False, True]
    assert has_several_classes(y, segments(3, 0, 3)).tolist() == [True, False, True]
