"""Models of levels: the same whatever number of workers builds them; one that fails costs only itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.journeys.conftest import Command, Done

import modelmill as mm
from modelmill.names import POOLED, ModelName, Parent, Segment
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.runs import get_run
from modelmill.settings import load_settings
from modelmill.store.opening import open_store

STORES, ROWS = 30, 30
SCHEMA = """
import os

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    region: str = mm.key()
    store: str = mm.key()
    size: float = mm.col()
    sales: float = mm.target()


sales = mm.Model("sales", Sale, {by}, min_rows=5{options})


@sales.data
def rows(window):
    return mm.read("rows")
"""
OWN = """

@sales.train
def train(x, y, segment, seed):
    if segment == ("region=west",) and os.environ.get("WEST") == "crashes":
        os._exit(1)
    if segment == ("region=west",) and os.environ.get("WEST") == "fails":
        raise ValueError("nothing grows in the west")
    drift = 1.0 if os.environ.get("DRIFTS") in segment else 0.0
    return np.linalg.lstsq(x, y, rcond=None)[0] + np.random.normal(0, 1e-6) + drift


@sales.predict
def predict(model, x):
    return x @ model
"""
LINEAR = "\nsales.train(mm.linear())\n"
LEVELS = ", levels=[Sale.region]"
BY_STORE, BY_BOTH = "by=[Sale.store]", "by=[Sale.region, Sale.store]"


def lay(folder: Path, train: str, options: str = LEVELS, by: str = BY_STORE) -> Path:
    """Write a project whose stores lie in three regions, one of them in two."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(STORES), ROWS)
    region = np.array(["north", "west", "south"])[owner % 3]
    region[[0, 1, 2, 3, 4, ROWS - 3]] = "west"
    size = rng.normal(size=len(owner))
    slope = np.array([1.0, 3.0, -2.0])[owner % 3] + rng.normal(size=STORES)[owner] / 5
    frame = pl.DataFrame(
        {"region": region, "store": [f"s{number:02d}" for number in owner], "size": size, "sales": slope * size}
    )
    frame.write_parquet(folder / "rows.parquet")
    (folder / "sales.py").write_text(SCHEMA.format(options=options, by=by) + train)
    (folder / "modelmill.toml").write_text('model = "sales.py"\n[connections.rows]\ndev = "rows.parquet"\n')
    return folder


def built(project: Path, number: int) -> FleetMap:
    """Return the fleet map of a version."""
    with open_store(load_settings(project, {})) as store:
        found = get_run(store.database, ModelName("sales"), number)
        assert found.map is not None
        return decode(store.blobs.get(found.map))


def bytes_of(project: Path, number: int = 1) -> dict[Segment, tuple[Any, ...]]:
    return {entry.segment: (entry.artifact, entry.state, entry.why) for entry in built(project, number)}


REGIONS = {Parent.of({"region": name}) for name in ("north", "west", "south")}


@pytest.mark.parametrize("train", [OWN, LINEAR], ids=["own", "linear"])
def test_the_models_are_the_same_with_one_worker_two_or_four(tmp_path: Path, train: str) -> None:
    found = []
    for workers in (1, 2, 4):
        project = lay(tmp_path / str(workers), train)
        trained = mm.Mill(project).train(workers=workers)
        assert trained.counts.built == trained.counts.segments == STORES
        found.append(bytes_of(project))
    assert found[0] == found[1] == found[2]
    assert found[0].keys() >= REGIONS | {POOLED}
    assert {found[0][region][1] for region in REGIONS} == {"own"}


def test_levels_change_no_other_model(tmp_path: Path) -> None:
    """The artifacts of the segments and the pooled model are those of the fleet without levels."""
    plain, levelled = lay(tmp_path / "plain", OWN, options=""), lay(tmp_path / "levels", OWN)
    for project in (plain, levelled):
        mm.Mill(project).train(workers=2)
    with_levels = bytes_of(levelled)
    assert bytes_of(plain) == {name: told for name, told in with_levels.items() if name not in REGIONS}
    assert b"levels" not in built(plain, 1).encode()
    assert b"safe" not in built(plain, 1).encode()


