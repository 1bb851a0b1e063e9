"""What goes to a worker and what comes back, as values that survive the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelmill.build.plan import Step
from modelmill.data.histogram import Bins
from modelmill.names import Digest, Segment
from modelmill.registry.records import FailureRecord, VersionRecord


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What all chunks of a build share; a worker gets it once."""

    file: Path
    """The user's model file."""
    root: Path
    model: str
    table: Path
    blobs: Path
    parameters: dict[str, Any]
    bins: list[Bins]
    code: Digest
    recipe: Digest
    tests: Path
    """A file of one byte a row of the table: 1 where the row tests."""
    together: int = 0
    """How many rows of segments are fitted together, at most; 0 where each segment is fitted by itself."""


Pooled = tuple[str, Path]
"""The pooled model: its format, and where its bytes lie."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Some segments to build, in the order of the table."""

    number: int
    steps: list[Step]
    pooled: Pooled | None = None
    """None while it is being built: the versions are compared with it afterwards."""
    twice: bool = False
    """Whether its first segment is fitted a second time: a model that is another one each time is to be known as such."""


class ChunkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a chunk; its pack is among the blobs."""

    pack: Digest | None
    pack_bytes: int
    versions: list[VersionRecord]
    failures: list[FailureRecord]
    seconds: float
    """Of the whole chunk, by the wall clock: a process's own clock costs a system call a look."""
    user_s: float
    """Of these, those in the user's own functions and in the fitted objects they returned."""
    steady: tuple[Segment, bool] | None = None
    """A segment that was fitted twice, and whether both were the same; None where none was."""


class Compare(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was built before the pooled model was: its versions are still to be compared with it."""

    chunk: Chunk
    result: ChunkResult
    pooled: Pooled
