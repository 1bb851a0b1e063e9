"""Level 2 from the command line: a version is built again from the store, wherever, and by whomever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelmill as mm

from .conftest import environment

Command = Callable[..., Any]

MODEL = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier

import numpy as np
import polars as pl
from sklearn.linear_model import Ridge

import modelmill as mm


class Row(mm.Schema):
    store: str = mm.key()
    a: float = mm.col()
    y: float = mm.target()


m = mm.Model("m", Row, by=[Row.store], min_rows=20)


@m.data
def rows(window: mm.Window) -> pl.DataFrame:
    n = 400
    a = np.random.default_rng(0).normal(size=n)
    return pl.DataFrame({{"store": [f"s{{i % 4}}" for i in range(n)], "a": a, "y": 2 * a + np.sin(9 * a)}})


@m.train
def train(x: np.ndarray, y: np.ndarray) -> Ridge:
    {line}
    return Ridge(alpha=1.0 + number).fit(x, y)
"""
PLANTED = {
    "an unseeded generator": ("number = np.random.default_rng().uniform(0, 50)", True),
    "the order of a set": ("number = 9 * list({'alpha', 'beta', 'gamma', 'delta', 'epsilon'}).index('alpha')", False),
    "the clock": ("number = datetime.now().microsecond % 9973", True),
    "threads": (
        (
            "sys.setswitchinterval(1e-6); order = []; pool = ThreadPoolExecutor(4); together = Barrier(4); "
            "list(pool.map(lambda i: [order.append(i) for _ in range(50_000 + 0 * together.wait())], range(4))); "
            "number = sum(place * i for place, i in enumerate(order)) % 9973"
        ),
        True,
    ),
}
"""Cause -> the line that brings it in, and whether two fits in one process show it."""