def test_a_level_that_is_no_longer_declared_is_asked_no_more(tmp_path: Path, modelmill: Command) -> None:
    project = lay(tmp_path, OWN)
    assert modelmill("train", cwd=project).code == 0
    assert bytes_of(project, 1).keys() >= REGIONS
    (project / "sales.py").write_text(SCHEMA.format(options="", by=BY_STORE) + OWN)
    assert modelmill("train", cwd=project).code == 0
    assert not REGIONS & bytes_of(project, 2).keys()


@pytest.mark.parametrize("how", ["fails", "crashes"])
def test_a_level_whose_model_cannot_be_built_costs_only_itself(tmp_path: Path, modelmill: Command, how: str) -> None:
    project = lay(tmp_path, OWN)
    done = modelmill("train", "--json", cwd=project, WEST=how)
    assert done.code == 1
    assert [group["segments"] for group in done.json["failures"]] == [["region=west"]]
    assert (done.json["counts"]["built"], done.json["counts"]["failed"]) == (STORES, 1)
    found = bytes_of(project)
    assert REGIONS - found.keys() == {Parent.of({"region": "west"})}
    assert len(found) == STORES + 3
    again = modelmill("train", "--json", "--explain", cwd=project)
    assert again.code == 0, again.err
    assert ["region=west", "failed last time"] in [list(pair) for pair in again.json["explained"]]
    assert bytes_of(project, 2).keys() >= REGIONS


def reproduced(modelmill: Command, project: Path, *words: str) -> Done:
    return modelmill("reproduce", *words, "--in", "here", "--json", cwd=project)


@pytest.mark.parametrize(("train", "by"), [(OWN, BY_STORE), (LINEAR, BY_BOTH)], ids=["beyond segments", "of segments"])
def test_the_models_of_levels_come_out_again(tmp_path: Path, modelmill: Command, train: str, by: str) -> None:
    project = lay(tmp_path, train, by=by)
    assert modelmill("train", cwd=project).code == 0
    every = len(built(project, 1))
    for words, wanted in (
        (("1",), every),
        (("sales[region=west]", "1"), 1),
        (("1", "--sample", "10%"), round((every - len(REGIONS) - 1) / 10) + 1),
    ):
        done = reproduced(modelmill, project, *words)
        assert done.code == 0, done.out + done.err
        assert (done.json["verdict"], done.json["identical"]) == ("IDENTICAL", wanted)


def test_a_level_whose_model_comes_out_otherwise_is_named(tmp_path: Path, modelmill: Command) -> None:
    project = lay(tmp_path, OWN)
    assert modelmill("train", cwd=project, DRIFTS="region=west").code == 0
    done = reproduced(modelmill, project, "1")
    assert (done.code, done.json["verdict"], done.json["different"]) == (1, "DIFFERENT", 1)
    (worst,) = done.json["worst"]
    assert (worst["segment"], worst["verdict"]) == ("region=west", "different")
    assert done.json["cause"]["segment"] == "region=west"
    unknown = reproduced(modelmill, project, "sales[region=east]", "1")
    assert (unknown.code, "`sales[region=east]` has no version 1" in unknown.err + unknown.out) == (2, True)


GATED = """, levels=[Sale.region], gate=[
    mm.no_worse("mae", than="champion"), mm.no_worse("mae", than="pooled"), mm.at_least("mae", 0.5, on={Sale.region: "east"})
]"""


def sell_more(project: Path, region: str, like: int) -> None:
    """Add stores of a region that sell like every third store."""
    rows = pl.read_parquet(project / "rows.parquet")
    more = rows.filter(pl.col("store").is_in([f"s{number:02d}" for number in range(like, 18, 3)]))
    named = pl.lit(region).alias("region"), (pl.lit(region) + pl.col("store")).alias("store")
    pl.concat([rows, more.with_columns(*named)]).write_parquet(project / "rows.parquet")


