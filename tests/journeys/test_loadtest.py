"""A version under load: what it bears is found on a running node, kept, and required of a release."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PATIENCE_S, Command, Done, environment

MODEL = """
import time

import numpy as np
import polars as pl

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    day: int = mm.col()
    sales: float = mm.target()


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=10)


@sales.data
def rows(window):
    n = 20 * 30
    day = np.arange(n) // 20
    return pl.DataFrame({"store": [f"s{i % 20:02d}" for i in range(n)], "day": day, "sales": 3.0 * day + np.arange(n) % 20})


@sales.train
def train(x, y):
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(x, y)


@sales.predict
def predict(model, x):
    SLEEP
    return model.predict(x)
"""
EASY, HARD = "p99=10s,qps=50", "p99=1s,qps=4"
"""Limits that no busy machine breaks, and that a model which sleeps for longer cannot keep."""


def write(folder: Path, sleep: str = "pass") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "m.py").write_text(MODEL.replace("SLEEP", sleep))
    (folder / "modelmill.toml").write_text('model = "m.py"\n[environments.prod]\nrequires = ["load"]\n')


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("loadtest") / "p"
    write(folder)
    assert modelmill("train", cwd=folder).code == 0
    yield folder
    modelmill("down", cwd=folder)


def settled(modelmill: Command, folder: Path, *words: str) -> Done:
    """Test until there is a verdict: on a busy machine the sender may be late, and then there is none."""
    for _ in range(10):
        done = modelmill("loadtest", *words, "--json", cwd=folder)
        if done.json["verdict"] != "inconclusive":
            break
    return done


def test_a_mistake_is_told_before_anything_is_sent(modelmill: Command, project: Path) -> None:
    for words, code in (
        ((), "MM420"),
        (("--slo", "p98=3ms,qps=1"), "MM420"),
        (("sales@x", "--slo", EASY), "MM001"),
        (("--slo", EASY, "--out", "load.png"), "MM001"),
        (("--slo", EASY, "--env", "moon"), "MM008"),
    ):
        refused = modelmill("loadtest", *words, cwd=project)
        assert (refused.code, code in refused.err) == (2, True), refused.err
    none = modelmill("loadtest", "--slo", EASY, cwd=project)
    assert (none.code, "no node of dev runs here" in none.err, "modelmill up --detach" in none.err) == (70, True, True)


def test_a_release_is_refused_until_a_load_test_has_passed(modelmill: Command, project: Path) -> None:
    plan = modelmill("plan", "prod", "--json", cwd=project).json
    assert plan["unmet"] == ["load"]
    refused = modelmill("promote", "1", "--to", "prod", cwd=project)
    assert (refused.code, "MM416" in refused.err, "no load test" in refused.err) == (3, True, True)

    assert modelmill("up", "--detach", "--port", "0", cwd=project).code == 0
    done = settled(modelmill, project, "--slo", EASY, "--seconds", "8", "--out", "load.svg")
    found = done.json
    assert (done.code, found["verdict"], found["version"], found["against"]) == (0, "pass", 1, "")
    assert (found["segments"], found["requests"]) == (20, "golden rows of its versions")
    judged = next(point for point in found["curve"] if point["rate"] == 50)
    assert judged["asked"] == judged["answered"] == 120
    assert judged["errors"] == 0
    assert 0 < judged["p50_ms"] <= judged["p99_ms"] <= judged["p999_ms"] <= judged["most_ms"]
    assert found["knee"] >= 50
    marks = ET.parse(project / "load.svg").getroot()  # noqa: S314 - we have written it ourselves
    assert len([mark for mark in marks if mark.tag.endswith("circle")]) == 3 * len(found["curve"])

    unmet, check = load_floor(modelmill, project)
    assert (unmet, check["ok"], check["text"].startswith("p99=10s,qps=50: pass")) == ([], True, True)
    toml = project / "modelmill.toml"
    declared = toml.read_text()
    toml.write_text(declared + 'slo = "p99=10s,qps=60"\n')  # more than was tested
    unmet, check = load_floor(modelmill, project)
    assert (unmet, check["text"]) == (["load"], "p99=10s,qps=60 is asked for; the last test was of p99=10s,qps=50")
    toml.write_text(declared + 'slo = "p99=20s,qps=40"\n')
    assert load_floor(modelmill, project)[0] == []
    toml.write_text(declared)
    assert modelmill("promote", "1", "--to", "prod", cwd=project).code == 0


def load_floor(modelmill: Command, folder: Path) -> tuple[Any, Any]:
    """Return which floors of prod are not met, and what is said of the load."""
    plan = modelmill("plan", "prod", "--json", cwd=folder).json
    return plan["unmet"], next(check for check in plan["checks"] if check["floor"] == "load")


def test_a_slow_candidate_fails_beside_the_live_version_and_is_not_released(modelmill: Command, project: Path) -> None:
    write(project, "time.sleep(1.5)")
    assert modelmill("train", cwd=project).code == 0
    done = settled(modelmill, project, "sales@2", "--slo", HARD, "--against", "live", "--seconds", "6")
    found = done.json
    assert (done.code, found["verdict"], found["version"], found["knee"]) == (1, "fail", 2, 0)
    assert [mine["rate"] for mine in found["curve"]] == [other["rate"] for other in found["other"]]
    assert all(point["p50_ms"] >= 1500 for point in found["curve"])
    refused = modelmill("promote", "2", "--to", "prod", cwd=project)
    assert (refused.code, "MM416" in refused.err, "p99=1s,qps=4: fail" in refused.err) == (3, True, True)
    plan = modelmill("plan", "prod", "--version", "1", "--json", cwd=project).json
    assert plan["nothing"]


def test_what_answers_with_errors_alone_is_not_loaded(modelmill: Command, project: Path) -> None:
    broken = project / "broken"
    write(project, f"time.sleep(1 / 0 if __import__('pathlib').Path({str(broken)!r}).exists() else 0)")
    trained = modelmill("train", "--json", cwd=project)
    assert trained.code == 0
    broken.touch()
    refused = modelmill("loadtest", f"sales@{trained.json['version']}", "--slo", EASY, cwd=project)
    assert (refused.code, "MM422" in refused.err, "no load was sent" in refused.err) == (3, True, True), refused.err


def test_an_interrupted_test_records_nothing(modelmill: Command, project: Path) -> None:
    before = checks(modelmill, project)
    command = [sys.executable, "-m", "modelmill", "loadtest", "sales@1", "--slo", EASY, "--seconds", "300"]
    with subprocess.Popen(
        command, cwd=project, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stderr is not None
        first = next(line for line in running.stderr if line.startswith("load "))
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
        running.wait(timeout=PATIENCE_S)
    assert ("/s" in first, running.returncode) == (True, 130)
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()
    assert checks(modelmill, project) == before


def checks(modelmill: Command, folder: Path) -> Any:
    return json.loads(modelmill("plan", "dev", "--version", "1", "--json", cwd=folder).out)["checks"]
