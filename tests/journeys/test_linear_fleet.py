"""The demo's fleet with `mm.linear` in the place of scikit-learn's Ridge: the same models, fitted together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command, environment
from tests.journeys.test_cli_fleet import FIELDS, ROW, post

ITS_OWN = """@air_time.train
def train(x: np.ndarray, y: np.ndarray, alpha: float = 1.0) -> Ridge:
    return Ridge(alpha=alpha).fit(x, y)
"""


DEADLY = """
import os
from datetime import datetime

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    sales: float = mm.target()


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=5)
sales.train(mm.linear())


@sales.data
def rows(window):
    return mm.read("rows")


@sales.features
def features(rows):
    if "s07" in rows.store and len(set(rows.store)) < 20:
        os._exit(3)
    return rows.size
"""


@pytest.fixture(scope="module")
def linear(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("linear") / "delays"
    assert modelmill("init", str(folder), cwd=folder.parent).code == 0
    file = folder / "delays.py"
    source = file.read_text()
    assert ITS_OWN in source
    source = source.replace(ITS_OWN, "train = air_time.train(mm.linear(alpha=1.0))\n")
    file.write_text(source.replace("from sklearn.linear_model import Ridge\n", ""))
    yield folder
    modelmill("down", cwd=folder)


def test_check_and_its_own_tests_know_no_difference(modelmill: Command, linear: Path) -> None:
    checked = modelmill("check", cwd=linear)
    assert checked.code == 0, checked.out + checked.err
    its_tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(linear)],
        cwd=linear,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert its_tests.returncode == 0, its_tests.stdout


def test_every_model_is_the_one_that_scikit_learn_fits(modelmill: Command, linear: Path, fleet: Path) -> None:
    built = modelmill("train", "--json", cwd=linear)
    assert built.code == 0, built.err
    theirs = modelmill("train", "--rebuild", "--json", cwd=fleet).json
    assert built.json["counts"] == theirs["counts"]
    assert built.json["metrics"] == pytest.approx(theirs["metrics"], rel=1e-9)
    assert built.json["comparison"]["pooled"] == pytest.approx(theirs["comparison"]["pooled"], rel=1e-9)
    assert "packed" in modelmill("show", "air-time", cwd=linear).out
    one, other = (modelmill("predict", *FIELDS, "--json", cwd=folder).json for folder in (linear, fleet))
    assert one["answers"][0]["value"] == pytest.approx(other["answers"][0]["value"], rel=1e-9)


def test_another_parameter_is_another_model(modelmill: Command, linear: Path) -> None:
    assert modelmill("train", cwd=linear).code == 0
    again = modelmill("train", "--json", cwd=linear)
    assert again.json["counts"]["built"] == 0
    other = modelmill("train", "--set", "alpha=0.5", "--json", cwd=linear)
    assert (other.code, other.json["reasons"].keys()) == (0, {"model changed", "fewer than 30 labelled rows"})
    refused = modelmill("train", "--set", "alpha=-1", cwd=linear)
    assert refused.code == 1
    assert "alpha is -1.0, and may not be negative" in refused.out + refused.err


def test_a_node_answers_with_it(modelmill: Command, linear: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", "--json", cwd=linear)
    assert up.code == 0, up.err
    answered = post(up.json["url"], ROW)
    told = modelmill("predict", *FIELDS, "--json", cwd=linear).json
    assert answered["answered_by"] == "own"
    assert answered["air_time"] == pytest.approx(told["answers"][0]["value"])


def test_the_segment_that_ends_its_worker_is_found_among_all(modelmill: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    store = np.repeat([f"s{number:02d}" for number in range(20)], 10)
    at = np.datetime64("2026-01-01", "us") + np.arange(200) * np.timedelta64(1, "D")
    size = rng.normal(size=200)
    frame = pl.DataFrame({"store": store, "at": at, "size": size, "sales": size + rng.normal(size=200)})
    frame.filter(pl.col("store") != "s19").write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "deadly.py").write_text(DEADLY.replace("< 20", "< 19"))
    (tmp_path / "modelmill.toml").write_text('model = "deadly.py"\n[connections.rows]\ndev = "rows.parquet"\n')
    modelmill("train", cwd=tmp_path)
    frame.with_columns(pl.col("sales") + (pl.col("store") < "s12").cast(pl.Float64)).write_parquet(
        tmp_path / "rows.parquet"
    )
    again = modelmill("train", "--json", cwd=tmp_path)
    assert again.code == 1, again.err
    assert [group["segments"] for group in again.json["failures"]] == [["s07"]]
    assert again.json["counts"]["built"] == 12  # s00 to s11 changed and s19 is new, less s07
