"""What a look at labels costs a deployer: ``python bench/label_looks.py [ROWS ...]``.

A fleet of a hundred stores has answered ROWS requests, each of which has a label. The first look asks the other release all
of them again; the second has a hundred labels more, and asks only these. Logged answers are written as a worker writes them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import stores5k

from modelmill import Mill
from modelmill.data.journal import Answerer, Journal, Record
from modelmill.data.labels import keep_labels
from modelmill.data.predictions import journal_folder
from modelmill.names import ModelName
from modelmill.orchestrator.quality import Labelled
from modelmill.orchestrator.settling import header_of, settle_in
from modelmill.release.policy import Limit, Policy
from modelmill.release.rollouts import Rollout
from modelmill.settings import load_settings
from modelmill.store.opening import Store, open_store

MODEL = ModelName("sales")
BEGAN = datetime.now(UTC) - timedelta(days=1)
"""Within what is kept of predictions."""
MORE = 100
CONDITION = "worse(mae) > 0.1"


def write_answers(store: Store, rows: pl.DataFrame, count: int) -> None:
    """Write so many answers to journals, as release 1 of dev gave them."""
    columns = [column.name for column in header_of(store, MODEL, 1).spec.request_columns]
    values = [[_plain(value) for value in row] for row in rows.select(columns).head(count).rows()]
    journal = Journal(journal_folder(store), "bench", 1)
    records = []
    for place in range(count):
        row = values[place % len(values)]
        who = Answerer("sales", 1, str(row[columns.index("store")]), 1, "", "dev", 1)
        records.append(
            msgspec.msgpack.encode(Record(who, place, BEGAN.timestamp() + place / 100, 0.001, [row], [50.0]))
        )
    journal.write(b"".join(records), 0, count)
    journal.close()


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def label(store: Store, first: int, last: int) -> None:
    """Import the labels of some of the answers."""
    names = [f"bench-{place:x}" for place in range(first, last)]
    frame = pl.DataFrame({"request_id": names, "label": [51.0] * len(names)})
    keep_labels(store, MODEL, "request_id", timedelta(0), frame, "bench")


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(count: int) -> dict[str, Any]:
    """Return how long the two looks took, in seconds by the clock and of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "stores"
        rows = stores5k.write_project(root, stores=100, rows=200, timeout=60.0)
        Mill(root).train()
        Mill(root).releases.deploy("dev")
        settings = load_settings(root)
        policy = Policy((0.1, 1.0), "requests", 60.0, (Limit("worse", 0.1, "mae"),))
        rollout = Rollout(1, "dev", MODEL, 1, 1, "running", policy, 0, None, BEGAN, BEGAN, None, "", "")
        with open_store(settings) as store:
            write_answers(store, rows, count)
            began = time.monotonic()
            settle_in(store, settings)
            told = {"rows": count, "settle_s": round(time.monotonic() - began, 2)}
            labelled = Labelled(store, settings, rollout)
            for name, first, last in (("first_look", 0, count - MORE), ("second_look", count - MORE, count)):
                label(store, first, last)
                labelled.forget()  # it would rest a while from the look before
                began, used = time.monotonic(), cpu_s()
                found = labelled.look()
                told[f"{name}_s"] = round(time.monotonic() - began, 2)
                told[f"{name}_cpu_s"] = round(cpu_s() - used, 2)
                if (found or {}).get(CONDITION, {}).get("rows") != last:
                    raise AssertionError(found)
            return told


def main() -> None:
    """Measure each size, one after the other."""
    found = []
    for count in map(int, sys.argv[1:] or ("2000", "20000")):
        found.append(measured(count))
        print(json.dumps(found[-1]), flush=True)
    (Path(__file__).parent / "results" / "label_looks.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
