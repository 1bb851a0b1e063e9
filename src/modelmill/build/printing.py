"""What user code prints in a worker: it goes to a file in memory, is kept short, shown with a failure, and else forgotten."""

from __future__ import annotations

import os
import sys

from modelmill.compute.compute import OUTPUT_MB

_SHOWN_OUTPUT = 300


def is_too_loud() -> bool:
    """Return whether user code printed more than a segment may."""
    # The builder looks at the output now and then: whoever was faster than its look is told here.
    sys.stdout.flush()
    return os.fstat(1).st_size > OUTPUT_MB << 20


def has_printed() -> bool:
    """Return whether user code has printed anything."""
    sys.stdout.flush()
    return os.fstat(1).st_size > 0


def drain_output() -> str:
    """Return the beginning of what user code printed and forget the rest."""
    if not has_printed():
        return ""
    shown = os.pread(1, _SHOWN_OUTPUT, 0).decode("utf-8", "replace")
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
    return shown
