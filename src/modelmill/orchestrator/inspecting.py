"""What is looked at beyond the contract before rows become a snapshot: the checks, how fresh they are, what is gone.

Without a declaration a difference from the last snapshot is a notice, never a refusal: a person may know why.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import polars as pl

from modelmill.data.checks import ask_checks
from modelmill.data.snapshot import Segments, Snapshot
from modelmill.data.taking import list_snapshots, load_segments
from modelmill.errors import DataShrunk, DataStale
from modelmill.model.conditions import parse_duration
from modelmill.names import Segment, format_segment
from modelmill.orchestrator.project import Project
from modelmill.store.opening import Store

_FEWER = 0.8
"""A snapshot with a smaller share of the last one's rows is worth a notice."""
_SHOWN = 3
_SAFE = "no snapshot was made; everything that is served is unchanged"


class Inspection:
    """Looks at the rows of one dataset as its next snapshot."""

    def __init__(self, project: Project, store: Store, dataset: str, source: str, *, chosen: bool = False) -> None:
        """Take what the rows are compared with; rows that a person has `chosen` by a window may be old, and few."""
        self.model, self.root = project.model, project.settings.root
        self.store, self.dataset, self.source, self.chosen = store, dataset, source, chosen

    def __call__(self, rows: pl.DataFrame, segments: Segments) -> tuple[str, ...]:
        """Return notices; raises `CheckFailed`, `DataStale` or `DataShrunk` where a promise is broken."""
        ask_checks(self.model.checks, rows, self.root, self.source)
        if self.chosen:
            return ()
        self._check_fresh(rows)
        last = next(iter(list_snapshots(self.store, self.dataset, limit=1)), None)
        return tuple(self._against(last, segments)) if last is not None else ()

    def _check_fresh(self, rows: pl.DataFrame) -> None:
        column = self.model.spec.time
        if not self.model.fresh or column is None:
            return
        newest = rows[column.name].max()
        moment = newest if isinstance(newest, datetime) else datetime.combine(newest, time.max)  # type: ignore[arg-type]
        age = datetime.now(UTC).replace(tzinfo=None) - moment
        if age > parse_duration(self.model.fresh):
            raise DataStale(
                f"the newest row is {_told(age)} old",
                where=f"{self.source}, column `{column.name}`",
                expected=f"at most {self.model.fresh} (fresh= of `{self.model.name}`)",
                got=str(moment),
                likely="the job that writes these rows has stopped, or its clock is another one than UTC",
                next="look at the source; of older rows on purpose:  --window A..B",
                safe=_SAFE,
            )

    def _against(self, last: Snapshot, segments: Segments) -> Iterator[str]:
        """Compare with the last snapshot: how many of its rows and segments are there still."""
        rows = int(segments.rows.sum())
        known = set(segments.keys)
        gone = [key for key in load_segments(self.store, last).keys if key not in known]
        shares = {"rows": rows / last.manifest.rows, "segments": 1 - len(gone) / last.segments}
        self._check_kept(last, shares, gone)
        if shares["rows"] < _FEWER:
            yield f"{rows:,} rows, {last.label} had {last.manifest.rows:,}"
        if gone:
            yield f"{len(gone):,} of {last.segments:,} segments of {last.label} are gone, e.g. {_named(gone)}"

    def _check_kept(self, last: Snapshot, shares: dict[str, float], gone: list[Segment]) -> None:
        for what, share in shares.items():
            if share < self.model.keeps:
                raise DataShrunk(
                    f"only {share:.0%} of the {what} of {last.label} are left",
                    where=self.source,
                    expected=f"at least {self.model.keeps:.0%} (keeps= of `{self.model.name}`)",
                    got=f"gone: {_named(gone)}" if gone else "",
                    next=f"modelmill data show {last.label}; of fewer rows on purpose:  --window A..B",
                    safe=_SAFE,
                )


def _named(segments: list[Segment]) -> str:
    more = f" and {len(segments) - _SHOWN} more" if len(segments) > _SHOWN else ""
    return ", ".join(format_segment(key) for key in segments[:_SHOWN]) + more


def _told(age: timedelta) -> str:
    return f"{age.days} days" if age.days > 1 else f"{age.total_seconds() / 3600:.1f} hours"
