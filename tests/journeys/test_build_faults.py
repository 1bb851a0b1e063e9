"""Builds in which things go wrong: planted faults, killed processes, changed rows."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import stores5k  # type: ignore[import-not-found]

from modelmill.names import ModelName, Segment
from modelmill.registry.versions import current_entries, heads
from modelmill.settings import load_settings
from modelmill.store.opening import open_store

from .conftest import PATIENCE_S

STORES, ROWS = 120, 60
NAME = ModelName("sales")
Command = Callable[..., Any]


def state(folder: Path) -> dict[Segment, tuple[Any, ...]]:
    """Return, for each segment, what it was built from and what its bytes hash to."""
    with open_store(load_settings(folder, {})) as store:
        known = heads(store.database, NAME)
        return {
            e.segment: (known[e.segment].identity, e.artifact, e.number) for e in current_entries(store.database, NAME)
        }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    stores5k.write_project(tmp_path / "stores", stores=STORES, rows=ROWS, timeout=5.0, memory=512)
    return tmp_path / "stores"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, modelmill: Command) -> dict[Segment, tuple[Any, ...]]:
    """Return the state of a build that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "stores"
    stores5k.write_project(folder, stores=STORES, rows=ROWS, timeout=5.0, memory=512)
    assert modelmill("train", cwd=folder).code == 0
    return state(folder)


def test_planted_faults_cost_only_their_segments(modelmill: Command, project: Path) -> None:
    first = modelmill("train", "--json", cwd=project).json
    names = pl.read_parquet(project / "rows.parquet")["store"].unique().sort().to_list()
    faults = stores5k.plant(names, 12, seed=3)
    stores5k.write_faults(project, faults)
    again = modelmill("train", "--rebuild", "--json", cwd=project)
    assert again.code == 1
    assert again.json["counts"]["built"] == first["counts"]["built"] - len(faults)
    assert {group["count"] for group in again.json["failures"]} == {2}
    assert len(again.json["failures"]) == len(stores5k.KINDS)
    numbers = {segment[0]: version[2] for segment, version in state(project).items() if segment}
    assert {name for name, number in numbers.items() if number == 1} == set(faults)


def test_only_changed_stores_are_built_again(modelmill: Command, project: Path) -> None:
    modelmill("train", cwd=project)
    frame = pl.read_parquet(project / "rows.parquet")
    changed = frame["store"].unique().sort().to_list()[::40]
    hit = pl.col("store").is_in(changed)
    frame.with_columns(price=pl.when(hit).then(pl.col("price") + 1).otherwise(pl.col("price"))).write_parquet(
        project / "rows.parquet"
    )
    again = modelmill("train", "--explain", "--json", cwd=project).json
    reasons = dict(again["explained"])
    assert again["counts"]["built"] == len(changed) == 3
    assert {name for name, reason in reasons.items() if reason == "data changed"} == set(changed)
    assert len(reasons) == STORES
    assert again["changes"] == {"retraining": 3}
    assert "3 retraining" in modelmill("show", "sales", "2", cwd=project).out
    history = modelmill("search", f"sales[{changed[0]}]", "--all", "--json", cwd=project).json["versions"]
    assert [(found["number"], found["change"]) for found in history] == [(2, "retraining"), (1, "first")]
    assert "retraining of version 1: differs in data" in modelmill("show", f"sales[{changed[0]}]", cwd=project).out


def test_another_parameter_builds_every_store_again(modelmill: Command, project: Path) -> None:
    modelmill("train", cwd=project)
    again = modelmill("train", "--set", "family=hgb", "--json", cwd=project).json
    assert again["reasons"] == {"model changed": STORES}
    assert again["changes"] == {"experiment": STORES}


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_build_goes_on_where_it_was(
    modelmill: Command, project: Path, undisturbed: dict[Segment, tuple[Any, ...]], seed: int
) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-m", "modelmill", "train"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(random.Random(seed).uniform(0.5, 5.0))
    builder.kill()
    builder.wait()
    before = state(project)
    done = modelmill("train", "--json", cwd=project)
    assert done.code == 0, done.err
    assert state(project) == undisturbed
    if done.json["run"] is not None:
        assert done.json["counts"]["built"] + len([s for s in before if s]) == STORES
    assert modelmill("fsck", "--json", cwd=project).json["problems"] == []
    assert not list((project / ".modelmill").rglob(".tmp-*"))


def test_a_killed_worker_costs_nothing(
    modelmill: Command, project: Path, undisturbed: dict[Segment, tuple[Any, ...]]
) -> None:
    words = [sys.executable, "-m", "modelmill", "train", "--json"]
    builder = subprocess.Popen(words, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline, killed = time.monotonic() + PATIENCE_S, 0
    while builder.poll() is None and time.monotonic() < deadline and killed < 3:
        for pid in workers_of(builder.pid):
            os.kill(pid, signal.SIGKILL)
            killed += 1
            time.sleep(0.2)
    out, _ = builder.communicate(timeout=PATIENCE_S)
    done = json.loads(out)
    assert "failures" in done, done
    lost = sum(group["count"] for group in done["failures"])
    assert killed
    assert done["counts"]["built"] + lost == STORES
    assert modelmill("train", cwd=project).code == 0
    assert {s: v[:2] for s, v in state(project).items()} == {s: v[:2] for s, v in undisturbed.items()}


def test_a_segment_at_which_its_worker_was_killed_gets_a_second_chance(
    modelmill: Command, project: Path, undisturbed: dict[Segment, tuple[Any, ...]]
) -> None:
    name = next(segment[0] for segment in sorted(undisturbed) if segment)
    stores5k.write_faults(project, {name: "killed once"})
    done = modelmill("train", cwd=project)
    assert done.code == 0, done.err
    assert (project / ".killed").exists()
    assert state(project) == undisturbed


@pytest.mark.parametrize(("fault", "said"), [("crash", "SIGSEGV"), ("spin", "longer than 5 s")])
def test_faults_in_compiled_code_are_named(modelmill: Command, project: Path, fault: str, said: str) -> None:
    name = stores5k.make_rows(1, 1)["store"][0]
    stores5k.write_faults(project, {name: fault})
    done = modelmill("train", "--json", cwd=project)
    (failure,) = done.json["failures"]
    assert (done.code, failure["count"]) == (1, 1)
    assert said in failure["cause"]


def workers_of(builder: int) -> list[int]:
    """Return the workers of a builder: the children of its template."""
    templates = [pid for pid in _children(builder) if "modelmill.compute.template" in _read(f"/proc/{pid}/cmdline")]
    return [worker for template in templates for worker in _children(template)]


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # it has ended meanwhile
        return ""


def test_two_builds_at_once_are_told_apart(modelmill: Command, project: Path) -> None:
    stores5k.write_faults(project, {stores5k.make_rows(1, 1)["store"][0]: "hang"})
    first = subprocess.Popen([sys.executable, "-m", "modelmill", "train"], cwd=project, stdout=subprocess.DEVNULL)
    while not (project / ".modelmill" / "lock").exists():
        time.sleep(0.05)
    time.sleep(1)
    second = modelmill("train", cwd=project)
    first.wait(timeout=PATIENCE_S)
    assert second.code == 2
    assert f"pid {first.pid}" in second.err
