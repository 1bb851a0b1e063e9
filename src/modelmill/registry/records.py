"""What the registry is told and what it answers, as values: a run, a chunk, its versions and failures."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from modelmill.names import Digest, ModelName, Segment
from modelmill.registry.change import Digests


class RunState(StrEnum):
    """How far a run is."""

    RUNNING = "running"
    DONE = "done"
    """All segments were built."""
    PARTIAL = "partial"
    """Some segments failed; the others have new versions."""
    FAILED = "failed"
    """Nothing was built."""
    ABANDONED = "abandoned"
    """It was interrupted, and another plan has replaced it."""


class RunStart(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when a run begins; everything with a digest was put among the blobs before."""

    model: ModelName
    idempotency_key: str
    """Made by the caller: the same key is the same run."""
    plan: Digest
    """What is to be built; an unfinished run with the same plan can be gone on with."""
    snapshot: Digest
    code: Digest
    """The archive of the user's files, see `facts.capture_code`."""
    model_digest: Digest
    """The third of the digests that make a version: the declaration with its parameters."""
    lock: Digest
    host: Digest
    declaration: Digest
    score: str = "mae"
    """The name of the metric by which versions are ordered."""
    kind: str = "train"
    commit: str = ""
    diff: Digest | None = None
    parameters: Mapping[str, Any] = {}
    tags: Mapping[str, str] = {}
    """Given to every version of the run."""
    seed: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution that reads a snapshot and code and yields versions. Its number is the number of its versions."""

    id: int
    model_id: int
    model: ModelName
    number: int
    state: RunState
    kind: str
    plan: Digest
    snapshot: Digest
    code: Digest
    model_digest: Digest
    lock: Digest
    host: Digest
    declaration: Digest
    commit: str
    diff: Digest | None
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    seed: int
    started_at: datetime
    finished_at: datetime | None
    counts: Mapping[str, int]
    map: Digest | None
    signature: bytes | None


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One segment that was built."""

    segment: Segment
    artifact: Digest
    """Of the bytes in the pack at `offset`."""
    offset: int
    length: int
    identity: Digest
    """`change.Digests.identity` of what it was built from."""
    data: Digest
    format: str
    runtime: str = "python"
    runtime_why: str = ""
    """Why it is not packed; empty where it is."""
    rows: int = 0
    test_rows: int = 0
    score: float | None = None
    metrics: Mapping[str, float | None] = {}
    state: str = "own"
    """Who answers for the segment: ``own`` or ``pooled``."""
    why: str = ""
    extras: Digest | None = None
    """Of the histograms and golden rows in the same pack."""
    extras_offset: int = 0
    extras_length: int = 0


JUDGED = frozenset({"retrain"})
"""The kinds of runs whose versions answer nobody before their gate has judged them."""
GATE = "gate"
"""The stage of a segment that was built, and whose version was then refused."""


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One segment that could not be built, or whose version a gate has refused."""

    segment: Segment
    stage: str
    code: str
    fingerprint: str
    """The same for failures of the same cause."""
    summary: str
    detail: str = ""


class ChunkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one chunk of segments. Its pack is among the blobs already."""

    chunk: int
    pack: Digest | None = None
    pack_bytes: int = 0
    versions: tuple[VersionRecord, ...] = ()
    failures: tuple[FailureRecord, ...] = ()

    def segments(self) -> set[Segment]:
        """Return the segments that the chunk is about."""
        return {version.segment for version in self.versions} | {failure.segment for failure in self.failures}


class Head(msgspec.Struct, frozen=True):
    """What a plan has to know of a segment."""

    number: int | None
    """The newest version, also where a gate has refused it; None when none could ever be built."""
    digests: Digests | None
    failed: bool
    """Whether building it failed since."""
    readable: bool = True
    """Whether this version of modelmill reads its bytes."""

    @property
    def identity(self) -> Digest | None:
        """Return the digest of what the newest version was computed from."""
        return self.digests.identity if self.digests else None
