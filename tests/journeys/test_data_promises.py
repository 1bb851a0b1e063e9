"""What is promised about the data, by the real command: a broken promise makes no snapshot, and every promise can break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.journeys.conftest import Command

STORES, DAYS = 6, 20
FILE = '''
from datetime import datetime

import polars as pl
from sklearn.linear_model import Ridge

import modelmill as mm


class Sale(mm.Schema):
    """Sales of a store."""

    store: str = mm.key(doc="which store")
    at: datetime = mm.time()
    size: float = mm.col(ge=0, unit="m", doc="how large", source="shop.sizes", sensitive=True)
    sales: float = mm.target()


sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=5, fresh="3d", keeps=0.5)


@sales.data
def rows(window):
    return mm.read("rows", between=window)


@sales.check
def sales_are_no_constant(rows: pl.DataFrame) -> None:
    assert rows["sales"].n_unique() > 1, "all sales are the same"


@sales.train
def train(x, y):
    return Ridge().fit(x, y)
'''


def rows(stores: int = STORES, days: int = DAYS, until: datetime | None = None) -> pl.DataFrame:
    end = until or datetime.now(UTC).replace(tzinfo=None)
    return pl.DataFrame(
        {
            "store": [f"s{store}" for store in range(stores) for _ in range(days)],
            "at": [end - timedelta(days=day) for _ in range(stores) for day in range(days)],
            "size": [float(n % 7) for n in range(stores * days)],
            "sales": [float(n % 11) for n in range(stores * days)],
        }
    )


@pytest.fixture
def project(modelmill: Command, tmp_path: Path) -> Path:
    (tmp_path / "sales.py").write_text(FILE)
    (tmp_path / "modelmill.toml").write_text('[connections.rows]\ndev = "rows.parquet"\n\n[build]\nworkers = 1\n')
    rows().write_parquet(tmp_path / "rows.parquet")
    done = modelmill("train", cwd=tmp_path)
    assert done.code == 0, done.err
    return tmp_path


@pytest.mark.parametrize(
    ("frame", "code", "said"),
    [
        (rows().with_columns(sales=pl.lit(1.0)), "MM110", ["sales.py:", "all sales are the same"]),
        (rows(until=datetime(2020, 1, 1)), "MM111", ["at most 3d", "2020-01-01"]),  # noqa: DTZ001
        (rows(stores=2), "MM112", ["33%", "of rows@s1 are left", "s2, s3, s4 and 1 more"]),
        (rows(days=6), "MM112", ["30% of the rows of rows@s1"]),
        (rows().with_columns(size=pl.lit(-4711.5)), "MM101", ["its values are not shown"]),
    ],
)
def test_a_broken_promise_makes_no_snapshot(
    modelmill: Command, project: Path, frame: pl.DataFrame, code: str, said: list[str]
) -> None:
    frame.write_parquet(project / "rows.parquet")
    for verb in (["train"], ["data", "import"], ["up", "--detach", "--port", "0"]):
        done = modelmill(*verb, cwd=project)
        assert (done.code, code in done.err) == (2, True), done.err
        for text in said:
            assert text in done.err
        assert "4711" not in done.err
    assert len(modelmill("data", "list", "--json", cwd=project).json["snapshots"]) == 1


def test_what_is_gone_is_a_notice_where_enough_is_left(modelmill: Command, project: Path) -> None:
    rows(stores=4).write_parquet(project / "rows.parquet")
    done = modelmill("train", cwd=project)
    assert done.code == 0, done.err
    assert "80 rows, rows@s1 had 120" in done.out
    assert "2 of 6 segments of rows@s1 are gone, e.g. s4, s5" in done.out


def test_old_rows_may_be_chosen(modelmill: Command, project: Path) -> None:
    rows(stores=1, until=datetime(2020, 1, 1)).write_parquet(project / "rows.parquet")  # noqa: DTZ001
    done = modelmill("train", "--window", "..2021-01-01", cwd=project)
    assert done.code == 0, done.err


def test_every_promise_is_seen_to_fail_and_that_is_evidence(modelmill: Command, project: Path) -> None:
    done = modelmill("check", "--drill", "--json", cwd=project)
    assert done.code == 0, done.err
    planted = {one["promise"]: one["caught"] for one in done.json["drill"]}
    assert planted["check sales_are_no_constant"] is True
    assert set(planted.values()) == {True}
    cells = {(c["row"], c["column"]): c for c in modelmill("audit", "--json", cwd=project).json["audits"][0]["cells"]}
    assert cells["test", "data"]["state"] == "automatic"
    assert "bad rows caught" in modelmill("check", "--drill", cwd=project).out


def test_the_dictionary_is_shown(modelmill: Command, project: Path) -> None:
    shown = modelmill("data", "show", cwd=project).out
    assert "how large; from shop.sizes; sensitive" in shown
    assert "no meaning given" in shown