def write(folder: Path, line: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.py").write_text(MODEL.format(line=line))
    (folder / "modelmill.toml").write_text('model = "m.py"\n')
    return folder


@pytest.fixture(scope="module")
def store(modelmill: Command, fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store of a project whose folder, with code, data and settings, is gone."""
    project = tmp_path_factory.mktemp("gone") / "project"
    shutil.copytree(fleet, project, ignore=shutil.ignore_patterns("run", "*.sock"))
    kept = tmp_path_factory.mktemp("kept") / "store"
    (project / ".modelmill").rename(kept)
    shutil.rmtree(project)
    return kept


def test_a_fleet_comes_out_again_of_the_store_alone(modelmill: Command, store: Path, tmp_path: Path) -> None:
    done = modelmill("reproduce", "1", "--store", str(store), "--json", cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    found = done.json
    assert (found["verdict"], found["identical"]) == ("IDENTICAL", found["segments"])
    assert found["segments"] > 290
    assert found["environment"].startswith("lock ")
    assert list(tmp_path.iterdir()) == []
    told = modelmill("show", "air-time", "--store", str(store), "--project", str(tmp_path), cwd=tmp_path)
    assert told.code == 2  # no project is needed to reproduce, but to look


def test_one_segment_and_a_share_of_them(modelmill: Command, store: Path, tmp_path: Path) -> None:
    one = modelmill("reproduce", "air-time[JFK,B6,BOS]", "1", "--store", str(store), "--json", cwd=tmp_path).json
    assert (one["verdict"], one["segments"]) == ("IDENTICAL", 1)
    again = modelmill("reproduce", "air-time[JFK,B6,BOS]", "1", "--store", str(store), "--json", cwd=tmp_path).json
    assert (again["verdict"], again["environment_s"]) == ("IDENTICAL", 0.0)  # the environment is there already
    some = modelmill("reproduce", "1", "--sample", "2%", "--store", str(store), "--in", "here", "--json", cwd=tmp_path)
    assert (some.json["verdict"], some.json["segments"], some.json["environment"]) == ("IDENTICAL", 6, "here")


def test_the_verdict_is_kept_with_who_where_and_when(modelmill: Command, fleet: Path) -> None:
    assert modelmill("reproduce", "air-time[JFK,B6,BOS]", "1", "--in", "here", cwd=fleet).code == 0
    shown = modelmill("show", "run", "1", cwd=fleet).out
    assert "reproduced  IDENTICAL, air-time[JFK,B6,BOS] 1, by " in shown


@pytest.mark.parametrize("cause", PLANTED)
def test_planted_nondeterminism_is_found_and_named(modelmill: Command, tmp_path: Path, cause: str) -> None:
    line, seen_at_once = PLANTED[cause]
    folder = write(tmp_path / "p", line)
    trained = modelmill("train", "--json", cwd=folder, PYTHONHASHSEED="7")
    assert trained.code == 0, trained.err
    assert bool(trained.json["unsteady"]) == seen_at_once
    done = modelmill("reproduce", "1", "--in", "here", "--json", cwd=folder)
    assert (done.code, done.json["verdict"]) == (1, "DIFFERENT")
    assert done.json["worst"][0]["array"]
    assert done.json["cause"]["cause"] == cause
    assert "m.py:33" in done.json["cause"]["lines"][0]


def test_what_was_changed_in_the_store_is_refused(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "number = 1")
    assert modelmill("train", cwd=folder).code == 0
    details = json.loads(modelmill("show", "run", "1", "--json", cwd=folder).out)["details"]["run"]
    blobs = folder / ".modelmill" / "blobs"
    for what in ("snapshot", "code", "lock"):
        (path,) = blobs.rglob(details[what])
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = modelmill("reproduce", "1", "--in", "here", cwd=folder)
        assert (done.code, done.err.split("\n")[-5:] and "MM505" in done.err) == (70, True), (what, done.err)
        path.write_bytes(content)
    assert modelmill("reproduce", "1", "--in", "here", cwd=folder).code == 0


def test_code_that_reads_what_was_not_recorded(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "number = float(open(__file__ + '.txt').read())")
    (folder / "m.py.txt").write_text("3")
    assert modelmill("train", cwd=folder).code == 0
    done = modelmill("reproduce", "1", "--in", "here", "--json", cwd=folder)
    assert (done.code, done.json["verdict"], done.json["failed"]) == (1, "DIFFERENT", 5)
    assert "FileNotFoundError" in done.json["worst"][0]["text"]


def test_code_that_needs_more_than_was_recorded_to_be_imported(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "number = 1")
    text = (folder / "m.py").read_text()
    (folder / "m.py").write_text(f'import os\nLIMIT = os.environ["LIMIT"]\n{text}')
    assert modelmill("train", cwd=folder, LIMIT="3").code == 0
    done = modelmill("reproduce", "1", "--in", "here", cwd=folder, LIMIT="3")
    assert done.code == 2
    assert "MM604" in done.err
    assert "KeyError: 'LIMIT'" in done.err


def test_a_module_behind_a_link_out_of_the_project_is_not_recorded(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "number = 1")
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    (folder / "beside.py").symlink_to(tmp_path / "beside.py")
    text = (folder / "m.py").read_text()
    (folder / "m.py").write_text(f"import beside\n{text}")
    assert modelmill("train", cwd=folder).code == 0
    done = modelmill("reproduce", "1", "--in", "here", cwd=folder)
    assert (done.code, "No module named 'beside'" in done.err) == (2, True)


def test_a_project_inside_of_another_repository_has_its_commit(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "outer" / "p", "number = 1")
    git = ["git", "-C", str(tmp_path / "outer"), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "outer" / "beside.txt").write_text("no change of the project")
    assert modelmill("train", cwd=folder).code == 0
    run = modelmill("show", "run", "1", "--json", cwd=folder).json["details"]["run"]
    assert (len(run["commit"]), run["diff"]) == (40, None)
    assert modelmill("reproduce", "1", "--in", "here", cwd=folder).code == 0


def test_a_notebook_is_no_model_file(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "number = 1")
    (folder / "n.ipynb").write_text("{}")
    done = modelmill("train", "n.ipynb", cwd=folder)
    assert (done.code, "jupyter nbconvert --to script n.ipynb" in done.err) == (2, True)


def test_a_run_that_built_nothing_has_nothing_to_reproduce(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "raise ValueError")
    assert modelmill("train", cwd=folder).code == 1
    done = modelmill("reproduce", "1", cwd=folder)
    assert (done.code, done.err.startswith("MM605 run 1 of `m` built nothing")) == (2, True)


def test_a_reproduction_that_is_killed_leaves_nothing(modelmill: Command, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", "time.sleep(0.5); number = 1")
    assert modelmill("train", cwd=folder).code == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "modelmill", "reproduce", "1", "--in", "here"], cwd=folder, env=environment()
    )
    scratch = folder / ".modelmill" / "scratch"
    while not list(scratch.glob("*.tmp/table")):
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    shown = modelmill("show", "m", cwd=folder).out
    assert "reproduced" not in shown
    assert modelmill("reproduce", "1", "--in", "here", cwd=folder).code == 0
    assert modelmill("fsck", "--repair", cwd=folder).code == 0
    assert list(scratch.glob("*.tmp")) == []


def test_two_at_once(modelmill: Command, fleet: Path) -> None:
    words = [sys.executable, "-m", "modelmill", "reproduce", "1", "--sample", "1%", "--json"]
    children = [subprocess.Popen(words, cwd=fleet, env=environment(), stdout=subprocess.PIPE) for _ in range(2)]
    found = [json.loads(child.communicate()[0]) for child in children]
    assert [one["verdict"] for one in found] == ["IDENTICAL"] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which version?"),
        (("air-time",), "which version?"),
        (("99",), "has no run 99"),
        (("air-time[XX,YY,ZZ]", "1"), "has no version 1"),
        (("1", "--sample", "200%"), "no share"),
        (("1", "--in", "there"), "is no place"),
    ],
)
def test_what_cannot_be_reproduced(modelmill: Command, fleet: Path, words: tuple[str, ...], said: str) -> None:
    done = modelmill("reproduce", *words, cwd=fleet)
    assert done.code == 2
    assert said in done.err


def test_the_same_digests_whatever_the_workers(modelmill: Command, tmp_path: Path) -> None:
    found = set()
    for workers in ("1", "2", "4"):
        folder = write(tmp_path / workers, "number = np.random.uniform()")
        assert modelmill("train", "--workers", workers, cwd=folder).code == 0
        shown = [mm.Mill(folder).show(f"m[{segment}]").details["version"] for segment in ("s0", "s3", "pooled")]
        found.add(tuple(one.artifact for one in shown))
    assert len(found) == 1
