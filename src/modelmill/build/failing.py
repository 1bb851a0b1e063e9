"""A segment's failure as a value: one of 5,000 failing stops nothing, and 50 of one cause are one line of a report."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from modelmill.errors import LawFailed, ModelmillError, UserCodeFailed
from modelmill.model.loading import user_frames
from modelmill.names import Segment
from modelmill.registry.records import FailureRecord

_DETAIL = 2_000
_LOST = {
    "time": ("MM306", "it ran out of time"),
    "memory": ("MM306", "it ran out of memory"),
    "output": ("MM306", "it printed too much"),
    "signal": ("MM306", "it crashed its process"),
    "exit": ("MM306", "it ended its process"),
}


def failure_of(segment: Segment, stage: str, error: Exception, folder: Path, printed: str = "") -> FailureRecord:
    """Return an exception of user code as a failure; its own lines are named, ours never."""
    frames = user_frames(error, folder)
    if isinstance(error, ModelmillError):
        code, what = error.code, error.what
        frames = [error.parts["where"], *frames] if "where" in error.parts else frames
    else:
        code, what = UserCodeFailed.code, f"{type(error).__name__}: {error}".rstrip(": ")
    if stage == "law":
        code = LawFailed.code
    detail = "\n".join([*frames, *([f"printed: {printed}"] if printed else [])])
    return _record(segment, stage, code, what, detail)


def lost_failure(segment: Segment, reason: str, detail: str) -> FailureRecord:
    """Return the failure of a segment at which the worker was lost."""
    code, what = _LOST[reason]
    return _record(segment, "train", code, f"{what}: {detail}", "")


def _record(segment: Segment, stage: str, code: str, what: str, detail: str) -> FailureRecord:
    summary = what.split("\n", maxsplit=1)[0][:300]
    place = detail.split("\n", 1)[0].split("  ", maxsplit=1)[0]
    # Numbers and quoted texts differ from segment to segment; what is left is the cause.
    shape = re.sub(r"'[^']*'|\"[^\"]*\"|[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "*", summary)
    fingerprint = hashlib.sha256(f"{stage}\0{code}\0{shape}\0{place}".encode()).hexdigest()[:16]
    return FailureRecord(
        segment=segment, stage=stage, code=code, fingerprint=fingerprint, summary=summary, detail=detail[:_DETAIL]
    )
