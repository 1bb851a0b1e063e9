"""In the worker: segments are fitted, asked and judged as a build does it, and nothing of it is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from modelmill.build.batched import Batch, batches
from modelmill.build.failing import lost_failure
from modelmill.build.fitting import abreast, fail_at, neighbours
from modelmill.build.plan import Step
from modelmill.build.segment import Common, SegmentFit
from modelmill.build.work import Setup
from modelmill.compute.compute import Compute, Lost, Task
from modelmill.model.fitted import Floats
from modelmill.model.linear import LinearTrain
from modelmill.names import POOLED, Segment
from modelmill.registry.records import FailureRecord

STAGES = ("fit", "predict", "judge")
_TASK_SEGMENTS = 128
_TASK_ROWS = 65_536


class Try(msgspec.Struct, frozen=True):
    """Some segments to try with these parameters."""

    parameters: dict[str, Any]
    steps: list[Step]


class Tried(msgspec.Struct, frozen=True):
    """What a segment's model answers to its test rows."""

    segment: Segment
    metrics: dict[str, float | None]
    answers: Floats
    """(test rows,), or (test rows, classes)."""


def open_trier(setup: Setup) -> Callable[[Try, Callable[[int], None]], list[Tried | FailureRecord]]:
    """Import the user's file in this worker and return what tries segments; `LocalCompute` calls this once a worker."""
    return _Trier(setup).work


class _Trier:
    def __init__(self, setup: Setup) -> None:
        self.setup, self.common = setup, Common(setup)

    def work(self, task: Try, at: Callable[[int], None]) -> list[Tried | FailureRecord]:
        self.common.setup = msgspec.structs.replace(self.setup, parameters=task.parameters)
        self.common.begin()
        return list(self._try_all(task.steps, at))

    def _try_all(self, steps: list[Step], at: Callable[[int], None]) -> Iterator[Tried | FailureRecord]:
        if steps[0].segment == POOLED or not isinstance(self.common.train.function, LinearTrain):
            yield from self._try_each(steps, 0, at)
            return
        for first, some in batches(steps):
            batch = Batch(self.common, some, lambda place, first=first: at(max(place + first, place)))  # type: ignore[misc]
            if batch.try_out():
                yield from _tried_together(batch)
            for place in np.flatnonzero(batch.left).tolist():
                yield from self._try_each([some[place]], first + place, at)

    def _try_each(self, steps: list[Step], place: int, at: Callable[[int], None]) -> Iterator[Tried | FailureRecord]:
        for group in neighbours(steps):
            stretch = self.common.stretch(group)
            segments = (SegmentFit(self.common, step, stretch, place + i, []) for i, step in enumerate(group))
            for some in abreast(segments):
                yield from self._try_abreast(some, at)
            place += len(group)
            at(-1)

    def _try_abreast(self, some: list[SegmentFit], at: Callable[[int], None]) -> Iterator[Tried | FailureRecord]:
        for stage in STAGES:
            for segment in some:
                if segment.failure is None:
                    at(segment.place)
                    segment.failure = fail_at(stage, segment, self.setup.root)
        for fit in some:
            yield fit.failure or Tried(fit.step.segment, fit.metrics, fit.found)


def _tried_together(batch: Batch) -> Iterator[Tried]:
    names, values = list(batch.metrics), zip(*batch.metrics.values(), strict=True)
    for place, (step, row) in enumerate(zip(batch.steps, values, strict=True)):
        if not batch.left[place]:
            yield Tried(step.segment, dict(zip(names, row, strict=True)), batch.found[batch.cuts[place]].copy())


def try_segments(
    compute: Compute, parameters: dict[str, Any], steps: list[Step], tell: Callable[[int, int], None]
) -> dict[Segment, Tried | FailureRecord]:
    """Try every segment once; one that ends its worker fails, and the others of its task are tried again.

    `tell` is called with how many were tried and how many of these failed.
    """
    todo = deque(_cut(steps))
    found: dict[Segment, Tried | FailureRecord] = {}
    outstanding, number = 0, 0
    while todo or outstanding:
        while todo and compute.capacity() > 0:
            compute.submit(Task(number, Try(parameters, todo.popleft())))
            outstanding, number = outstanding + 1, number + 1
        ended = compute.wait()
        outstanding -= 1
        if isinstance(ended, Lost):
            _give_up(ended, todo, found)
        else:
            found.update({one.segment: one for one in ended.result})
        tell(len(found), sum(isinstance(one, FailureRecord) for one in found.values()))
    return found


def _cut(steps: list[Step]) -> Iterator[list[Step]]:
    some: list[Step] = []
    rows = 0
    for step in steps:
        if some and (len(some) == _TASK_SEGMENTS or rows + step.rows > _TASK_ROWS):
            yield some
            some, rows = [], 0
        some.append(step)
        rows += step.rows
    if some:
        yield some


def _give_up(lost: Lost, todo: deque[list[Step]], found: dict[Segment, Tried | FailureRecord]) -> None:
    """Fail the segment at which a worker was lost; where none is to blame, halves are tried until one stands alone."""
    steps = list(lost.task.payload.steps)
    if lost.item < 0 and len(steps) > 1:
        middle = len(steps) // 2
        todo.extend((steps[:middle], steps[middle:]))
        return
    guilty = steps.pop(max(lost.item, 0))
    found[guilty.segment] = lost_failure(guilty.segment, lost.reason, lost.detail)
    if steps:
        todo.append(steps)
