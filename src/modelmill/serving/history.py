"""What each segment was asked, minute by minute, in the node's own small store: for whoever looks for the one that is slow.

A file beside the node's log, written by its workers every few seconds and kept for a day. It is no record of anything:
it may be deleted at any time, and nothing waits for it to be on disk.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from modelmill.serving.meters import CLASSES, Counted, Counts, Place, added, quantile

WINDOW_S = 60
KEPT_S = 24 * 3600
_NEVER = 2.0**60
"""Later than all moments."""
_TABLE = """
CREATE TABLE IF NOT EXISTS asked (
  model TEXT NOT NULL, segment TEXT NOT NULL, release INTEGER NOT NULL, window INTEGER NOT NULL, worker INTEGER NOT NULL,
  count INTEGER NOT NULL, failed INTEGER NOT NULL, classes BLOB NOT NULL,
  PRIMARY KEY (model, segment, release, window, worker)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked_by_window ON asked (window, count);
"""
_ADD = """
INSERT INTO asked VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  count = count + excluded.count, failed = failed + excluded.failed, classes = excluded.classes
"""
_OF_ONE = (
    "SELECT window, count, failed, classes FROM asked WHERE model = ? AND segment = ? AND window >= ? ORDER BY window"
)
_SUMS = """
SELECT model, segment, sum(count) AS asked, sum(failed) AS failed FROM asked WHERE window >= ? AND segment <> ''
GROUP BY model, segment ORDER BY failed DESC, asked DESC, model, segment LIMIT ?
"""
_SIDES = "SELECT window, release, count, failed, classes FROM asked WHERE model = ? AND segment = '' AND window >= ?"
_NEWEST = "SELECT max(window) FROM asked"
# `+model`: found by the window, of which there are few, not by the model, of which there may be a day.
_FAILING = """
SELECT release, segment, sum(count), sum(failed) FROM asked WHERE window >= ? AND window < ? AND +model = ? AND segment <> ''
GROUP BY release, segment HAVING sum(failed) > 0
"""
_ASKED = "SELECT segment, sum(count) FROM asked WHERE model = ? AND segment <> '' AND window >= ? GROUP BY segment"
_NAMES = "SELECT DISTINCT segment FROM asked WHERE window >= ? AND window < ? AND +model = ? AND release = ? AND segment <> ''"
ALL = ""
"""Stands for all segments of a release together; no segment is written so."""


class Seen(NamedTuple):
    """What one release of a model was asked over a time."""

    asked: int
    failed: int
    """How often its own model gave no usable answer, or nobody could."""
    classes: Counts
    """Requests by class of their latency, see `meters`."""


class Point(NamedTuple):
    """What one segment was asked in one minute."""

    window: int
    """When the minute began, in seconds since 1970."""
    asked: int
    failed: int
    p50: float | None
    """Seconds."""
    p99: float | None


class Burden(NamedTuple):
    """What one segment was asked over a time."""

    model: str
    segment: str
    asked: int
    failed: int


class History:
    """The minutes of all workers of a node."""

    def __init__(self, folder: Path) -> None:
        """Take where the file is, or will be."""
        self.folder = folder
        self._path = folder / "history.db"
        self._pending: dict[tuple[Place, int], Counter[int]] = {}

    def add(self, worker: int, taken: Mapping[Place, Counted], now: float | None = None) -> None:
        """Add what a worker has counted to the minute that it is now.

        Minutes never go back: where the clock was set back, the newest one lasts until the clock is there again. So whoever
        reads on from where it was misses nothing.
        """
        window = int((time.time() if now is None else now) // WINDOW_S * WINDOW_S)
        counts = [*taken.items(), *_by_release(taken)]
        with closing(self._connect()) as database, database:
            window = max(window, database.execute(_NEWEST).fetchone()[0] or 0)
            self._pending = {key: classes for key, classes in self._pending.items() if key[1] == window}
            rows = [self._row(place, window, worker, counted) for place, counted in counts]
            database.executemany(_ADD, rows)
            database.execute("DELETE FROM asked WHERE window < ?", (window - KEPT_S,))

    def forget(self, now: float) -> None:
        """Let go of what belongs to minutes that are over; `add` does so too, but it comes only where somebody was asked."""
        pending = self._pending
        for key in list(pending):  # one by one: `add` may be at work in a thread
            if key[1] + WINDOW_S <= now:
                pending.pop(key, None)

    def _row(self, place: Place, window: int, worker: int, counted: Counted) -> tuple[Any, ...]:
        """Return a row whose latencies are those of the whole minute: they are replaced, not added, by the database."""
        whole = self._pending.setdefault((place, window), Counter())
        whole.update(counted.classes)
        return (*place, window, worker, counted.times, counted.failed, msgspec.msgpack.encode(dict(whole)))

    def of(self, model: str, segment: str, since: float) -> list[Point]:
        """Return the minutes of one segment, the oldest first."""
        with closing(self._connect()) as database:
            rows = database.execute(_OF_ONE, (model, segment, int(since))).fetchall()
        by_window: dict[int, list[Any]] = {}
        for window, *rest in rows:
            by_window.setdefault(window, []).append(rest)
        return [_point(window, of_workers) for window, of_workers in by_window.items()]

    def sides(self, model: str, since: float) -> dict[int, dict[int, Seen]]:
        """Return what each release of a model was asked, minute by minute, since the minute of a moment."""
        with closing(self._connect()) as database:
            rows = database.execute(_SIDES, (model, int(since // WINDOW_S * WINDOW_S))).fetchall()
        found: dict[int, dict[int, list[Any]]] = {}
        for window, release, *rest in rows:
            found.setdefault(window, {}).setdefault(release, []).append(rest)
        return {
            window: {
                release: Seen(sum(r[0] for r in some), sum(r[1] for r in some), added(_counts(r[2]) for r in some))
                for release, some in releases.items()
            }
            for window, releases in found.items()
        }

    def failing(self, model: str, since: float, until: float = _NEVER) -> dict[int, dict[str, tuple[int, int]]]:
        """Return how often the segments that failed were asked, and failed, by release, between the minutes of two moments."""
        found: dict[int, dict[str, tuple[int, int]]] = {}
        minutes = [int(moment // WINDOW_S * WINDOW_S) for moment in (since, until)]
        with closing(self._connect()) as database:
            rows = database.execute(_FAILING, (*minutes, model)).fetchall()
        for release, segment, asked, failed in rows:
            found.setdefault(release, {})[segment] = asked, failed
        return found

    @property
    def exists(self) -> bool:
        """Return whether anything was ever counted."""
        return self._path.exists()

    def asked(self, model: str, since: float) -> dict[str, int]:
        """Return how often each segment of a model was asked since a moment."""
        with closing(self._connect()) as database:
            return dict(database.execute(_ASKED, (model, int(since))).fetchall())

    def asked_of(self, model: str, release: int, since: float, until: float = _NEVER) -> set[str]:
        """Return the segments that a release was asked for between the minutes of two moments."""
        minutes = [int(moment // WINDOW_S * WINDOW_S) for moment in (since, until)]
        with closing(self._connect()) as database:
            return {name for (name,) in database.execute(_NAMES, (*minutes, model, release))}

    def worst(self, most: int, since: float) -> list[Burden]:
        """Return the segments whose own models failed most often, then those that were asked most."""
        with closing(self._connect()) as database:
            return [Burden(*row) for row in database.execute(_SUMS, (int(since), most))]

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, _TABLE)


def connect(path: Path, tables: str) -> sqlite3.Connection:
    """Open a node's own small store, and make tables that are not there."""
    database = sqlite3.connect(path, timeout=5)
    database.execute("PRAGMA synchronous = OFF")
    database.executescript(tables)
    return database


def _by_release(taken: Mapping[Place, Counted]) -> Iterator[tuple[Place, Counted]]:
    """Yield the counts of all segments of each release together: few rows, where segments may be thousands."""
    releases: dict[tuple[str, int], list[Counted]] = {}
    for (model, _, release), counted in taken.items():
        releases.setdefault((model, release), []).append(counted)
    for (model, release), several in releases.items():
        classes: Counter[int] = Counter()
        for counted in several:
            classes.update(counted.classes)
        times, failed = sum(one.times for one in several), sum(one.failed for one in several)
        yield (model, ALL, release), Counted(times, failed, classes)


def _point(window: int, of_workers: Sequence[tuple[int, int, bytes]]) -> Point:
    classes = added(_counts(found) for *_, found in of_workers)
    count, failed = sum(row[0] for row in of_workers), sum(row[1] for row in of_workers)
    return Point(window, count, failed, quantile(classes, 0.5), quantile(classes, 0.99))


def _counts(content: bytes) -> Counts:
    counts = [0] * CLASSES
    for found, count in msgspec.msgpack.decode(content, type=dict[int, int]).items():
        counts[found] = count
    return counts
