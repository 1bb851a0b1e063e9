"""What became of rows."""

from __future__ import annotations

from datetime import datetime

import msgspec

from modelmill.outcomes.parts import Outcome, SnapshotFacts


class ImportOutcome(Outcome, frozen=True, kw_only=True):
    """What became of rows that were imported."""

    snapshot: SnapshotFacts
    seconds: float
    checks: int = 0
    """Promises of the contract that were checked, a column and a rule each."""
    before: str = ""
    """The snapshot that rows were appended to; empty for an import."""
    added: int = 0
    """Rows that were appended; 0 where all of them were there already."""
    repeated: int = 0
    """Of these, rows that equal one that was there in every column: they are kept twice."""
    added_bytes: int = 0
    next: str = ""


class InferOutcome(Outcome, frozen=True, kw_only=True):
    """A schema that was guessed from a sample, as source to be edited."""

    source: str
    columns: int
    rows: int
    out: str = ""
    """The file that it was written to; empty where it is printed."""
    notices: tuple[str, ...] = ()
    next: str = ""


class ExportOutcome(Outcome, frozen=True, kw_only=True):
    """A file that a snapshot was written to."""

    snapshot: SnapshotFacts
    out: str
    bytes: int
    seconds: float
    next: str = ""


class LoggedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes have logged of one model's answers."""

    label: str
    """``predictions/air-time``"""
    rows: int
    files: int = 0
    bytes: int = 0
    pending: int = 0
    """Requests that nodes have written down, but that are in no file yet; their rows are not among `rows`."""
    first_at: datetime | None = None
    last_at: datetime | None = None


class SnapshotListing(Outcome, frozen=True, kw_only=True):
    """The snapshots of a project, newest first."""

    snapshots: tuple[SnapshotFacts, ...] = ()
    predictions: tuple[LoggedFacts, ...] = ()
    """What nodes have logged, a model each."""
    next: str = ""
