"""Retraining by the real command: new rows, nothing else changed, and what is clearly worse answers nobody."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command, Done, environment

STORES = 8
DAYS = 60
START = datetime(2024, 1, 1)  # noqa: DTZ001 - times in a column have no zone
WORSE = "s01"
"""In whose newer rows the first ones are wrong: what is fitted on them is clearly worse on the last ones."""
FILE = '''
import os
import time
from datetime import datetime

import numpy as np
import polars as pl

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
        time.sleep(float(os.environ.get("SLOW", "0")))
        return x @ self.coef


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=5, gate=[mm.no_worse("mae", than="champion")])


@sales.data
def rows(window):
    return mm.read("rows", between=window)


@sales.train
def train(x, y, alpha: float = 1.0):
    return Slope(np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y))


@sales.test
def more_is_more(ask):
    assert ask(size=1) > -100
'''


def write_rows(path: Path) -> None:
    generator = np.random.default_rng(0)
    size = generator.normal(size=STORES * DAYS)
    store = np.repeat(np.arange(STORES), DAYS)
    day = np.tile(np.arange(DAYS), STORES)
    factor = np.where((store == 1) & (day >= DAYS // 2) & (day < DAYS * 4 // 5), -30.0, 3 + store / 5)
    pl.DataFrame(
        {
            "store": [f"s{number:02}" for number in store],
            "at": [START + timedelta(days=int(one)) for one in day],
            "size": size,
            "sales": factor * size + generator.normal(size=len(size)) / 10,
        }
    ).write_parquet(path)


@pytest.fixture(scope="module")
def trained(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that was trained on the first half of its rows."""
    folder = tmp_path_factory.mktemp("retraining")
    (folder / "sales.py").write_text(FILE)
    (folder / "modelmill.toml").write_text('[connections.rows]\ndev = "rows.parquet"\n\n[build]\nworkers = 1\n')
    write_rows(folder / "rows.parquet")
    done = modelmill("train", "--window", f"..{START + timedelta(days=DAYS // 2):%Y-%m-%d}", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def fleet(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "fleet"))


def version_of(modelmill: Command, folder: Path, store: str) -> int:
    done = modelmill("predict", "--row", f"store={store}", "at=2024-03-01", "size=1", "--json", cwd=folder)
    return int(done.json["answers"][0]["version"])


def test_what_is_clearly_worse_keeps_its_champion(modelmill: Command, fleet: Path) -> None:
    done = modelmill("retrain", "--json", cwd=fleet)
    assert done.code == 0, done.err
    found = done.json
    assert (found["champion"], found["train"]["version"], found["judged"]) == (1, 2, STORES)
    assert found["train"]["changes"] == {"retraining": STORES}
    assert found["train"]["counts"]["refused"] == 1
    (refused,) = found["train"]["failures"]
    # The pooled model has seen the wrong rows, too.
    assert (refused["code"], refused["segments"]) == ("MM402", ["pooled", WORSE])
    assert "clearly worse" in refused["got"]
    assert found["compared"]["worse"] == 1
    assert version_of(modelmill, fleet, WORSE) == 1
    assert version_of(modelmill, fleet, "s02") == 2
    assert "the gate has refused it" in modelmill("show", f"sales[{WORSE}]", "2", cwd=fleet).out
    history = modelmill("search", f"sales[{WORSE}]", "--all", "--json", cwd=fleet).json["versions"]
    assert [(one["number"], one["state"]) for one in history] == [(2, "refused"), (1, "own")]
    cells = {
        (cell["row"], cell["column"]): cell
        for cell in modelmill("audit", "--json", cwd=fleet).json["audits"][0]["cells"]
    }
    assert cells["test", "model"]["state"] == "automatic"
    assert modelmill("fsck", cwd=fleet).code == 0
    difference = modelmill("diff", "1", "2", "--json", cwd=fleet).json
    assert difference["change"] == "retraining"
    assert difference["refused"] == ["gate not passed: no_worse(mae) than champion   0 -> 2 segments"]
    assert (difference["segments_refitted"], difference["segments_same"]) == (STORES - 1, 2)


