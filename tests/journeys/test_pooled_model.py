"""Segments are built while the pooled model still is: whatever becomes of it, they are recorded, compared where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command

import modelmill as mm
from modelmill.names import ModelName, Segment
from modelmill.registry.versions import current_scores
from modelmill.settings import load_settings
from modelmill.store.opening import open_store

STORES, ROWS = 100, 20
MODEL = """
import os
import time
from datetime import datetime

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    sales: float = mm.target()


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=5)


@sales.data
def rows(window):
    return mm.read("rows")


@sales.train
def train(x, y, segment, how: str = "well"):
    if not segment and how == "fails":
        raise ValueError("the stores have nothing in common")
    if not segment and how == "slowly":
        time.sleep(1.5)
    return np.linalg.lstsq(x, y, rcond=None)[0]


@sales.predict
def predict(model, x, segment, rows):
    if not segment and len(x) > 400 and os.environ.get("POOLED") == "crashes":
        os._exit(1)
    return x @ model
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(STORES), ROWS)
    size = rng.normal(size=STORES * ROWS)
    frame = pl.DataFrame(
        {
            "store": [f"s{number:03d}" for number in owner],
            "at": np.datetime64("2026-01-01", "us") + np.tile(np.arange(ROWS), STORES) * np.timedelta64(1, "D"),
            "size": size,
            # Every other store is like all the others: there the pooled model is the better one.
            "sales": (1 + owner % 2 * rng.normal(size=STORES)[owner]) * size + rng.normal(0, 0.3, STORES * ROWS),
        }
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "sales.py").write_text(MODEL)
    (tmp_path / "modelmill.toml").write_text(
        'model = "sales.py"\n[build]\nworkers = 2\n[connections.rows]\ndev = "rows.parquet"\n'
    )
    return tmp_path


def scores(project: Path) -> dict[Segment, tuple[str, dict[str, Any]]]:
    """Return who answers for each segment, and its metrics."""
    with open_store(load_settings(project, {})) as store:
        return {
            row.segment: (row.state, dict(row.metrics)) for row in current_scores(store.database, ModelName("sales"))
        }


def test_a_slow_pooled_model_is_compared_with_as_a_fast_one_is(modelmill: Command, project: Path) -> None:
    assert modelmill("train", cwd=project).code == 0
    fast = scores(project)
    again = modelmill("train", "--set", "how=slowly", "--json", cwd=project).json
    assert again["counts"]["built"] == STORES
    slow = scores(project)
    assert {state for state, _ in slow.values()} == {"own", "pooled"}
    for segment, (state, metrics) in slow.items():
        assert state == fast[segment][0]
        assert metrics == pytest.approx(fast[segment][1])
        assert ("mae:pooled" in metrics) == (segment != ())


def test_a_pooled_model_that_fails_costs_only_itself(modelmill: Command, project: Path) -> None:
    done = modelmill("train", "--set", "how=fails", "--json", cwd=project)
    assert done.code == 1
    assert done.json["counts"]["own"] == STORES
    assert [group["segments"] for group in done.json["failures"]] == [["pooled"]]


def test_a_pooled_model_that_ends_its_worker_is_not_compared_with(modelmill: Command, project: Path) -> None:
    done = modelmill("train", "--json", cwd=project, POOLED="crashes")
    assert done.code == 0, done.err
    assert done.json["counts"]["own"] == STORES
    assert not any("mae:pooled" in metrics for _, metrics in scores(project).values())


def test_where_nothing_may_wait_the_pooled_model_is_built_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.build.builder._WAITING_EACH", 0)
    assert mm.Mill(project).train().counts.built == STORES
    found = scores(project)
    assert len(found) == STORES + 1
    assert all(("mae:pooled" in metrics) == (segment != ()) for segment, (_, metrics) in found.items())
