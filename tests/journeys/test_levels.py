"""From an empty folder to the movements of level 3, command by command, on the project that `init` writes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.conftest import Command

FLIGHTS = 60_000


@pytest.fixture(scope="module")
def session(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the whole session once; return every command's answer."""
    parent = tmp_path_factory.mktemp("levels")
    found: dict[str, Any] = {"folder": parent / "delays"}

    def run(name: str, *words: str, **variables: str) -> None:
        cwd = parent if words[0] == "init" else found["folder"]
        done = modelmill(*words, "--json", cwd=cwd, **variables)
        assert done.code == 0, f"{name}: {done.err}"
        found[name] = done.json

    row = ["origin=JFK", "carrier=B6", "dest=BOS", "time_hour=2013-06-01T09:00", "distance=187", "hour=9"]
    run("init", "init", "delays")
    run("check", "check")
    run("unsaved", "predict", "--row", *row)
    commit(found["folder"])
    run("train", "train", "--window", "..2013-11-01")
    run("level 1", "audit")
    run("reproduce", "reproduce", "1", LOGNAME="a-colleague")
    run("level 2", "audit")
    run("experiment", "experiment", "--set", "alpha=10")
    run("retrain", "retrain", "--window", "..2013-12-31")
    run("saved", "predict", "--row", *row)
    run("after", "audit")
    return found


def commit(folder: Path) -> None:
    who = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "delays"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_it_works_for_me(session: dict[str, Any]) -> None:
    unsaved = session["unsaved"]["answers"][0]
    assert unsaved["version"] is None
    assert 20 < unsaved["value"] < 60
    train = session["train"]
    assert (train["version"], train["changes"]) == (1, {"first": train["counts"]["built"]})
    assert train["counts"]["failed"] == 0
    (law,) = train["laws"]
    assert (law["failed"], law["asked"]) == (0, train["counts"]["built"] + 1)  # the pooled model is asked, too
    assert session["level 1"]["audits"][0]["level"] == 1


def test_it_works_for_somebody_else(session: dict[str, Any]) -> None:
    found = session["reproduce"]
    assert found["verdict"] == "IDENTICAL"
    assert found["identical"] == found["segments"] == session["train"]["counts"]["built"] + 1
    assert session["level 2"]["audits"][0]["level"] == 2


def test_an_experiment_is_on_the_same_rows_and_serves_nothing(session: dict[str, Any]) -> None:
    found = session["experiment"]
    assert found["snapshot"]["digest"] == session["train"]["snapshot"]["digest"]
    (arm,) = found["arms"]
    assert arm["changed"] == {"alpha": "1.0 -> 10.0"}
    assert arm["compared"]["segments"] == arm["tried"]
    assert arm["compared"]["low"] < arm["compared"]["difference"] < arm["compared"]["high"]
    assert found["champion"] == 1


def test_a_retraining_has_new_rows_and_the_gate_has_judged_it(session: dict[str, Any]) -> None:
    found = session["retrain"]
    train, compared = found["train"], found["compared"]
    assert (found["before"], train["snapshot"]["label"]) == ("flights@s1", "flights@s2")
    assert session["train"]["snapshot"]["rows"] < train["snapshot"]["rows"] < FLIGHTS
    assert set(train["changes"]) == {"retraining", "first"}
    assert found["judged"] == train["counts"]["built"]
    assert compared["verdict"] == "better"
    assert 0 < compared["worse"] < compared["better"]
    refused = sum(group["count"] for group in train["failures"])
    assert refused - train["counts"]["refused"] in (0, 1)  # the pooled model is judged, and is no segment
    assert session["saved"]["answers"][0]["version"] in (1, 2)


def test_the_audit_tells_which_movements_there_were(session: dict[str, Any]) -> None:
    (audit,) = session["after"]["audits"]
    cells = {(cell["row"], cell["column"]): cell["state"] for cell in audit["cells"]}
    assert cells["test", "model"] == "automatic"
    assert audit["level"] < 3  # a promotion is missing, and monitoring
