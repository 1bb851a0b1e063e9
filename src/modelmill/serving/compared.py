"""What shadows answered beside the answers that were given, minute by minute, in the node's own small store.

It lies in the file of `history`, and is as little a record as that: what is to be kept is written down when a shadow ends.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from modelmill.serving.history import ALL, KEPT_S, WINDOW_S, connect
from modelmill.serving.tallies import Apart, Tally

_KEPT_WHOLE_S = 30 * KEPT_S
"""A shadow's counts of all segments together are few rows, and are kept for longer."""
_TABLE = """
CREATE TABLE IF NOT EXISTS copied (
  model TEXT NOT NULL, segment TEXT NOT NULL, release INTEGER NOT NULL, window INTEGER NOT NULL, worker INTEGER NOT NULL,
  count INTEGER NOT NULL, failed INTEGER NOT NULL, equal INTEGER NOT NULL, agreed INTEGER NOT NULL,
  dropped INTEGER NOT NULL, total REAL NOT NULL, largest REAL NOT NULL, classes BLOB NOT NULL,
  PRIMARY KEY (model, segment, release, window, worker)
) WITHOUT ROWID;
"""
_COLUMNS = "count, failed, equal, agreed, dropped, total, largest, classes"
_ADD = "INSERT OR REPLACE INTO copied VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIND = f"SELECT {_COLUMNS} FROM copied WHERE model = ? AND segment = ? AND release = ? AND window = ? AND worker = ?"  # noqa: S608 - our own words
_WHOLE = f"SELECT {_COLUMNS} FROM copied WHERE model = ? AND release = ? AND segment = '' AND window >= ?"  # noqa: S608
_APART = """
SELECT segment, sum(count), sum(failed), sum(equal), sum(agreed), 0, sum(total), max(largest) FROM copied
WHERE model = ? AND release = ? AND segment <> '' AND window >= ?
GROUP BY segment HAVING sum(equal) < sum(count)
ORDER BY sum(failed) DESC, sum(total) / max(1, sum(count) - sum(failed)) DESC, segment LIMIT ?
"""


class Compared:
    """The comparisons of all workers of a node."""

    def __init__(self, folder: Path) -> None:
        """Take where the file is, or will be."""
        self._path = folder / "history.db"

    @property
    def exists(self) -> bool:
        """Return whether anything was ever counted."""
        return self._path.exists()

    def add(self, worker: int, taken: Iterable[tuple[str, int, dict[str, Tally]]], now: float | None = None) -> None:
        """Add what a worker's shadows have counted, of each model and release, to the minute that it is now."""
        window = int((time.time() if now is None else now) // WINDOW_S * WINDOW_S)
        with closing(self._connect()) as database, database:
            for model, release, tallies in taken:
                whole = Tally()
                for segment, tally in tallies.items():
                    whole.merge(tally)
                    if segment:
                        _put(database, (model, segment, release, window, worker), tally)
                _put(database, (model, ALL, release, window, worker), whole)
            database.execute("DELETE FROM copied WHERE window < ? AND segment <> ''", (window - KEPT_S,))
            database.execute("DELETE FROM copied WHERE window < ?", (window - _KEPT_WHOLE_S,))

    def whole(self, model: str, release: int, since: float) -> Tally:
        """Return what became of all copies that a release answered since the minute of a moment."""
        if not self.exists:
            return Tally()
        found = Tally()
        with closing(self._connect()) as database:
            for row in database.execute(_WHOLE, (model, release, int(since // WINDOW_S * WINDOW_S))):
                found.merge(_tally(row))
        return found

    def apart(self, model: str, release: int, since: float, most: int) -> list[Apart]:
        """Return the segments that failed most often since then, or whose answers lie farthest apart, the worst first."""
        if not self.exists:
            return []
        with closing(self._connect()) as database:
            rows = database.execute(_APART, (model, release, int(since // WINDOW_S * WINDOW_S), most)).fetchall()
        return [Apart(segment, Tally(*numbers)) for segment, *numbers in rows]

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, _TABLE)


def _put(database: sqlite3.Connection, key: Sequence[Any], tally: Tally) -> None:
    before = database.execute(_FIND, key).fetchone()
    found = _tally(before) if before else Tally()
    found.merge(tally)
    *numbers, classes = msgspec.structs.astuple(found)
    database.execute(_ADD, (*key, *numbers, msgspec.msgpack.encode(classes)))


def _tally(row: Sequence[Any]) -> Tally:
    numbers, classes = row[:-1], msgspec.msgpack.decode(row[-1], type=dict[int, int])
    return msgspec.structs.replace(Tally(*numbers), classes=classes)