def retrained(modelmill: Command, project: Path, **variables: str) -> dict[str, Any]:
    done = modelmill("retrain", "--json", cwd=project, **variables)
    assert done.code == 0, done.out + done.err
    found: dict[str, Any] = done.json
    return found


def test_a_gate_judges_the_models_of_levels(tmp_path: Path, modelmill: Command) -> None:
    """All new rows are good; the model of one region is not, and its champion goes on answering. One store lies in two."""
    project = lay(tmp_path, OWN, GATED)
    assert modelmill("train", cwd=project).code == 0
    west = Parent.of({"region": "west"})
    sell_more(project, "west", like=1)
    found = retrained(modelmill, project, DRIFTS="region=west")
    counts = found["train"]["counts"]
    assert (found["judged"], found["judged_parents"]) == (6, 1)
    assert (counts["built"], counts["parents"], counts["refused"], counts["refused_parents"]) == (6, 1, 0, 1)
    (refused,) = found["train"]["failures"]
    assert (refused["code"], refused["segments"]) == ("MM402", ["region=west"])
    shown = modelmill("show", "sales[region=west]", "2", "--json", cwd=project).json
    version = shown["details"]["version"]
    assert "the gate has refused it, no_worse(mae) than champion" in shown["facts"]["answers"]
    # Judged are the rows that the build itself has tested it on, and no others.
    assert refused["got"].startswith(f"mae {version['metrics']['mae']:.4g}, the champion's ")
    assert refused["got"].endswith(f", on {version['test_rows']:,} rows: clearly worse")
    before, after = bytes_of(project, 1), bytes_of(project, 2)
    assert after[west] == before[west]
    assert after.keys() - before.keys() == {(f"wests{number:02d}",) for number in range(1, 18, 3)}
    assert built(project, 2).chain(("new",), ("west",))[0][0] == built(project, 1).find(west)


def open_between(project: Path) -> None:
    """Add a store that sells like the west in the west, and like the south in the south: no one model is right in both."""
    rows = pl.read_parquet(project / "rows.parquet")
    both = rows.filter(pl.col("store").is_in(["s01", "s02"])).with_columns(pl.lit("both").alias("store"))
    pl.concat([rows, both]).write_parquet(project / "rows.parquet")


def test_what_had_no_model_of_its_own_is_compared_with_whoever_answered(tmp_path: Path, modelmill: Command) -> None:
    project = lay(tmp_path, OWN, GATED)
    assert modelmill("train", cwd=project).code == 0
    east = Parent.of({"region": "east"})
    sell_more(project, "east", like=1)
    open_between(project)
    found = retrained(modelmill, project, DRIFTS="region=east")
    # The pooled model is too bad in the east as well, where the stores' own are not.
    refused = {
        group["cause"].removeprefix("gate not passed: "): group["segments"] for group in found["train"]["failures"]
    }
    assert refused == {
        "mae <= 0.5 where region = east": ["pooled", "region=east"],
        # Each of its rows was answered by the model of that row's region, and better.
        "no_worse(mae) than champion": ["both"],
    }
    counts = found["train"]["counts"]
    assert (found["judged"], counts["refused"]) == (7, 1)
    assert (found["judged_parents"], counts["refused_parents"]) == (3, 1)
    fleet = built(project, 2)
    entry, pooled = fleet.find(east), fleet.find(POOLED)
    assert entry is not None
    assert pooled is not None
    assert (entry.state, entry.why, pooled.number) == ("pooled", "its own model did not pass the gate", 1)
    assert fleet.chain(("new",), ("east",))[0] == [pooled]
    both = fleet.chain(("both",), ("south",))
    assert (both[0][0].segment, both[1]) == (Parent.of({"region": "south"}), "its own model did not pass the gate")
