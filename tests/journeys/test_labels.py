"""What was true comes back: late, by id or by keys and time, and takes back what is worse."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pytest

from modelmill.names import ModelName
from modelmill.orchestrator.quality import Labelled
from modelmill.registry.evidence import QUALITY, list_evidence
from modelmill.release.rollouts import RUNNING, list_looks, list_rollouts
from modelmill.settings import load_settings
from modelmill.store.opening import open_store

from .conftest import Command

STORES = [f"s{n:02d}" for n in range(20)]
MODEL = """
from datetime import datetime, timedelta

import numpy as np
import polars as pl

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    day: int = mm.col()
    sales: float = mm.target(ge=0)


sales = mm.Model(
    "sales",
    Sale,
    by=[Sale.store],
    min_rows=10,
    canary=mm.Canary(steps=["50%", "100%"], of="segments", hold="1s", abort=[mm.worse("mae") > 0.1]),
)


@sales.data
def rows(window):
    n = 20 * 40
    day = np.arange(n) // 20
    at = [datetime(2026, 1, 1) + timedelta(days=int(d)) for d in day]
    noise = np.random.default_rng(1).normal(0, 5, n)
    store = [f"s{i % 20:02d}" for i in range(n)]
    return pl.DataFrame({"store": store, "at": at, "day": day, "sales": 100.0 + 3.0 * day + noise})


@sales.train
def train(x, y, more: float = 0.0):
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(x, y + more)


@sales.test
def later_is_more(ask):
    assert ask(day=30) > ask(day=10)
