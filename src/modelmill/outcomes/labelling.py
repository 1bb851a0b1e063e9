"""Labels that came back, and what they say of releases."""

from __future__ import annotations

import msgspec

from modelmill.outcomes.parts import Outcome


class LabelImport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of labels that were imported."""

    source: str
    outcome: str = ""
    """What was measured; empty for the target itself."""
    on: str
    """``request_id`` or ``keys,time``"""
    within_s: float
    rows: int
    """Labels that are kept."""
    new: bool
    """False where the same labels were imported before: then nothing has changed."""
    empty: int = 0
    """Rows without a label: left out."""
    repeated: int = 0
    """Rows that said what another row had said: kept once."""


class LabelAge(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers of some age have a label."""

    asked: str
    answers: int
    labelled: int


class ReleaseQuality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the labelled answers of a release were."""

    release: int
    """0 where requests named a version."""
    version: int
    """The run whose fleet map answered."""
    rows: int
    metric: str
    value: float


class ChampionVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A release beside what another one would have answered to the same rows."""

    verdict: str
    """``better``, ``worse``, ``no clear difference``, or ``unknown``, which is never taken for well"""
    why: str = ""
    """Why it is not known."""
    release: int = 0
    before: int = 0
    measure: str = ""
    """The loss that is compared: ``mae``, ``mse``, ``mape``, ``log_loss`` or ``error rate``"""
    rows: int = 0
    own: float = 0.0
    other: float = 0.0
    low: float | None = None
    high: float | None = None
    """Bounds of the difference of the losses, own - other, that hold however often one looks, with 95 %."""


class LabelledFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one environment, and the labels that belong to them."""

    environment: str
    """Empty for answers that were logged before that was written down."""
    answers: int
    labelled: int
    labels: int
    """Imported labels, of each request or moment one."""
    parked: int
    """Labels that have found no answer yet."""
    ambiguous: int
    """Labels that several answers fit, or that several of them fit one: they are left out."""
    corrected: int
    """Labels that a later one has replaced."""
    repeated: int
    delay_s: float | None = None
    """From answer to label: half of them took at most that long."""
    delay_p90_s: float | None = None
    ages: tuple[LabelAge, ...] = ()
    releases: tuple[ReleaseQuality, ...] = ()
    champion: ChampionVerdict = ChampionVerdict(verdict="unknown", why="no labels")
    """The current release beside the one before."""
    challenger: ChampionVerdict | None = None
    """The newest canary's candidate beside what served with it, where it is not the current release."""


class LabelsOutcome(Outcome, frozen=True, kw_only=True):
    """How many answers have labels, and how good they were; after an import also what became of it."""

    model: str
    imports: int
    environments: tuple[LabelledFacts, ...]
    imported: LabelImport | None = None
    out: str = ""
    seconds: float = 0.0
    next: str = ""
