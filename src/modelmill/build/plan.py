"""What a build is going to do, as a value: which segments, why each, and which ones the pooled model answers for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.data.snapshot import Segments
from modelmill.model.declaration import Model
from modelmill.names import POOLED, Digest, Segment, format_segment
from modelmill.registry.change import Digests
from modelmill.registry.records import Head

UNCHANGED = "unchanged"
ASKED_FOR = "asked for"
ONE_CLASS = "only one class among its rows"


class Step(NamedTuple):
    """One segment to build."""

    segment: Segment
    start: int
    """Its first row in the build table."""
    rows: int
    data: Digest
    reason: str


class Plan(NamedTuple):
    """What to build, what stays, and what the pooled model answers for."""

    pooled: Step | None
    """The pooled model, when it has to be built."""
    steps: list[Step]
    unchanged: list[Segment]
    without: dict[Segment, str]
    """Segments that get no model of their own, and why."""
    code: Digest
    model: Digest
    parents: Sequence[Step] = ()
    """The parents to build; each has rows of its own choice, wherever they lie in the table."""

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to build."""
        return self.pooled is None and not self.steps and not self.parents

    def digests(self, step: Step) -> Digests:
        """Return the three digests that make a step's version."""
        return Digests(self.code, step.data, self.model)

    def reasons(self) -> dict[str, int]:
        """Return how many segments there are for each reason, the most frequent first."""
        found = Counter(step.reason for step in self.steps)
        found[UNCHANGED] += len(self.unchanged)
        found.update(self.without.values())
        return {reason: count for reason, count in found.most_common() if count}

    def explain(self) -> Iterator[tuple[str, str]]:
        """Yield every segment with its reason, in the order of their names."""
        every = {step.segment: step.reason for step in (*self.steps, *self.parents)}
        every.update(dict.fromkeys(self.unchanged, UNCHANGED))
        every.update(self.without)
        for segment in sorted(every):
            yield format_segment(segment), every[segment]


def plan_build(
    model: Model,
    segments: Segments,
    classes: NDArray[np.bool_],
    code: Digest,
    recipe: Digest,
    heads: Mapping[Segment, Head],
) -> Plan:
    """Compare what is declared and what the rows are now with the newest version of each segment.

    `segments` lie in the build table; `classes` says of each whether its labelled rows hold more than one class (always
    true for a regression); `recipe` is the digest of the declaration with its parameters.
    """
    plan = Plan(_plan_pooled(segments, code, recipe, heads), [], [], {}, code, recipe)
    if not model.by:
        return plan
    for (segment, start, rows, digest), several in zip(segments, classes.tolist(), strict=True):
        if rows < model.min_rows:
            plan.without[segment] = f"fewer than {model.min_rows} labelled rows"
        elif not several:
            plan.without[segment] = ONE_CLASS
        else:
            step = Step(segment, start, rows, Digest(digest.hex()), "")
            reason = reason_for(plan.digests(step), heads.get(segment))
            if reason == UNCHANGED:
                plan.unchanged.append(segment)
            else:
                plan.steps.append(step._replace(reason=reason))
    return plan


def _plan_pooled(segments: Segments, code: Digest, recipe: Digest, heads: Mapping[Segment, Head]) -> Step | None:
    data = segments.whole()
    reason = reason_for(Digests(code, data, recipe), heads.get(POOLED))
    return None if reason == UNCHANGED else Step(POOLED, 0, int(segments.rows.sum()), data, reason)


def reason_for(wanted: Digests, head: Head | None) -> str:
    """Return why a segment has to be built, or `UNCHANGED`; a head without digests is built whatever it is."""
    if head is None or head.digests is None:
        if head is not None and head.number is not None:
            return ASKED_FOR
        return "failed last time" if head is not None and head.failed else "new"
    if not head.readable:
        return "saved in an earlier format"
    known = head.digests
    differing = [name for name in ("code", "data", "model") if getattr(known, name) != getattr(wanted, name)]
    if differing:
        return f"{' and '.join(differing)} changed"
    return "failed last time" if head.failed else UNCHANGED


def has_several_classes(y: NDArray[np.int64] | NDArray[np.float64], segments: Segments) -> NDArray[np.bool_]:
    """Return, for each segment, whether its codes differ; a segment without rows has none."""
    if not len(y):
        return np.zeros(len(segments), dtype=bool)
    filled = np.minimum(segments.starts, len(y) - 1)
    differs = np.maximum.reduceat(y, filled) != np.minimum.reduceat(y, filled)
    return np.asarray(differs & (segments.rows > 1))
