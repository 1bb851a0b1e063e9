"""What lies between two versions, at which level a model is, and whether a version can be built again."""

from __future__ import annotations

from typing import Any

import msgspec

from modelmill.outcomes.parts import Outcome


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of one segment, before and after."""

    segment: str
    before: float
    after: float


class MetricDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over the segments of both sides, each on its own version's test rows."""

    name: str
    before: float
    """The median over the segments."""
    after: float
    segments: int
    better: int
    worse: int
    most: tuple[Moved, ...] = ()
    """The segments that moved most: those that became worse first, five each at most; with ``--all`` every one."""


class AnswersDiff(msgspec.Struct, frozen=True, kw_only=True):
    """How answers to the same rows moved."""

    source: str
    """``logged requests``, or ``rows of flights@s2``"""
    rows: int
    moved: int
    """Rows with another answer: beyond one part in a thousand million, or another likeliest label."""
    median: float
    """Of the absolute moves; of classes, of the probability that moved most."""
    p95: float
    largest: float
    mean: tuple[float, float] | None = None
    """The mean answer, before and after; None of classes."""


class DiffOutcome(Outcome, frozen=True, kw_only=True):
    """What lies between two versions, releases or snapshots."""

    kind: str
    """``versions`` or ``snapshots``"""
    before: str
    after: str
    segment: str = ""
    change: str = ""
    """``experiment``, ``retraining``, ``rework`` or ``same``: computed from digests."""
    differs: tuple[str, ...] = ()
    """Which of code, data and model."""
    code: tuple[str, ...] = ()
    """Lines of a unified diff."""
    commits: str = ""
    lock: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    """Parameters and declarations, before -> after."""
    data: Any = None
    """A `data.diff.SnapshotDiff`; None where the data are the same."""
    segments_new: int = 0
    segments_gone: int = 0
    segments_refitted: int = 0
    """Segments whose models have other bytes."""
    segments_same: int = 0
    answered: tuple[str, ...] = ()
    """How many segments are answered by another kind of model, or runtime, than before."""
    metrics: tuple[MetricDiff, ...] = ()
    refused: tuple[str, ...] = ()
    """Laws and gates that refused more segments, or fewer, than before: ``law failed: more_is_more  3 -> 5 segments``."""
    answers: AnswersDiff | None = None
    seconds: float = 0.0
    next: str = ""


class ModelAudit(msgspec.Struct, frozen=True, kw_only=True):
    """At which level one model is, and why not higher."""

    model: str
    version: int
    segments: int
    level: int
    """The highest of 0 to 4 all of whose cells are reached."""
    cells: tuple[Any, ...]
    """24 of `registry.audit.Cell`, in the order of the rules."""
    blocked_by: tuple[str, ...] = ()
    """What the next level lacks."""
    emptied: tuple[str, ...] = ()
    """Cells that were filled at the last audit, and are not now."""
    level_before: int | None = None
    """At the last audit; None where there was none."""
    rules_before: int | None = None
    """The version of the rules then: a level that others have found is no level of these."""


class AuditOutcome(Outcome, frozen=True, kw_only=True):
    """The levels of models, from recorded evidence alone."""

    rules: int
    """The version of the rules."""
    audits: tuple[ModelAudit, ...]
    fail_under: int = 0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 3 where a model is below the level that was asked for."""
        return 3 if any(one.level < self.fail_under for one in self.audits) else 0


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that was built again and is not what was recorded."""

    segment: str
    verdict: str
    """``equal``, ``different`` or ``failed``"""
    array: str = ""
    """Where it differs most: an array of the weights, ``answers``, or a metric."""
    largest: float | None = None
    """By which share of the larger number; None where shapes or kinds differ."""
    text: str = ""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a segment's model is not the same twice."""

    segment: str
    cause: str
    lines: tuple[str, ...] = ()
    """The user's own lines that did it, ``delays.py:41 train()``."""


class ReproduceOutcome(Outcome, frozen=True, kw_only=True):
    """Whether versions come out again as they were recorded."""

    target: str
    run: int
    verdict: str
    """``IDENTICAL``, ``EQUAL`` (within `tolerance`) or ``DIFFERENT``"""
    segments: int
    """How many were built again, the pooled model included."""
    identical: int
    equal: int = 0
    different: int = 0
    failed: int = 0
    tolerance: float = 1e-9
    worst: tuple[Rebuilt, ...] = ()
    """At most ten."""
    differs: tuple[str, ...] = ()
    """What differs between the machine, and the packages, of then and now."""
    cause: Cause | None = None
    environment: str = ""
    """``lock 9f02ab34``, or ``here``"""
    environment_s: float = 0.0
    """What its making took; 0 where it was there."""
    by_another: bool = False
    """Whether it was done by another person or on another machine than the build."""
    not_kept: str = ""
    """Why the verdict could not be recorded, where it could not."""
    earlier: int = 0
    """Segments of this version that an earlier run built: they are reproduced by its number."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where something came out otherwise."""
        return int(self.verdict == "DIFFERENT")
