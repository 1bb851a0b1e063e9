"""Experiments on a small fleet, by the real command: nothing of them is served, and none of them is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import PATIENCE_S, Command, environment
from tests.postgresql import new_database

STORES = 8
ROWS = 60
FILE = '''
import os
import time
from datetime import datetime

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    """Sales of a store."""

    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    sales: float = mm.target()


class Slope:
    def __init__(self, coef):
        self.coef = coef

    def predict(self, x):
        return x @ self.coef


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=5, test_share=0.5)


@sales.data
def rows(window):
    return mm.read("rows")


@sales.train
def train(x, y, alpha: float = 100.0, scale: float = 1.0):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return Slope(scale * np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y))
'''


@pytest.fixture(scope="module")
def trained(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "sales.py").write_text(FILE)
    (folder / "modelmill.toml").write_text('[connections.rows]\ndev = "rows.parquet"\n\n[build]\nworkers = 1\n')
    generator = np.random.default_rng(0)
    size = generator.normal(size=STORES * ROWS)
    store = np.repeat(np.arange(STORES), ROWS)
    start = datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    frame = pl.DataFrame(
        {
            "store": [f"s{number:02}" for number in store],
            "at": [start + timedelta(days=day) for _ in range(STORES) for day in range(ROWS)],
            "size": size,
            "sales": (3 + store / 5) * size + generator.normal(size=len(size)) / 3,
        }
    )
    frame.write_parquet(folder / "rows.parquet")
    done = modelmill("train", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def fleet(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "fleet"))


def pointers(folder: Path) -> dict[str, str]:
    files = sorted(path for path in (folder / ".modelmill" / "pointers").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def test_an_arm_that_is_better_is_named_and_nothing_is_served(modelmill: Command, fleet: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", cwd=fleet)
    assert modelmill("down", cwd=fleet).code == up.code == 0
    served, versions = pointers(fleet), modelmill("search", "--json", cwd=fleet).json
    done = modelmill("experiment", "--vary", "alpha=0.1,100,1000", "--json", cwd=fleet)
    assert done.code == 0, done.err
    better, same, worse = done.json["arms"]
    assert done.json["winner"] == better["number"]
    assert [arm["compared"]["verdict"] for arm in (better, same, worse)] == ["better", "no real difference", "worse"]
    assert better["compared"]["low"] < better["compared"]["difference"] < better["compared"]["high"] < 0
    assert (same["compared"]["difference"], same["changed"]) == (0.0, {})
    assert better["compared"]["rows"] == STORES * ROWS / 2
    assert done.json["next"] == "modelmill train --set alpha=0.1 --set scale=1.0"
    assert served
    assert pointers(fleet) == served
    assert modelmill("search", "--json", cwd=fleet).json == versions
    assert modelmill("train", "--json", cwd=fleet).json["run"] is None
    assert modelmill("fsck", cwd=fleet).out.rstrip().endswith("every digest is right")


def test_what_is_no_experiment_is_refused_with_its_reason(modelmill: Command, fleet: Path) -> None:
    done = modelmill("experiment", "--set", "alpha=100", cwd=fleet)
    assert (done.code, "MM410" in done.err) == (3, True)
    frame = pl.read_parquet(fleet / "rows.parquet")
    frame.head(ROWS).write_parquet(fleet / "few.parquet")
    assert modelmill("data", "import", "few.parquet", cwd=fleet).code == 0
    done = modelmill("experiment", "--set", "alpha=1", "--snapshot", "rows@s2", cwd=fleet)
    assert (done.code, "MM411" in done.err, "snapshot" in done.err) == (3, True, True)
    file = fleet / "sales.py"
    file.write_text(file.read_text().replace("test_share=0.5", "test_share=0.2"))
    done = modelmill("experiment", cwd=fleet)
    assert (done.code, "MM411" in done.err, "0.5 -> 0.2" in done.err) == (3, True, True)
    assert "has no studies" in modelmill("show", "study", cwd=fleet).err


def test_it_starts_from_the_parameters_of_the_champion(modelmill: Command, fleet: Path) -> None:
    assert modelmill("train", "--set", "scale=1.1", cwd=fleet).code == 0
    (arm,) = modelmill("experiment", "--set", "alpha=0.1", "--json", cwd=fleet).json["arms"]
    assert (arm["changed"], arm["parameters"]["scale"]) == ({"alpha": "100.0 -> 0.1"}, 1.1)
    done = modelmill("experiment", "--set", "alhpa=1", cwd=fleet)
    assert (done.code, "did you mean `alpha`" in done.err, "train --set" in done.err) == (2, True, False)


def test_changed_code_is_an_experiment(modelmill: Command, fleet: Path) -> None:
    file = fleet / "sales.py"
    file.write_text(file.read_text().replace("alpha * np.eye", "0.1 * np.eye"))
    (arm,) = modelmill("experiment", "--json", cwd=fleet).json["arms"]
    assert ([*arm["changed"]], arm["compared"]["verdict"]) == (["code"], "better")


def test_segments_that_are_fitted_together_are_tried_together(modelmill: Command, fleet: Path) -> None:
    head, _ = FILE.split("@sales.train")
    (fleet / "sales.py").write_text(f"{head}sales.train(mm.linear(alpha=100.0))\n")
    assert modelmill("train", cwd=fleet).code == 0
    same, better = modelmill("experiment", "--vary", "alpha=100,0.1", "--json", cwd=fleet).json["arms"]
    assert (same["compared"]["difference"], same["compared"]["rows"]) == (0.0, STORES * ROWS / 2)
    assert (better["tried"], better["compared"]["verdict"]) == (STORES, "better")
    assert (fleet / ".modelmill" / "experiments").is_dir()
    assert not any((fleet / ".modelmill" / "experiments").iterdir())


def test_a_segment_that_fails_is_told_and_the_others_are_compared(modelmill: Command, fleet: Path) -> None:
    file = fleet / "sales.py"
    file.write_text(
        file.read_text()
        .replace("def train(x, y,", "def train(x, y, segment,")
        .replace(
            "    time.sleep",
            "    if segment[0] == 's03':\n        os._exit(3)\n    assert segment[0] != 's04'\n    time.sleep",
        )
    )
    done = modelmill("experiment", "--json", cwd=fleet)
    (arm,) = done.json["arms"]
    assert (done.code, arm["failed"], arm["tried"], arm["compared"]["segments"]) == (1, 2, STORES - 2, STORES - 2)
    assert {found["segments"][0] for found in arm["failures"]} == {"s03", "s04"}


def test_a_file_that_is_changed_meanwhile_aborts_the_arm(modelmill: Command, fleet: Path) -> None:
    words = [sys.executable, "-m", "modelmill", "experiment", "--set", "alpha=1"]
    with subprocess.Popen(words, cwd=fleet, env=environment() | {"SLOW": "0.5"}, stderr=subprocess.PIPE) as running:
        wait_for_an_arm(modelmill, fleet)
        (fleet / "sales.py").write_text(FILE + "\n# changed\n")
        _, told = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, b"MM413" in told) == (3, True)
    (arm,) = study(modelmill, fleet)["arms"]
    assert (arm["state"], arm["compared"]) == ("aborted", None)


def test_a_killed_arm_is_seen_as_interrupted_and_leaves_nothing_else(modelmill: Command, fleet: Path) -> None:
    before = modelmill("search", "--json", cwd=fleet).json
    words = [sys.executable, "-m", "modelmill", "experiment", "--set", "alpha=1"]
    with subprocess.Popen(words, cwd=fleet, env=environment() | {"SLOW": "2"}, stderr=subprocess.DEVNULL) as running:
        wait_for_an_arm(modelmill, fleet)
        assert study(modelmill, fleet)["arms"][0]["state"] == "running"
        running.send_signal(signal.SIGKILL)
    assert [arm["state"] for arm in study(modelmill, fleet)["arms"]] == ["interrupted"]
    assert modelmill("search", "--json", cwd=fleet).json == before


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_hundred_arms_of_many_processes_at_once_are_all_there(
    modelmill: Command, fleet: Path, database: str, request: pytest.FixtureRequest
) -> None:
    if database == "postgresql":
        settings = fleet / "modelmill.toml"
        url = new_database(request.getfixturevalue("postgresql"))
        settings.write_text(f'database = "{url}"\n{settings.read_text()}')
        assert modelmill("train", cwd=fleet).code == 0
    words = [sys.executable, "-m", "modelmill", "experiment", "--study", "alpha", "--vary"]
    grid = [",".join(map(str, range(first, first + 20))) for first in range(1, 101, 20)]
    running = [
        subprocess.Popen([*words, f"alpha={some}"], cwd=fleet, env=environment(), stdout=subprocess.DEVNULL)
        for some in grid
    ]
    assert [process.wait(timeout=PATIENCE_S) for process in running] == [0] * 5
    found = study(modelmill, fleet)
    arms = found["arms"]
    assert sorted(arm["number"] for arm in arms) == list(range(1, 101))
    assert sorted(arm["parameters"]["alpha"] for arm in arms) == list(range(1, 101))
    assert {arm["state"] for arm in arms} == {"done"}
    assert {arm["compared"]["rows"] for arm in arms} == {STORES * ROWS / 2}
    text = modelmill("show", "study", "alpha", cwd=fleet).out
    assert "alpha 100.0 -> 24.0" in text
    assert "for 100 arms together" in text


def test_a_study_is_on_one_snapshot(modelmill: Command, fleet: Path) -> None:
    assert modelmill("experiment", "--set", "alpha=1", "--study", "first", cwd=fleet).code == 0
    frame = pl.read_parquet(fleet / "rows.parquet")
    frame.with_columns(pl.col("sales") * 2).write_parquet(fleet / "rows.parquet")
    assert modelmill("train", cwd=fleet).code == 0
    done = modelmill("experiment", "--set", "alpha=1", "--study", "first", cwd=fleet)
    assert (done.code, "MM412" in done.err) == (3, True)
    assert modelmill("experiment", "--set", "alpha=1", cwd=fleet).code == 0


def test_a_window_reaches_the_data_function(modelmill: Command, fleet: Path) -> None:
    done = modelmill("train", "--window", "..2024-02-01", cwd=fleet)
    assert done.code == 0, done.err
    file = fleet / "sales.py"
    reads = """frame = mm.read("rows")
    return frame.filter(frame["at"] < window.end) if window.end else frame"""
    file.write_text(file.read_text().replace('return mm.read("rows")', reads))
    found = modelmill("train", "--window", "..2024-02-01", "--json", cwd=fleet).json["snapshot"]
    assert (found["rows"], found["new"], found["source"]) == (31 * STORES, True, "@data rows(..2024-02-01)")
    for wrong in ("2024", "2024-02-01..2024-01-01", "..then"):
        assert modelmill("train", "--window", wrong, cwd=fleet).code == 2
    assert modelmill("train", "--window", "..2024-02-01", "--snapshot", "rows@s1", cwd=fleet).code == 2
    file.write_text(file.read_text().replace("rows(window)", "rows()"))
    refused = modelmill("train", "--window", "..2024-02-01", cwd=fleet)
    assert (refused.code, "know no window" in refused.err) == (2, True)


def study(modelmill: Command, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = modelmill("show", "study", "--json", cwd=folder).json["study"]
    return found


def wait_for_an_arm(modelmill: Command, folder: Path) -> None:
    for _ in range(200):
        if modelmill("show", "study", cwd=folder).code == 0:
            return
        time.sleep(0.1)
    pytest.fail("no arm has begun")
