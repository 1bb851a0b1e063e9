"""A model file that uses most of what a file may use: pandas, a table, a window, conditions, a law, a test file of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command, environment

FILE = '''"""Arrival delay of flights out of New York: one model per carrier and destination."""
from datetime import datetime

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

import modelmill as mm


class Flight(mm.Schema):
    """One row of training data; without its target, one request."""

    carrier: str = mm.key()
    dest: str = mm.key()
    scheduled: datetime = mm.time()
    dep_delay: float = mm.col(ge=-120, le=2000, unit="min", doc="late leaving the gate")
    distance: int = mm.col(ge=1, unit="mile")
    hour: int = mm.col(ge=0, le=23)
    month: int = mm.col(ge=1, le=12)
    arr_delay: float = mm.target(ge=-180, le=2000, unit="min", doc="late arriving")


delays = mm.Model(
    "arrival-delay",
    Flight,
    by=[Flight.carrier, Flight.dest],
    min_rows=200,
    owner="flights@example.com",
    gate=[mm.no_worse("mae", than="champion"), mm.better("mae", than="mean", by=0.10)],
    retrain=[mm.every("week"), mm.worse("mae") > 0.10, mm.drifted(Flight.dep_delay)],
    canary=mm.Canary(steps=["2%", "20%", "100%"], of="segments", hold="30m",
                     abort=[mm.error_rate > 0.01, mm.p99_ms > 20, mm.worse("mae") > 0.10]),
)


@delays.data
def flights(window: mm.Window) -> pd.DataFrame:
    return mm.read("warehouse", table="flights", between=window)


@delays.train
def train(x: np.ndarray, y: np.ndarray, alpha: float = 1.0) -> Ridge:
    return Ridge(alpha=alpha).fit(x, y)


@delays.predict
def predict(model: Ridge, x: np.ndarray) -> np.ndarray:
    return model.predict(x).clip(-180, 2000)


@delays.test
def leaving_an_hour_later_costs_half_an_hour(ask: mm.Ask) -> None:
    assert ask(dep_delay=60) > ask(dep_delay=0) + 30  # the rest: this segment's typical row
'''

ITS_TESTS = """
import numpy as np
import pytest
from delays import delays, leaving_an_hour_later_costs_half_an_hour as law, predict, train
def test_train_and_predict_are_ordinary_functions():
    x = np.random.default_rng(0).normal(0, 30, (500, 4))
    assert abs(predict(train(x, x[:, 0] - 5), np.array([[60.0, 0, 0, 0]]))[0] - 55) < 1
def test_model_test_is_an_ordinary_function_too():
    law(lambda dep_delay, **_: dep_delay)
    with pytest.raises(AssertionError): law(lambda **_: 0)
def test_declaration():
    assert [str(k) for k in delays.by] == ["carrier", "dest"]
    assert delays.retrain[2].left == "drift(dep_delay)" and delays.retrain[1].right == 0.10
    assert delays.roles["train"] is train
"""
SETTINGS = """
[connections.warehouse]
dev  = "sample/flights.parquet"
prod = "postgresql://warehouse/flights"

[environments.dev]
[environments.prod]
nodes = ["node-1", "node-2", "node-3"]
requires = ["clean commit", "law", "gate", "canary"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    routes, rows = 12, 250
    total = routes * rows
    late = rng.normal(10, 30, total).clip(-100, 1000)
    frame = pl.DataFrame(
        {
            "carrier": [("UA", "DL", "B6")[n // rows % 3] for n in range(total)],
            "dest": [("ORD", "ATL", "BOS", "MIA")[n // rows // 3] for n in range(total)],
            "scheduled": np.datetime64("2013-01-01", "us") + rng.integers(0, 330, total) * np.timedelta64(1, "D"),
            "dep_delay": late,
            "distance": np.repeat(rng.integers(200, 2000, routes), rows),
            "hour": rng.integers(5, 23, total),
            "month": rng.integers(1, 13, total),
            "arr_delay": (0.9 * late - 4 + rng.normal(0, 8, total)).clip(-170, 1900),
        }
    )
    (tmp_path / "sample").mkdir()
    frame.write_parquet(tmp_path / "sample" / "flights.parquet")
    (tmp_path / "delays.py").write_text(FILE)
    (tmp_path / "test_delays.py").write_text(ITS_TESTS)
    (tmp_path / "modelmill.toml").write_text(SETTINGS)
    return tmp_path


def test_its_own_tests_need_no_platform(project: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=False)
    assert "3 passed" in done.stdout, done.stdout


def test_it_is_checked_trained_and_shown(modelmill: Command, project: Path) -> None:
    checked = modelmill("check", cwd=project)
    assert checked.code == 0, checked.err
    built = modelmill("train", "--json", cwd=project)
    assert built.code == 0, built.err
    assert built.json["counts"]["built"] == 12
    assert built.json["laws"] == [{"name": "leaving_an_hour_later_costs_half_an_hour", "asked": 13, "failed": 0}]
    shown = modelmill("show", cwd=project).out
    for declared in ("no_worse", "every", "drift(dep_delay)", "2%, 20%, 100%"):
        assert declared in shown
    assert shown.count("not active yet") == 1
