"""Whether a model is worth building, by the real command: half of the stores have a slope of their own."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command

STORES, DAYS = 20, 60
FILE = '''
from datetime import datetime

from sklearn.linear_model import Ridge

import modelmill as mm


class Sale(mm.Schema):
    """Sales of a store."""

    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    sales: float = mm.target(unit="EUR")


sales = mm.Model(
    "sales",
    Sale,
    by=[Sale.store],
    min_rows=10,
    purpose="how much to order",
    needs=[mm.better("mae", than="mean", by=0.5), mm.at_least("r2", 0.5)],
)


@sales.data
def rows(window):
    return mm.read("rows", between=window)


@sales.train
def train(x, y, alpha: float = 0.1):
    return Ridge(alpha=alpha).fit(x, y)
'''


def write_rows(path: Path, own: int) -> None:
    """Write rows in which the first `own` stores have a slope of their own, and all others the same one."""
    generator = np.random.default_rng(0)
    store = np.repeat(np.arange(STORES), DAYS)
    slope = np.where(np.arange(STORES) < own, 5 + np.arange(STORES), 3.0)[store]
    size = generator.normal(size=len(store))
    start = datetime(2024, 1, 1)  # noqa: DTZ001 - times in a column have no zone
    days = [start + timedelta(days=day) for _ in range(STORES) for day in range(DAYS)]
    sales = slope * size + generator.normal(size=len(store)) / 5
    frame = pl.DataFrame({"store": [f"s{n:02}" for n in store], "at": days, "size": size, "sales": sales})
    small = frame.head(3).with_columns(store=pl.lit("small"))
    pl.concat([frame, small]).write_parquet(path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sales.py").write_text(FILE)
    (tmp_path / "modelmill.toml").write_text('[connections.rows]\ndev = "rows.parquet"\n\n[build]\nworkers = 1\n')
    write_rows(tmp_path / "rows.parquet", own=STORES // 2)
    return tmp_path


def test_it_says_who_gains_and_keeps_only_the_verdict(modelmill: Command, project: Path) -> None:
    done = modelmill("feasibility", "--json", cwd=project)
    assert done.code == 0, done.err
    found = done.json
    assert (found["purpose"], found["tried"], found["small"], found["unit"]) == ("how much to order", STORES, 1, "EUR")
    assert [need["verdict"] for need in found["needs"]] == [True, True]
    assert found["own_or_pooled"]["better"] >= STORES // 2
    assert found["own_or_mean"]["verdict"] == found["pooled_or_mean"]["verdict"] == "better"
    assert {gain["segment"] for gain in found["gains"]} == {f"s{n:02}" for n in range(STORES)}
    gains = [gain["gain"] for gain in found["gains"]]
    assert gains == sorted(gains, reverse=True)
    assert all(one["low"] < one["own"] - one["mean"] < one["high"] for one in found["gains"])
    assert found["advice"] == ""
    assert modelmill("status", "--json", cwd=project).json["models"] == []
    # What a training then measures is what was promised.
    trained = modelmill("train", "--json", cwd=project).json
    assert trained["snapshot"]["new"] is False
    assert trained["comparison"]["own"] == pytest.approx(found["own_or_mean"]["new"], rel=1e-9)
    assert trained["comparison"]["pooled"] == pytest.approx(found["pooled_or_mean"]["new"], rel=1e-9)
    shown = modelmill("feasibility", cwd=project).out
    assert "worth it" in shown
    assert "|####" in shown


def test_one_slope_for_all_wants_one_model(modelmill: Command, project: Path) -> None:
    write_rows(project / "rows.parquet", own=0)
    found = modelmill("feasibility", "--json", cwd=project).json
    assert "one model of all rows answers" in found["advice"]
    assert found["own_or_pooled"]["better"] < 0.1 * STORES


def test_a_need_that_is_not_met_is_exit_code_1(modelmill: Command, project: Path) -> None:
    done = modelmill("feasibility", "--set", "alpha=1e9", "--json", cwd=project)
    assert (done.code, [need["verdict"] for need in done.json["needs"]]) == (1, [False, False])


def test_one_model_of_all_rows_is_compared_with_the_mean(modelmill: Command, project: Path) -> None:
    file = project / "sales.py"
    file.write_text(file.read_text().replace("    by=[Sale.store],\n", ""))
    done = modelmill("feasibility", "--json", cwd=project)
    assert (done.json["tried"], done.json["own_or_pooled"], len(done.json["gains"])) == (0, None, 1)
    assert done.json["own_or_mean"]["verdict"] == "better"


def test_a_need_of_a_champion_is_refused(modelmill: Command, project: Path) -> None:
    file = project / "sales.py"
    file.write_text(file.read_text().replace('than="mean"', 'than="champion"'))
    done = modelmill("feasibility", cwd=project)
    assert (done.code, "before anything is built there is none" in done.err) == (2, True)


def test_where_nothing_can_be_tried_the_cause_is_told(modelmill: Command, project: Path) -> None:
    file = project / "sales.py"
    file.write_text(file.read_text().replace("return Ridge(alpha=alpha).fit(x, y)", "return None"))
    done = modelmill("feasibility", cwd=project)
    assert (done.code, "MM403" in done.err, "MM307" in done.err) == (1, True, True), done.err
