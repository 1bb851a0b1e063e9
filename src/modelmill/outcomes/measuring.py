"""A/B tests: two releases that serve side by side, and what was measured of their answers."""

from __future__ import annotations

from datetime import datetime

import msgspec

from modelmill.outcomes.parts import Outcome


class SideFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two releases."""

    release: int
    version: int
    share: float
    """Of the entities, as it was asked for."""
    entities: int
    """That were answered: what shares the requests, such as customers."""
    answers: int
    measured: int
    """Answers that count: with an outcome, or old enough to have none."""
    mean: float | None = None
    """Of the outcome, over the answers that count."""


class AbFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Two releases, and by how much the newer one does better."""

    environment: str
    model: str
    outcome: str
    less: bool
    """Whether less of it is better."""
    state: str
    """``running``, or ``stopped``"""
    why: str
    """Why it was stopped."""
    began_at: datetime
    ended_at: datetime | None
    current: SideFacts
    candidate: SideFacts
    verdict: str
    """Of the candidate: ``better``, ``worse``, ``no clear difference``, or ``unknown``, which is never taken for well"""
    unknown: str = ""
    """Why it is not known."""
    difference: float | None = None
    """Of the means, candidate - current."""
    low: float | None = None
    high: float | None = None
    """Bounds of it that hold however often one looks, with 95 %."""
    parked: int = 0
    """Outcomes that have found no answer yet."""


class AbOutcome(Outcome, frozen=True, kw_only=True):
    """What `ab` did, and the test that it was about."""

    done: str
    """``begun``, ``ended``, or empty where it is only shown"""
    ab: AbFacts | None
    environment: str
    model: str
    confirmed: int = 0
    """Workers of its node that have applied it; 0 where none runs."""
    seconds: float = 0.0
    next: str = ""
