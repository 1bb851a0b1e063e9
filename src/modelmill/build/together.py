"""Segments that are fitted together: where the model's train function is `mm.linear`, whole chunks become arrays.

What a stage would find one by one is computed for all neighbouring segments at once and put into their `SegmentFit`s;
these skip the stages that are done, and are recorded as all others. A segment that cannot be solved so, a model with a
@predict function or a metric of its own, and features that are no program go the usual way, from the stage on that the
arrays do not do.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.linear import TOLERANCE, scale_of
from modelmill.artifact.linear import Linear as Body
from modelmill.artifact.packed import Packed, encode_alike
from modelmill.artifact.saving import PACKED, Artifact
from modelmill.artifact.unpackable import Unpackable
from modelmill.build.segment import GOLDEN_ROWS, Common, SegmentFit, Stretch, plain_list, tests_of
from modelmill.model.fitted import Floats, make_y
from modelmill.model.linear import Linear, LinearTrain, Solved
from modelmill.model.metrics import by_segment

_AFTER_FIT = ("predict", "judge", "save")
TOGETHER = ("ask_laws", "keep_extras")
"""What is left to each segment where all else was done for all of them."""


class _Tests(NamedTuple):
    """The test rows of some segments, one segment after the other."""

    x: Floats
    y: Floats
    found: Floats
    starts: NDArray[np.int64]
    """Where each segment's rows begin."""
    counts: NDArray[np.int64]


def fit_together(common: Common, stretch: Stretch, segments: Sequence[SegmentFit]) -> None:
    """Do what can be done for neighbouring segments at once; nothing, where the model is no `mm.linear`."""
    train, x = common.train.function, stretch.x
    if not isinstance(train, LinearTrain) or x is None:
        return
    y = make_y(common.model.spec, stretch.rows).astype(np.float64, copy=False)
    spans = [(s.begin, s.begin + s.step.rows - tests_of(s.step.rows, common.model.test_share)) for s in segments]
    parameters = {name: common.setup.parameters[name] for name in common.train.parameters}
    solved = common.timed(lambda: train.solve(x, y, spans, parameters))
    chosen = np.flatnonzero(solved.known).tolist()
    some = [segments[place] for place in chosen]
    solved = Solved(solved.coef[chosen], solved.intercept[chosen], solved.known[chosen])
    for segment, coef, intercept in zip(some, solved.coef, solved.intercept.tolist(), strict=True):
        segment.x = x[segment.begin : segment.begin + segment.step.rows]
        segment.y = y[segment.begin : segment.begin + segment.step.rows]
        segment.fitted, segment.stages = Linear(coef, intercept), _AFTER_FIT
    if some and common.predict is None and not common.model.own_metrics:
        _judge_together(common, stretch, some, solved, y)


def _judge_together(
    common: Common, stretch: Stretch, segments: Sequence[SegmentFit], solved: Solved, y: Floats
) -> None:
    """Answer, test, prove and encode all segments; what is left to each is its laws."""
    try:
        programs = common.programs(stretch, segments[0].x)
    except Unpackable:
        return
    assert stretch.x is not None  # noqa: S101 - the caller has looked
    counts = np.array([tests_of(s.step.rows, common.model.test_share) for s in segments])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ends = np.array([s.begin + s.step.rows for s in segments])
    rows = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)])
    owner = np.repeat(np.arange(len(segments)), counts)
    x = stretch.x[rows]
    found = np.einsum("ij,ij->i", x, solved.coef[owner]) + solved.intercept[owner]
    tests = _Tests(x, y[rows], found, starts, counts)
    means = np.array([s.y[s.training].mean() for s in segments])
    metrics = _metrics(common, tests, means[owner])
    pooled = None if stretch.pooled is None else _scores(common, tests._replace(found=stretch.pooled[rows]))
    proven, golden = _agree(tests, solved, owner), _golden(stretch, ends, counts)
    like = Packed(Body(solved.coef[:1], solved.intercept[:1]), x.shape[1], programs=programs)
    contents = encode_alike(like, {"coef": solved.coef[:, None, :], "intercept": solved.intercept[:, None]})
    for place, segment in enumerate(segments):
        start = starts[place]
        segment.found = found[start : start + counts[place]]
        if not np.isfinite(segment.found).all() or not proven[place]:
            continue  # it fails, or is pickled, at the stage that says why
        segment.metrics = metrics[place]
        segment.compared = None if pooled is None else (pooled[place],)
        segment.artifact, segment.runtime_why = Artifact(PACKED, contents[place]), ""
        segment.golden, segment.stages = golden[place], TOGETHER


def _metrics(common: Common, tests: _Tests, means: Floats) -> list[dict[str, float | None]]:
    """Return each segment's metrics, and its score if the mean of its training rows answered."""
    columns = {name: by_segment(name, tests.y, tests.found, tests.starts, tests.counts) for name in common.metrics}
    score = common.model.metrics[0]
    columns[f"{score}:mean"] = by_segment(score, tests.y, means, tests.starts, tests.counts)
    lists = [[value if np.isfinite(value) else None for value in column.tolist()] for column in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _scores(common: Common, tests: _Tests) -> list[float | None]:
    found = by_segment(common.model.metrics[0], tests.y, tests.found, tests.starts, tests.counts)
    return [value if np.isfinite(value) else None for value in found.tolist()]


def _agree(tests: _Tests, solved: Solved, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each segment whether the kernel that will answer gives the same answers, as the family promises."""
    answers = np.empty((len(tests.x), 1))
    for place, (start, count) in enumerate(zip(tests.starts.tolist(), tests.counts.tolist(), strict=True)):
        body = Body(solved.coef[place : place + 1], solved.intercept[place : place + 1])
        body.evaluate(tests.x[start : start + count], answers[start : start + count])
    scale = scale_of(tests.x, solved.coef[owner], solved.intercept[owner])
    return np.logical_and.reduceat(np.abs(answers[:, 0] - tests.found) <= TOLERANCE * scale, tests.starts)


def _golden(stretch: Stretch, ends: NDArray[np.int64], counts: NDArray[np.int64]) -> list[dict[str, list[Any]]]:
    """Return the last test rows of each segment, column by column."""
    lengths = np.minimum(counts, GOLDEN_ROWS)
    rows = np.concatenate([np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)])
    some = stretch.rows.take(rows)
    columns = {name: plain_list(some[name]) for name in some}
    bounds = itertools.pairwise([0, *np.cumsum(lengths).tolist()])
    return [{name: values[start:end] for name, values in columns.items()} for start, end in bounds]
