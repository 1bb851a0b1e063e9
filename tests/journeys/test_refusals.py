"""Refusals that no other test provokes: each by its code, through the part of the product that says it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

import modelmill as mm
from modelmill.build.segment import check_row_wise
from modelmill.compute.local import LocalCompute
from modelmill.data.tables import snapshots
from modelmill.data.taking import get_snapshot
from modelmill.errors import ComputeLost, ExtraMissing, FeaturesNotRowWise, NodesLagging, SnapshotBroken
from modelmill.model.roles import read_role
from modelmill.model.rows import Rows
from modelmill.orchestrator.up import _confirm
from modelmill.outcomes import DeployOutcome
from modelmill.serving.control import NodeInfo
from modelmill.settings import load_settings
from modelmill.store.database import Database
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now
from modelmill.testing.samples import sample_plan

Command = Callable[..., Any]
MODEL = """
import modelmill as mm
import numpy as np
import polars as pl
from sklearn.linear_model import Ridge

class Row(mm.Schema):
    store: str = mm.key()
    hour: int = mm.col()
    y: float = mm.target()

sales = mm.Model("sales", Row, by=[Row.store], min_rows=5)

@sales.data
def rows(window):
    n = np.arange(40)
    return pl.DataFrame({"store": np.where(n % 2, "a", "b"), "hour": n, "y": n * 2.0})

@sales.train
def train(x, y):
    TRAIN

@sales.test
def later_is_more(ask):
    assert ask(hour=HOUR) > ask(hour=3)
"""


def project(folder: Path, train: str, hour: int = 9) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "modelmill.toml").write_text('model = "sales.py"')
    (folder / "sales.py").write_text(MODEL.replace("TRAIN", train).replace("HOUR", str(hour)))
    return folder


@pytest.mark.parametrize(
    ("train", "hour", "code"),
    [
        ("raise ValueError('no')", 9, "MM306"),
        ("return None", 9, "MM307"),
        (
            "import threading; m = type('Tuned', (Ridge,), {})().fit(x, y); m.lock = threading.Lock(); return m",
            9,
            "MM301",
        ),
        ("return Ridge().fit(x, y)", 2, "MM401"),
    ],
)
def test_check_and_train_tell_the_same_cause(
    modelmill: Command, tmp_path: Path, train: str, hour: int, code: str
) -> None:
    folder = project(tmp_path / "shop", train, hour)
    checked, trained = (modelmill(command, cwd=folder) for command in ("check", "train"))
    assert code in checked.err
    assert "MM403 not one segment" in trained.err
    assert code in trained.err
    assert trained.code == 1
    assert checked.code in (2, 3)


def test_an_unknown_parameter_and_a_wrong_type_are_refused(modelmill: Command, tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", "return Ridge().fit(x, y)")
    unknown, unwritten = (modelmill("train", "--set", text, cwd=folder) for text in ("alpha=3", "alpha"))
    assert (unknown.code, unwritten.code) == (2, 2)
    assert "train() has no parameter `alpha`" in unknown.err
    assert "not written as NAME=VALUE" in unwritten.err


def test_features_that_look_at_other_rows_are_refused() -> None:
    class Row(mm.Schema):
        hour: int = mm.col()
        y: float = mm.target()

    model = mm.Model("sales", Row)
    role = read_role("features", lambda rows: (rows.hour - rows.hour.mean()).reshape(-1, 1))
    batch = Rows({"hour": np.arange(5.0)})
    with pytest.raises(FeaturesNotRowWise):
        check_row_wise(role, model, batch, role.function(batch))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(load_settings(tmp_path, {})) as opened:
        yield opened


def test_a_manifest_that_cannot_be_read_is_told(store: Store) -> None:
    (digest,) = store.blobs.put([b"not a manifest"])
    row = {"dataset": "d", "number": 1, "digest": digest, "rows": 1, "segments": 1, "source": "", "created_at": now()}
    with store.database.write() as connection:
        connection.execute(snapshots.insert().values(row))
        connection.execute(update(snapshots).values(source="x"))
    with pytest.raises(SnapshotBroken):
        get_snapshot(store, "d")


def test_workers_that_confirm_nothing_are_named(store: Store) -> None:
    silent = NodeInfo(os.getpid(), "127.0.0.1", 9, "dev", 1, now())
    deployed = DeployOutcome(plan=sample_plan(), release=1, moved=True)
    with pytest.raises(NodesLagging, match="have not confirmed release r1"):
        _confirm(store, silent, deployed)


def test_waiting_for_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle_jobs.py").write_text("def start(setup):\n    return lambda payload, at: payload\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with LocalCompute("idle_jobs:start", None, workers=1) as compute, pytest.raises(ComputeLost):
        compute.wait()


def test_a_database_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ExtraMissing) as caught:
        Database("postgresql://nowhere/db")
    assert "pip install" in caught.value.parts["next"]
