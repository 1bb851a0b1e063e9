"""What a build's failures have in common: segments grouped by cause, the largest group first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from modelmill.names import Segment
from modelmill.registry.records import FailureRecord


class FailureGroup(NamedTuple):
    """Segments that failed for one cause."""

    first: FailureRecord
    segments: list[Segment]


def group_failures(failures: Iterable[FailureRecord]) -> list[FailureGroup]:
    """Return the failures by their fingerprint."""
    groups: dict[str, FailureGroup] = {}
    for failure in failures:
        group = groups.setdefault(failure.fingerprint, FailureGroup(failure, []))
        group.segments.append(failure.segment)
    return sorted(groups.values(), key=lambda group: -len(group.segments))
