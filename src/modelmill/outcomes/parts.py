"""What several answers are made of, and what every one of them is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

Progress = Callable[[str, dict[str, Any]], None]
"""How a verb tells what it is doing: a kind, and the facts of that kind."""


PROGRESS_KINDS = {
    "line": "text: one line for a person",
    "build": "done, total, built, failed, unchanged, pooled, rate: counts of segments so far; rate is models a second",
    "failure": "segment, code, summary: one segment that could not be built",
    "plan": "outcome: the PlanOutcome that is about to be applied",
    "up": "outcome: the UpOutcome or ServeOutcome, once the node answers; the verb returns when the node has ended",
}


def no_progress(kind: str, facts: dict[str, Any]) -> None:
    """Tell nobody."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a verb."""

    @property
    def exit_code(self) -> int:
        """Return 0: all went well; a verb that could not do its work raises instead."""
        return 0


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot, as it is shown."""

    label: str
    """``flights@s1``"""
    dataset: str
    number: int
    digest: str
    rows: int
    segments: int = 0
    bytes: int = 0
    source: str = ""
    taken_at: datetime | None = None
    new: bool = True
    """False when the rows were the same as those of a snapshot that was there already."""
    rows_without_label: int = 0
    notices: tuple[str, ...] = ()
    """What is no mistake, and a person would want to know: segments that are gone, many fewer rows."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One error on the same test rows: the models of their own, the pooled model, and the mean of the training rows."""

    metric: str
    rows: int
    """Test rows that all three answered."""
    own: float
    """The segments' own models, also where the pooled one answers: choosing on these rows would flatter the choice."""
    pooled: float | None = None
    mean: float | None = None
    unit: str = ""


class PairedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Other answers less the champion's on the same test rows: the mean loss, lower is better."""

    measure: str
    """``mae``, ``mse``, ``mape``, ``log_loss`` or ``error rate``"""
    new: float
    champion: float
    difference: float
    low: float | None
    """The 95 % interval of the difference, corrected for the number of arms; None where it is not known."""
    high: float | None
    verdict: str
    """``better`` or ``worse`` where the interval does not hold zero, else ``no real difference``."""
    rows: int
    segments: int
    better: int
    """Segments that are clearly better, each by a paired t test of its rows; of 100 that do not differ 2 are expected."""
    worse: int
    unjudged: int
    """Segments with too few rows for that."""


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Segments that failed for one cause."""

    code: str
    cause: str
    count: int
    stage: str = ""
    segments: tuple[str, ...] = ()
    """At most three examples."""
    where: str = ""
    """``delays.py:41 train()``"""
    got: str = ""
    """What a gate found of the first one: ``mae 3.21, the champion's 2.98, on 63 rows: clearly worse``"""
    next: str = ""
    safe: str = ""


class LawCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many segments a law was asked of, and for how many it does not hold."""

    name: str
    asked: int
    failed: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The segments of a fleet, by what this run did and by who answers now. The pooled model is not counted."""

    segments: int
    built: int = 0
    unchanged: int = 0
    """Carried forward: code, data and model are the same."""
    failed: int = 0
    """Their previous version stays; where there is none the pooled model answers."""
    refused: int = 0
    """Built, and refused by the gate: their champion goes on answering, or the pooled model where there is none."""
    parents: int = 0
    """Models of levels that were built."""
    refused_parents: int = 0
    """Those of them that the gate refused."""
    own: int = 0
    """Segments whose own model answers."""
    pooled: int = 0
    """Segments that the pooled model answers for; `TrainOutcome.pooled_because` says why."""