def test_the_same_rows_once_more_are_nothing_to_do(modelmill: Command, fleet: Path) -> None:
    assert modelmill("retrain", cwd=fleet).code == 0
    for verb in ("retrain", "train"):
        done = modelmill(verb, "--json", cwd=fleet)
        train = done.json.get("train", done.json)
        assert (done.code, train["run"], train["counts"]["refused"]) == (0, None, 0)
    assert version_of(modelmill, fleet, WORSE) == 1
    # Whoever wants the refused version nevertheless says so.
    assert modelmill("train", "--rebuild", cwd=fleet).code == 0
    assert version_of(modelmill, fleet, WORSE) == 3


def test_it_is_done_with_the_parameters_of_the_champion(modelmill: Command, fleet: Path) -> None:
    window = f"..{START + timedelta(days=DAYS // 2):%Y-%m-%d}"
    assert modelmill("train", "--set", "alpha=0.5", "--window", window, cwd=fleet).code == 0
    done = modelmill("retrain", "--json", cwd=fleet)
    assert done.code == 0, done.err
    assert done.json["train"]["changes"] == {"retraining": STORES}
    assert "alpha=0.5" in modelmill("show", "run", "3", cwd=fleet).out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return x @ self.coef", "return (x @ self.coef).clip(-9, 9)", ["code: sales.py"]),
        ("alpha: float = 1.0", "alpha: float = 2.0, beta: int = 1", ["code: sales.py", "alpha 1.0 -> 2.0", "beta"]),
        ("min_rows=5", "min_rows=6", ["code: sales.py", "min_rows 5 -> 6"]),
    ],
)
def test_more_than_the_rows_is_no_retraining(
    modelmill: Command, fleet: Path, old: str, new: str, said: list[str]
) -> None:
    file = fleet / "sales.py"
    file.write_text(file.read_text().replace(old, new))
    done = modelmill("retrain", cwd=fleet)
    assert (done.code, "MM414" in done.err) == (3, True)
    for text in said:
        assert text in done.err
    assert modelmill("show", "--json", cwd=fleet).json["details"]["status"]["version"] == 1


def test_another_package_is_no_retraining(modelmill: Command, fleet: Path) -> None:
    """A file of the project imports a package; another version of it may be what makes the difference."""

    def install(version: str) -> str:
        site = fleet / f"site-{version}"
        info = site / f"slopes-{version}.dist-info"
        info.mkdir(parents=True)
        (site / "slopes.py").write_text("")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: slopes\nVersion: {version}\n")
        (info / "RECORD").write_text(f"slopes.py,,\nslopes-{version}.dist-info/METADATA,,\n")
        return str(site)

    file = fleet / "sales.py"
    file.write_text("import slopes\n" + file.read_text())
    assert modelmill("train", cwd=fleet, PYTHONPATH=install("1.0")).code == 0
    done = modelmill("retrain", cwd=fleet, PYTHONPATH=install("1.1"))
    assert (done.code, "package slopes 1.0 / 1.1" in done.err) == (3, True), done.err


def test_there_has_to_be_a_champion(modelmill: Command, fleet: Path) -> None:
    shutil.rmtree(fleet / ".modelmill")
    done = modelmill("retrain", cwd=fleet)
    assert (done.code, "no version of `sales` was built" in done.err) == (2, True)


def test_where_the_gate_refuses_everything_the_answer_is_3(modelmill: Command, fleet: Path) -> None:
    file = fleet / "sales.py"
    file.write_text(file.read_text().replace('mm.no_worse("mae", than="champion")', 'mm.at_least("r2", 0.9999999)'))
    window = f"..{START + timedelta(days=DAYS // 2):%Y-%m-%d}"
    assert modelmill("train", "--window", window, cwd=fleet).code == 0
    done = modelmill("retrain", cwd=fleet)
    assert done.code == 3, done.err
    assert f"{STORES} refused" in done.out or f"{STORES + 1} refused" in done.out
    assert version_of(modelmill, fleet, "s03") == 2


