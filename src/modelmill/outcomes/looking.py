"""What is there, and whether anything of it is broken."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from modelmill.outcomes.building import StudyFacts
from modelmill.outcomes.parts import FailureGroup, Outcome


class FoundVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version, as a search lists it."""

    model: str
    segment: str
    number: int
    current: bool = True
    state: str = "own"
    """``own``, ``pooled``, or ``refused`` by the gate."""
    score: float | None = None
    metric: str = ""
    rows: int = 0
    change: str = ""
    """In a segment's history: what it is in the eyes of the version before it."""
    run: int | None = None
    made_at: datetime | None = None


class SearchOutcome(Outcome, frozen=True, kw_only=True):
    """One page of versions."""

    versions: tuple[FoundVersion, ...]
    after: str | None = None
    """Give it back as ``--after`` for the next page; None when this is the last."""
    next: str = ""


class ShowOutcome(Outcome, frozen=True, kw_only=True):
    """Everything about one thing."""

    kind: str
    """``model``, ``version``, ``run``, ``snapshot``, ``study``, ``predictions`` or ``answer``"""
    name: str
    facts: Mapping[str, str]
    """Label -> text, in the order in which they are shown: answers, made by, from data, ..."""
    details: Mapping[str, Any] = {}
    """The same and more, for programs."""
    failures: tuple[FailureGroup, ...] = ()
    study: StudyFacts | None = None
    next: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the store that is not as it was recorded."""

    code: str
    what: str
    where: str = ""
    next: str = ""


class EnvironmentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A package environment that was made from a lock."""

    lock: str
    """The lock's digest."""
    bytes: int
    """What the disk has back when it is removed: what is shared with uv's cache is not counted."""
    used_at: datetime
    kept: str = ""
    """Why it stays; empty for one that nobody needs."""
    removed: bool = False


class FsckOutcome(Outcome, frozen=True, kw_only=True):
    """What a look through the whole store found."""

    checked: Mapping[str, int]
    """Kind of thing -> how many: blobs, packs, versions, snapshots, releases."""
    problems: tuple[Problem, ...] = ()
    unreferenced: int = 0
    """Blobs that no row leads to: left by interrupted runs, harmless."""
    leftovers: int = 0
    """Temporary files whose writer is gone."""
    removed: int = 0
    """How many of both were removed."""
    environments: tuple[EnvironmentFacts, ...] = ()
    """The package environments of the store; those that nobody needs are removed with `--repair`."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when something is broken or lost."""
        return 1 if self.problems else 0


class DoctorCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that modelmill needs of its surroundings."""

    name: str
    state: str
    """``ok``, ``notice`` (works, but could be better) or ``problem``"""
    text: str
    next: str = ""


class DoctorOutcome(Outcome, frozen=True, kw_only=True):
    """How the surroundings are."""

    checks: tuple[DoctorCheck, ...]
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when there is a problem."""
        return 1 if any(check.state == "problem" for check in self.checks) else 0
