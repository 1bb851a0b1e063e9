"""What became of checks, builds, experiments and what they were needed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from modelmill.outcomes.parts import (
    Comparison,
    Counts,
    FailureGroup,
    LawCount,
    Outcome,
    PairedFacts,
    SnapshotFacts,
)


class TrainOutcome(Outcome, frozen=True, kw_only=True):
    """What a build did."""

    model: str
    version: int
    """The number that the new versions carry; the current one where nothing was built."""
    run: int | None
    """None when there was nothing to do."""
    snapshot: SnapshotFacts
    counts: Counts
    seconds: float
    """Wall-clock time of the whole command."""
    stages: Mapping[str, float] = {}
    """Seconds by stage, in order: import, snapshot, plan, build, register."""
    platform_ms: float | None = None
    """Milliseconds of the platform per model built: what is neither the user's fit nor the user's predict."""
    build_cpu_s: float = 0.0
    """CPU seconds of the workers."""
    user_ms: float | None = None
    """Milliseconds of the user's own functions per model built."""
    comparison: Comparison | None = None
    metrics: Mapping[str, float] = {}
    """Medians over the segments."""
    failures: tuple[FailureGroup, ...] = ()
    pooled_because: Mapping[str, int] = {}
    """Why the pooled model answers -> how many segments."""
    laws: tuple[LawCount, ...] = ()
    reasons: Mapping[str, int] = {}
    """Why segments were built or left alone -> how many."""
    changes: Mapping[str, int] = {}
    """What the new versions are in the eyes of those before them, computed from their digests -> how many."""
    explained: tuple[tuple[str, str], ...] = ()
    """With ``--explain``: (segment, reason) of every segment."""
    inactive: tuple[str, ...] = ()
    """Declared policies that are stored but do not act yet."""
    map_digest: str = ""
    unsteady: str = ""
    """A segment that was fitted twice and came out otherwise; empty where both fits were the same."""
    resumed: bool = False
    """Whether this run went on where an interrupted one had stopped."""
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when a segment failed."""
        return 1 if self.counts.failed else 0


class RetrainOutcome(Outcome, frozen=True, kw_only=True):
    """What new rows made of a model, and what the gate let through."""

    train: TrainOutcome
    champion: int
    """The version that answered until now."""
    before: str
    """Its snapshot: ``flights@s1``"""
    gate: tuple[str, ...] = ()
    """The conditions that were asked."""
    judged: int = 0
    """Segments whose new answers were put before the gate."""
    judged_parents: int = 0
    """Models of levels that were."""
    compared: PairedFacts | None = None
    """All of them together beside their champions, on the test rows of the new snapshot."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 3 when the gate refused everything that it judged, else 1 when a segment could not be built."""
        refused = self.train.counts.refused + self.train.counts.refused_parents
        return 3 if refused and refused >= self.judged + self.judged_parents else self.train.exit_code


class CheckStep(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    text: str
    """``contract holds on 60 000 sample rows``"""
    seconds: float = 0.0


class DrillFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One promise about the data, and whether a row that breaks it is caught."""

    promise: str
    """``distance int 1..6000 mile``"""
    bad: str
    """What was planted: ``6001``"""
    caught: bool | None
    """None where a check did not notice any of the rows that were spoiled for it: it may look for something else."""


class CheckOutcome(Outcome, frozen=True, kw_only=True):
    """What `check` found; it stops at the first thing that does not hold, with that error."""

    model: str
    file: str
    segment: str
    """The one that was trained, saved, opened again and asked."""
    steps: tuple[CheckStep, ...]
    seconds: float
    comparison: Comparison | None = None
    notices: tuple[str, ...] = ()
    inactive: tuple[str, ...] = ()
    drill: tuple[DrillFacts, ...] = ()
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when something bad was planted and not caught."""
        return int(any(one.caught is False for one in self.drill))


class AdoptOutcome(Outcome, frozen=True, kw_only=True):
    """What became of a finished model."""

    model: str
    what: str
    """``sklearn.linear_model._ridge.Ridge``"""
    written: tuple[str, ...]
    """Files in the project: the model file, what was adopted, the sample."""
    columns: int
    rows: int
    """Of the sample."""
    trusted: bool
    """Whether it is a pickle, which a person had to trust."""
    steps: tuple[CheckStep, ...] = ()
    comparison: Comparison | None = None
    """On the last rows of the sample; it may have been fitted on them."""
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    next: str = ""


class ArmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of a study."""

    number: int
    state: str
    """``done``, ``running``, ``aborted`` or ``interrupted``"""
    changed: Mapping[str, str] = {}
    """What differs from the champion: name -> ``1.0 -> 10``."""
    parameters: Mapping[str, Any] = {}
    metrics: Mapping[str, float] = {}
    """Medians over the segments."""
    tried: int = 0
    failed: int = 0
    compared: PairedFacts | None = None
    seconds: float = 0.0
    failures: tuple[FailureGroup, ...] = ()


class ExperimentOutcome(Outcome, frozen=True, kw_only=True):
    """What was tried on the rows of the current version. Nothing of it can be served."""

    model: str
    study: str
    champion: int
    """The number of the version that the arms are compared with."""
    snapshot: SnapshotFacts
    arms: tuple[ArmFacts, ...]
    winner: int | None = None
    """The arm with the lowest loss among those that are better, if any is."""
    unit: str = ""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where a segment could not be tried."""
        return int(any(arm.failed for arm in self.arms))


class NeedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One need of the model file, and whether it is met."""

    condition: str
    """``better(mae) than mean by 0.1``"""
    verdict: bool | None
    """None: undecided, the rows are too few or too noisy to say."""
    value: float | None
    limit: float | None
    """What the value had to reach."""
    interval: bool
    """Whether a 95 % interval decided, or the point itself: r2, f1, roc_auc and metrics of one's own have no interval."""


class SegmentGain(msgspec.Struct, frozen=True, kw_only=True):
    """One segment: its losses on its test rows, and how much smaller its own model's is than the mean's."""

    segment: str
    rows: int
    """Test rows."""
    own: float
    mean: float
    pooled: float | None
    gain: float
    """1 - own / mean: 0.2 is a fifth less; below zero the model is worse than the mean."""
    low: float | None = None
    """The 95 % interval of own less mean, paired over the test rows; None where there are too few."""
    high: float | None = None


class FeasibilityOutcome(Outcome, frozen=True, kw_only=True):
    """What models of their own, the pooled model alone, and the mean would give. Nothing is built, nothing is served."""

    model: str
    purpose: str
    snapshot: SnapshotFacts
    tried: int
    """Segments with a model of their own; 0 where one model answers for all rows."""
    small: int = 0
    """Segments with too few rows for one."""
    failed: int = 0
    own_or_mean: PairedFacts | None = None
    """Models of their own - or the one model of all rows - beside the mean of the training rows."""
    own_or_pooled: PairedFacts | None = None
    """Models of their own beside the pooled model alone; None without segments."""
    pooled_or_mean: PairedFacts | None = None
    needs: tuple[NeedFacts, ...] = ()
    gains: tuple[SegmentGain, ...] = ()
    """Every segment, the largest gain first."""
    advice: str = ""
    failures: tuple[FailureGroup, ...] = ()
    unit: str = ""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where a need is not met, or undecided."""
        return int(any(need.verdict is not True for need in self.needs))


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The arms of one study, all on one snapshot."""

    name: str
    model: str
    snapshot: str
    champion: int
    arms: tuple[ArmFacts, ...]
    winner: int | None = None