def test_one_model_of_all_rows_is_judged_as_a_whole(modelmill: Command, fleet: Path) -> None:
    file = fleet / "sales.py"
    file.write_text(file.read_text().replace("by=[Sale.store], ", ""))
    window = f"..{START + timedelta(days=DAYS // 2):%Y-%m-%d}"
    assert modelmill("train", "--window", window, cwd=fleet).code == 0
    done = modelmill("retrain", "--json", cwd=fleet)
    assert (done.json["judged"], done.json["compared"]["segments"]) == (1, 1)
    assert done.code in (0, 3)


ROW = {"store": "s02", "size": 1.5}
V2 = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": kind, "data": [ROW[name]]}
        for name, kind in (("store", "BYTES"), ("size", "FP64"))
    ]
}


def test_the_old_address_gives_the_old_bytes_and_the_new_one_the_new(modelmill: Command, fleet: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", "--json", "--snapshot", "rows@s1", cwd=fleet).json
    base = up["node"]["url"]
    versions = [f"{base}/v2/models/sales/versions/{number}/infer" for number in (1, 2)]
    try:
        before, yesterday = (httpx.post(url, json=body).content for url, body in ((up["url"], ROW), (versions[0], V2)))
        assert modelmill("retrain", cwd=fleet).code == 0
        # Built, judged, and not served before it is released.
        assert httpx.post(up["url"], json=ROW).content == before
        assert modelmill("up", "--detach", cwd=fleet).code == 0
        assert httpx.post(versions[0], json=V2).content == yesterday
        assert httpx.post(versions[1], json=V2).json()["outputs"] != json.loads(yesterday)["outputs"]
        assert httpx.post(up["url"], json=ROW).content != before
    finally:
        modelmill("down", cwd=fleet)


def interrupted(folder: Path, **variables: str) -> None:
    """Kill a retraining when all its models are built and it asks them, and their champions, for their answers."""
    child = subprocess.Popen(
        [sys.executable, "-m", "modelmill", "retrain"],
        cwd=folder,
        env=environment() | variables,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert child.stderr is not None
    for text in child.stderr:
        if text.startswith(f"building {STORES} of {STORES}"):
            break
    time.sleep(1)
    assert child.poll() is None, "it has ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()


def test_killed_while_it_judges_nothing_answers_that_was_not_judged(modelmill: Command, fleet: Path) -> None:
    interrupted(fleet, SLOW="0.4")
    assert version_of(modelmill, fleet, WORSE) == 1
    done: Done = modelmill("retrain", "--json", cwd=fleet)
    assert done.code == 0, done.err
    found: Any = done.json
    assert (found["train"]["resumed"], found["judged"], found["train"]["counts"]["refused"]) == (True, STORES, 1)
    assert version_of(modelmill, fleet, WORSE) == 1
    assert version_of(modelmill, fleet, "s02") == 2


def test_what_an_interrupted_one_left_is_judged_by_the_next(modelmill: Command, fleet: Path) -> None:
    """The next one builds other rows, in which the store's are the same: its version was never judged."""
    interrupted(fleet, SLOW="0.4")
    rows = pl.read_parquet(fleet / "rows.parquet")
    more = rows.filter(pl.col("store") == "s05").with_columns(pl.col("at") + timedelta(days=DAYS))
    pl.concat([rows, more]).write_parquet(fleet / "rows.parquet")
    done = modelmill("retrain", "--json", cwd=fleet)
    assert done.code == 0, done.err
    assert (done.json["judged"], done.json["train"]["counts"]["built"]) == (STORES, 1)
    assert done.json["train"]["counts"]["refused"] == 1
    assert version_of(modelmill, fleet, WORSE) == 1
    assert "the gate has refused it" in modelmill("show", f"sales[{WORSE}]", "2", cwd=fleet).out
