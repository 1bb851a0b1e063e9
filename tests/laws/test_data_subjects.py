"""A person's trace: after a whole run with failures, only the files that the subject index names hold it."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pytest

from modelmill import Mill
from modelmill.data.subjects import files_naming
from modelmill.errors import ContractBroken
from modelmill.settings import load_settings
from modelmill.store.opening import open_store

PLANTED = "subject-7f3a90c14be2d586"
MODEL = '''
from datetime import datetime
import numpy as np
from sklearn.linear_model import Ridge
import modelmill as mm

class Sale(mm.Schema):
    """One sale."""

    store: str = mm.key()
    person: str = mm.subject()
    at: datetime = mm.time()
    heat: float = mm.col()
    y: float = mm.target(le=1000)

sales = mm.Model("sales", Sale, by=[Sale.store], min_rows=10)

@sales.data
def rows(window):
    return mm.read("rows")

@sales.train
def train(x, y, rows):
    print(rows.row(0))
    if rows.store[0] == "s3":
        raise ValueError(f"no fit for {rows.row(0)}")
    return Ridge().fit(x, y)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sales.py").write_text(MODEL)
    (tmp_path / "modelmill.toml").write_text('[connections.rows]\ndev = "rows.parquet"\n')
    table().write_parquet(tmp_path / "rows.parquet")
    return tmp_path


def table() -> pl.DataFrame:
    numbers = range(200)
    frame = pl.DataFrame({"store": [f"s{n % 5}" for n in numbers], "heat": [n * 7 % 31 / 31 for n in numbers]})
    return frame.with_columns(
        at=pl.datetime(2026, 1, 1) + pl.duration(hours=pl.int_range(200)),
        y=3 * pl.col("heat") + pl.col("store").str.tail(1).cast(pl.Int64),
        # The person is in every segment, and the last row of each is a test row.
        person=pl.when(pl.int_range(200) % 40 < 30).then(pl.lit(PLANTED)).otherwise(pl.lit("somebody")),
    )


def test_only_the_files_that_the_index_names_hold_a_person(project: Path) -> None:
    trained = Mill(project).train()
    assert (trained.counts.built, trained.counts.failed) == (4, 1)
    with open_store(load_settings(project, {})) as store:
        named = {store.blobs.path_of(digest) for digest in files_naming(store, PLANTED)}
        assert {path for path in store.folder.rglob("*") if path.is_file() and holds(path)} == named != set()


def test_a_refused_drop_leaves_nothing_of_a_person(project: Path) -> None:
    table().with_columns(y=pl.lit(5000.0)).write_parquet(project / "rows.parquet")
    with pytest.raises(ContractBroken) as caught:
        Mill(project).train()
    assert PLANTED not in "".join(caught.value.lines())
    assert not [path for path in (project / ".modelmill").rglob("*") if path.is_file() and holds(path)]


def holds(path: Path) -> bool:
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        content += pl.read_parquet(io.BytesIO(content)).write_csv().encode()
    return PLANTED.encode() in content
