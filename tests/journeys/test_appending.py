"""Rows arrive day by day, by the real command, and only what they touch is built again."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command

STORES = 6
DAYS = 40
FILE = '''
from datetime import datetime

from sklearn.linear_model import Ridge

import modelmill as mm


class Sale(mm.Schema):
    """Sales of a store."""

    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col(ge=-100)
    sales: float = mm.target()


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=5)


@sales.train
def train(x, y):
    return Ridge().fit(x, y)
'''


def rows(first: int, days: int, stores: int = STORES) -> pl.DataFrame:
    start = datetime(2024, 1, 1) + timedelta(days=first)  # noqa: DTZ001 - times in a column have no zone
    size = np.random.default_rng(first).normal(size=stores * days)
    return pl.DataFrame(
        {
            "store": [f"s{store}" for store in range(stores) for _ in range(days)],
            "at": [start + timedelta(days=day) for _ in range(stores) for day in range(days)],
            "size": size,
            "sales": 3 * size,
        }
    )


@pytest.fixture
def project(modelmill: Command, tmp_path: Path) -> Path:
    (tmp_path / "sales.py").write_text(FILE)
    (tmp_path / "modelmill.toml").write_text("[build]\nworkers = 1\n")
    rows(0, DAYS).write_csv(tmp_path / "first.csv")
    rows(DAYS, 1, stores=2).write_csv(tmp_path / "day.csv")
    assert modelmill("data", "import", "first.csv", cwd=tmp_path).code == 0
    assert modelmill("train", cwd=tmp_path).code == 0
    return tmp_path


def test_only_the_segments_of_the_new_rows_are_built_again(modelmill: Command, project: Path) -> None:
    done = modelmill("data", "append", "day.csv", "--json", cwd=project)
    assert done.code == 0, done.err
    assert (done.json["before"], done.json["snapshot"]["label"], done.json["added"]) == ("sales@s1", "sales@s2", 2)
    trained = modelmill("retrain", "--snapshot", "sales@s2", "--json", cwd=project)
    assert trained.code == 0, trained.err
    counts = trained.json["train"]["counts"]
    assert (counts["built"], counts["unchanged"]) == (2, STORES - 2)
    # What was built from layers is what is built from the rows as a whole.
    pl.concat([rows(0, DAYS), rows(DAYS, 1, stores=2)]).write_csv(project / "whole.csv")
    whole = modelmill("data", "import", "whole.csv", "--json", cwd=project).json
    assert (whole["snapshot"]["label"], whole["snapshot"]["new"]) == ("sales@s2", False)
    assert "IDENTICAL" in modelmill("reproduce", "sales[s1]", "2", "--in", "here", cwd=project).out
    assert "IDENTICAL" in modelmill("reproduce", "2", "--in", "here", cwd=project).out
    assert modelmill("fsck", cwd=project).code == 0
    exported = modelmill("data", "export", "sales@s2", "--out", "all.parquet", cwd=project)
    assert exported.code == 0, exported.err
    assert pl.read_parquet(project / "all.parquet")["store"].is_sorted()


def test_the_same_rows_once_more_add_nothing(modelmill: Command, project: Path) -> None:
    for _ in range(2):
        done = modelmill("data", "append", "day.csv", "--json", cwd=project)
    assert (done.json["added"], done.json["snapshot"]["label"], done.json["snapshot"]["new"]) == (0, "sales@s2", False)
    assert "all rows were there" in modelmill("data", "append", "day.csv", cwd=project).out


def test_rows_that_break_the_contract_change_nothing(modelmill: Command, project: Path) -> None:
    rows(DAYS, 1).with_columns(size=pl.lit(-200.0)).write_csv(project / "bad.csv")
    done = modelmill("data", "append", "bad.csv", cwd=project)
    assert (done.code, "MM101" in done.err, "size" in done.err) == (2, True, True), done.err
    assert len(modelmill("data", "list", "--json", cwd=project).json["snapshots"]) == 1


def test_there_has_to_be_something_to_append_to(modelmill: Command, project: Path) -> None:
    done = modelmill("data", "append", "day.csv", "--dataset", "another", cwd=project)
    assert (done.code, "no snapshot to append to" in done.err) == (2, True)
    file = project / "sales.py"
    file.write_text(file.read_text().replace("ge=-100", "ge=-200"))
    done = modelmill("data", "append", "day.csv", cwd=project)
    assert (done.code, "another schema" in done.err) == (2, True)
    done = modelmill("data", "append", "day.csv", "--window", "..2024-01-01", cwd=project)
    assert (done.code, "--window" in done.err) == (2, True)