"""


class Asked(NamedTuple):
    """One answer, and what was asked."""

    request_id: str
    store: str
    at: str
    day: int
    version: int


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("labels") / "p"
    folder.mkdir()
    (folder / "m.py").write_text(MODEL)
    (folder / "modelmill.toml").write_text('model = "m.py"\n[environments.prod]\n[predictions]\nlevel = "os"\n')
    for command in (("train",), ("deploy", "prod", "--yes"), ("serve", "--env", "prod", "--detach", "--port", "0")):
        done = modelmill(*command, cwd=folder)
        assert done.code == 0, done.err
    yield folder
    modelmill("down", "--env", "prod", cwd=folder)


def ask(modelmill: Command, folder: Path, rounds: int, first_day: int) -> list[Asked]:
    """Ask each store once a day; no two questions are alike."""
    (node,) = modelmill("status", "--json", cwd=folder).json["nodes"]
    found = []
    with closing(http.client.HTTPConnection(node["url"].removeprefix("http://"))) as connection:
        for day in range(first_day, first_day + rounds):
            for store in STORES:
                at = f"2027-01-01T00:00:{day % 60:02d}.{day:06d}"
                body = json.dumps({"store": store, "at": at, "day": day % 40})
                connection.request("POST", "/sales", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                told = json.loads(answer.read())
                assert answer.status == 200, told
                found.append(Asked(answer.headers["x-request-id"], store, at, day % 40, told["version"]))
    return found


def truth(asked: Asked) -> float:
    """Return what was sold: what the first model has learned, and chance."""
    return 100.0 + 3.0 * asked.day + (hash_of(asked) - 0.5) * 20


def hash_of(asked: Asked) -> float:
    return (sum(map(ord, asked.store)) * 7919 + asked.day * 104729) % 1000 / 1000


def write_labels(file: Path, asked: list[Asked], **more: Any) -> Path:
    rows = [{"request_id": one.request_id, "sales": truth(one)} for one in asked]
    pl.DataFrame(rows).with_columns(**more).write_csv(file)
    return file


def labels(modelmill: Command, folder: Path, *arguments: str) -> Any:
    done = modelmill("labels", *arguments, "--json", cwd=folder)
    assert done.code == 0, done.err
    return done.json


def ended(modelmill: Command, folder: Path, seconds: float = 300.0) -> Any:
    """Wait until no canary runs; return the newest move."""
    deadline = time.monotonic() + seconds
    with open_store(load_settings(folder), create=False) as store:
        while list_rollouts(store.database, "prod")[0].state == RUNNING:
            assert time.monotonic() < deadline, modelmill("status", cwd=folder).out
            time.sleep(0.2)
    return modelmill("history", "prod", "--json", cwd=folder).json["moves"][0]


def canary(modelmill: Command, folder: Path) -> Any:
    (found,) = modelmill("status", "--json", cwd=folder).json["canaries"]
    return found


def test_without_labels_the_quality_is_unknown(modelmill: Command, project: Path) -> None:
    assert "unknown" in modelmill("labels", "show", cwd=project).out
    asked = ask(modelmill, project, 2, 0)
    shown = labels(modelmill, project, "show")
    (prod,) = shown["environments"]
    assert (prod["environment"], prod["answers"], prod["labelled"]) == ("prod", len(asked), 0)
    assert prod["champion"]["verdict"] == "unknown"
    assert "ok" not in modelmill("labels", "show", cwd=project).out.split()


def test_labels_join_by_id_once_and_late(modelmill: Command, project: Path) -> None:
    asked = ask(modelmill, project, 2, 2)
    file = write_labels(project / "some.csv", asked[:30])
    done = labels(modelmill, project, "import", str(file))
    assert (done["imported"]["new"], done["imported"]["rows"], done["imported"]["on"]) == (True, 30, "request_id")
    again = labels(modelmill, project, "import", str(file))
    assert (again["imported"]["new"], again["imports"]) == (False, 1)
    assert again["environments"] == done["environments"]
    unknown = write_labels(project / "unknown.csv", [asked[30]._replace(request_id="nobody")])
    (prod,) = labels(modelmill, project, "import", str(unknown))["environments"]
    assert (prod["labelled"], prod["parked"], prod["labels"]) == (30, 1, 31)
    corrected = pl.DataFrame([{"id": asked[0].request_id, "sold": 1.0}])
    corrected.write_parquet(project / "corrected.parquet")
    names = ("--column", "request_id=id", "--column", "sales=sold")
    (prod,) = labels(modelmill, project, "import", str(project / "corrected.parquet"), *names)["environments"]
    assert (prod["labelled"], prod["corrected"]) == (30, 1)
    out = project / "labelled.parquet"
    labels(modelmill, project, "show", "--out", str(out))
    rows = {row["request_id"]: row["label"] for row in pl.read_parquet(out).to_dicts()}
    assert rows == {one.request_id: truth(one) for one in asked[1:30]} | {asked[0].request_id: 1.0}


def test_a_label_that_breaks_the_contract_is_told_and_nothing_is_kept(modelmill: Command, project: Path) -> None:
    before = labels(modelmill, project, "show")
    for name, text, code in (
        ("type", "request_id,sales\na,1\nb,many\n", "MM103"),
        ("range", "request_id,sales\na,1\nb,-2\n", "MM101"),
        ("twice", "request_id,sales\na,1\na,2\n", "MM115"),
    ):
        (project / f"{name}.csv").write_text(text)
        done = modelmill("labels", "import", f"{name}.csv", cwd=project)
        assert (done.code, code in done.err) == (2, True), done.err
        assert name == "twice" or "row 2" in done.err
    after = labels(modelmill, project, "show")
    assert after["imports"] == before["imports"]


def test_labels_join_by_keys_and_time(modelmill: Command, project: Path) -> None:
    asked = ask(modelmill, project, 2, 4)
    rows = pl.DataFrame([{"store": one.store, "at": one.at, "sales": truth(one)} for one in asked])
    rows.write_csv(project / "keyed.csv")
    before = labels(modelmill, project, "show")["environments"][0]["labelled"]
    (prod,) = labels(modelmill, project, "import", str(project / "keyed.csv"))["environments"]
    assert (prod["labelled"] - before, prod["ambiguous"]) == (len(asked), 0)


def deployers(folder: Path) -> list[int]:
    """Return the deployers of this project alone."""
    wanted = ["modelmill.orchestrator.rolling", str(folder), "prod"]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            found += [int(process.name)] if words[-4:-1] == wanted else []
    return found


def test_late_labels_take_a_worse_release_back(modelmill: Command, project: Path) -> None:
    assert modelmill("train", "--set", "more=12.0", cwd=project).code == 0
    started = modelmill("deploy", "prod", "--yes", "--detach", cwd=project)
    assert started.code == 0, started.err
    asked = ask(modelmill, project, 60, 100)
    by_candidate = [one for one in asked if one.version == 2]
    assert len(by_candidate) > 500
    waits = canary(modelmill, project)
    assert (waits["state"], waits["step"]) == ("running", 0)
    assert any("no labels" in text for text in waits["texts"])
    labels(modelmill, project, "import", str(write_labels(project / "late.csv", asked)))
    for pid in deployers(project):
        os.kill(pid, signal.SIGKILL)
    watch = [sys.executable, "-m", "modelmill.orchestrator.rolling", str(project), "prod"]
    two = [subprocess.Popen(watch) for _ in range(2)]
    move = ended(modelmill, project)
    assert [one.wait(60) for one in two] == [0, 0]
    assert (move["kind"], move["before"], move["after"]) == ("stop", 2, 1), move
    assert "worse(mae) > 0.1" in move["reason"]
    assert "labelled answers" in move["reason"]
    (prod,) = labels(modelmill, project, "show")["environments"]
    verdict = prod["challenger"]
    assert (verdict["verdict"], verdict["release"], verdict["before"], verdict["rows"]) == (
        "worse",
        2,
        1,
        len(by_candidate),
    )
    assert 0 < verdict["low"] <= verdict["own"] - verdict["other"] <= verdict["high"]
    with open_store(load_settings(project), create=False) as store:
        (evidence,) = [one for one in list_evidence(store.database, ModelName("sales"), 2) if one.kind == QUALITY]
    assert (evidence.verdict, evidence.facts["rows"]) == (False, len(by_candidate))
    told = {one["kind"]: one["quality"] for one in modelmill("history", "--json", cwd=project).json["moves"]}
    assert told["stop"] == verdict
    assert "r2 worse than r1: mae " in modelmill("history", cwd=project).out


def test_a_good_release_passes_and_is_compared_with_the_one_before(modelmill: Command, project: Path) -> None:
    assert modelmill("train", "--set", "more=0.01", cwd=project).code == 0
    assert modelmill("deploy", "prod", "--yes", "--detach", cwd=project).code == 0
    asked = ask(modelmill, project, 60, 200)
    assert canary(modelmill, project)["step"] == 0
    (prod,) = labels(modelmill, project, "import", str(write_labels(project / "good.csv", asked)))["environments"]
    move = ended(modelmill, project)
    assert (move["kind"], move["after"]) == ("release", 3), move
    (prod,) = labels(modelmill, project, "show")["environments"]
    verdict = prod["champion"]
    assert (verdict["release"], verdict["before"], verdict["measure"]) == (3, 1, "mae")
    assert verdict["low"] <= verdict["own"] - verdict["other"] <= verdict["high"]
    assert {one["release"] for one in prod["releases"]} == {1, 2, 3}
    assert modelmill("fsck", cwd=project).code == 0


def test_deployers_that_start_anew_see_what_was_seen(project: Path) -> None:
    settings = load_settings(project)
    with open_store(settings, create=False) as store:
        for rollout in list_rollouts(store.database, "prod"):
            looks = [look.seen["quality"] for look in list_looks(store.database, rollout) if "quality" in look.seen]
            at_first = msgspec.structs.replace(rollout, step=0, step_at=rollout.began_at)  # as it was looked at
            one, other = (Labelled(store, settings, at_first) for _ in range(2))
            found = one.look()
            assert found == other.look() == looks[-1]
            one.forget()
            assert one.look() == found
