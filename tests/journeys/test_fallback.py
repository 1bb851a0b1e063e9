"""An unknown store is answered by its region's model, then by the pooled one, then safely; once it has rows, by its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command

from modelmill.serving.control import find_node

REGIONS = {"north": 2.0, "south": -3.0, "=": 5.0}
ROWS = 40
MODEL = """
import os

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    region: str = mm.key()
    store: str = mm.key()
    size: float = mm.col()
    sales: float = mm.target(ge=-1000, le=1000)


sales = mm.Model(
    "sales", Sale, by=[Sale.store], levels=[Sale.region], safe=7, min_rows=10, gate=[mm.no_worse("mae", than="champion")]
)


@sales.data
def rows(window):
    return mm.read("rows")


@sales.train
def train(x, y, segment):
    if segment == ("region==",):
        raise ValueError("nothing can be said about this region")
    drift = 2.0 if segment == ("region=south",) and "DRIFTS" in os.environ else 0.0
    return np.linalg.lstsq(x, y, rcond=None)[0] + drift


@sales.predict
def predict(model, x):
    if np.abs(x).max() >= 100:
        raise ValueError("so large a store is none")
    return x @ model
"""


def sold(store: str, region: str, rows: int, extra: float = 0.0) -> pl.DataFrame:
    size = np.random.default_rng(len(store)).normal(size=rows)
    sales = (REGIONS[region] + extra) * size
    return pl.DataFrame({"region": [region] * rows, "store": [store] * rows, "size": size, "sales": sales})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, modelmill: Command) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sales")
    # Each store has something of its own, so that its own model is the better one.
    stores = [sold(f"{region}-{n}", region, ROWS, 0.1 * n) for region in REGIONS for n in (1, 2, 3)]
    pl.concat([*stores, sold("small", "north", 4)]).write_parquet(folder / "rows.parquet")
    (folder / "sales.py").write_text(MODEL)
    (folder / "modelmill.toml").write_text(
        'model = "sales.py"\n[build]\nworkers = 2\n[serve]\nport = 0\nworkers = 1\n[connections.rows]\ndev = "rows.parquet"\n'
    )
    up = modelmill("up", "--detach", cwd=folder)
    assert up.code in (0, 1), up.err + up.out  # the model of one region fails, which costs only itself
    yield folder
    modelmill("down", cwd=folder)


def ask(project: Path, **row: Any) -> dict[str, Any]:
    node = find_node(project / ".modelmill")
    assert node is not None
    reply = httpx.post(f"{node.url}/sales", json=row, headers=node.headers, timeout=60)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


def test_a_known_store_is_answered_by_its_own_model(project: Path) -> None:
    told = ask(project, store="north-1", region="north", size=1.0)
    assert (told["answered_by"], told["sales"]) == ("own", pytest.approx(2.1))
    assert "why" not in told


def test_an_unknown_store_is_answered_by_its_regions_model(project: Path) -> None:
    north = ask(project, store="new", region="north", size=1.0)
    assert (north["answered_by"], north["why"]) == ("region=north", "no model was built for this segment")
    assert north["sales"] == pytest.approx(2.2, abs=0.1)
    south = ask(project, store="new", region="south", size=1.0)
    assert (south["answered_by"], south["sales"]) == ("region=south", pytest.approx(-2.8, abs=0.1))


def test_a_small_store_is_answered_by_its_regions_model(project: Path) -> None:
    told = ask(project, store="small", region="north", size=1.0)
    assert (told["answered_by"], told["why"]) == ("region=north", "fewer than 10 labelled rows")


def test_an_unknown_region_and_one_without_a_model_are_answered_by_the_pooled_model(project: Path) -> None:
    for region in ("east", "*", "=", "pooled"):
        assert ask(project, store="new", region=region, size=1.0)["answered_by"] == "pooled"


def test_where_every_model_fails_the_safe_answer_is_given(project: Path) -> None:
    told = ask(project, store="new", region="north", size=1000.0)
    assert (told["answered_by"], told["sales"], told["version"]) == ("safe", 7.0, None)
    failed = "the model of region=north gave no usable answer; the pooled model gave no usable answer"
    assert told["why"] == f"no model was built for this segment; {failed}"
    assert (
        ask(project, store="north-1", region="north", size=1000.0)["why"]
        == f"its own model gave no usable answer; {failed}"
    )


def test_a_table_and_the_node_answer_alike(project: Path, modelmill: Command) -> None:
    rows = [
        {"store": store, "region": region, "size": size}
        for store in ("north-1", "new", "small")
        for region in ("north", "south", "east", "=")
        for size in (1.0, 1000.0)
    ]
    pl.DataFrame(rows).write_csv(project / "ask.csv")
    done = modelmill("predict", "--table", "ask.csv", "--out", "answers.parquet", "--json", cwd=project)
    assert done.code == 0, done.err
    found = pl.read_parquet(project / "answers.parquet").to_dicts()
    for row, answer in zip(rows, found, strict=True):
        told = ask(project, **row)
        assert (answer["answered_by"], answer["why"]) == (told["answered_by"], told.get("why", ""))
        assert answer["answer"] == pytest.approx(told["sales"])
        assert answer["version"] == (told["version"] or 0)
    facts = done.json["table"]
    assert facts["own"] + facts["pooled"] + facts["parents"] + facts["safe"] == facts["rows"] == len(rows)
    assert min(facts["own"], facts["pooled"], facts["parents"], facts["safe"]) > 0


def test_what_was_served_is_what_training_computes(project: Path, modelmill: Command) -> None:
    ask(project, store="new", region="north", size=3.0)
    found = modelmill("parity", "sales", "--json", cwd=project)
    assert found.code == 0, found.err + found.out
    assert found.json["rows"] == found.json["equal"] > 0


def test_the_models_of_levels_are_versions_like_others(project: Path, modelmill: Command) -> None:
    shown = modelmill("show", "sales[region=north]", cwd=project)
    assert shown.code == 0, shown.err
    assert "124 rows" in shown.out
    again = modelmill("reproduce", "sales[region=north]", "1", "--in", "here", "--json", cwd=project)
    assert (again.code, again.json["verdict"], again.json["segments"]) == (0, "IDENTICAL", 1)
    trained = modelmill("train", "--json", cwd=project).json
    assert trained["counts"]["built"] == 0
    assert [group["segments"] for group in trained["failures"]] in ([["region=%3D"]], [])


def test_a_regions_model_that_is_clearly_worse_keeps_its_champion(project: Path, modelmill: Command) -> None:
    row = {"store": "new", "region": "south", "size": 1.0}
    before = ask(project, **row)
    rows = pl.concat([pl.read_parquet(project / "rows.parquet"), sold("south-4", "south", ROWS, 0.4)])
    rows.write_parquet(project / "rows.parquet")
    done = modelmill("retrain", cwd=project, DRIFTS="1")
    assert done.code == 1, done.err  # one region still fails
    assert "1 segment judged   1 model of levels" in done.out
    assert "MM402 gate not passed: no_worse(mae) than champion   e.g. region=south" in done.out
    assert "2 models of levels, 1 refused" in modelmill("status", cwd=project).out
    assert modelmill("up", "--detach", cwd=project).code in (0, 1)
    assert ask(project, store="south-4", region="south", size=1.0)["sales"] == pytest.approx(-2.6)
    assert ask(project, **row) == before
    explained = modelmill("explain", "sales[region=south]", "--json", cwd=project).json["facts"]
    assert explained["answers"].startswith("version 1, ")
    assert explained["refused"].startswith("version 3, by the gate: no_worse(mae) than champion, mae ")


def test_a_new_store_is_answered_by_its_own_model_once_it_has_rows(project: Path, modelmill: Command) -> None:
    before = (project / "sales.py").read_bytes()
    rows = pl.concat([pl.read_parquet(project / "rows.parquet"), sold("new", "south", ROWS, 0.5)])
    rows.write_parquet(project / "rows.parquet")
    assert ask(project, store="new", region="south", size=1.0)["answered_by"] == "region=south"
    up = modelmill("up", "--detach", "--json", cwd=project)
    assert up.code in (0, 1), up.err + up.out
    told = ask(project, store="new", region="south", size=1.0)
    assert (told["answered_by"], told["sales"]) == ("own", pytest.approx(-2.5))
    assert (project / "sales.py").read_bytes() == before
    # Of the regions, only the one that has new rows was fitted again.
    versions = {
        region: ask(project, store="newer", region=region, size=1.0)["version"] for region in ("north", "south")
    }
    assert versions["south"] > versions["north"]


def test_without_a_node_predict_asks_the_same(project: Path, modelmill: Command) -> None:
    rows = [("north-1", "north", 1.0), ("newer", "south", 1.0), ("newer", "east", 1.0), ("newer", "south", 1000.0)]
    expected = [ask(project, store=store, region=region, size=size) for store, region, size in rows]
    assert modelmill("down", cwd=project).code == 0
    for (store, region, size), told in zip(rows, expected, strict=True):
        done = modelmill("predict", f"store={store}", f"region={region}", f"size={size}", "--json", cwd=project)
        assert done.code == 0, done.err
        (answer,) = done.json["answers"]
        assert (answer["answered_by"], answer["why"]) == (told["answered_by"], told.get("why", ""))
        assert answer["value"] == pytest.approx(told["sales"])
