"""A fleet of networks, by the command line: built as graphs, served under a budget, built again."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("graphs")

MODEL = '''
import warnings

import numpy as np
import polars as pl
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR

import modelmill as mm

warnings.filterwarnings("ignore")


class Day(mm.Schema):
    """A day of a shop."""

    shop: str = mm.key(doc="the shop")
    warmth: float = mm.col(doc="how warm it was")
    sold: float = mm.target(doc="pieces")


shops = mm.Model("shops", Day, by=[Day.shop], min_rows=30)


@shops.data
def days() -> pl.DataFrame:
    warmth = np.random.default_rng(0).uniform(-3, 3, size=400)
    shop = np.repeat(["east", "north", "south", "west"], 100)
    factor = np.repeat([4.0, 1.0, -1.0, 3.0], 100)
    return pl.DataFrame({"shop": shop, "warmth": warmth, "sold": 20 + 4 * factor * np.sin(warmth)})


@shops.features
def features(rows: mm.Rows) -> np.ndarray:
    return np.column_stack([rows.warmth, rows.warmth**2])


@shops.train
def train(x, y, segment):
    if segment == ("east",):
        return SVR().fit(x, y)
    return MLPRegressor(hidden_layer_sizes=(24,), solver="lbfgs", max_iter=500, random_state=0).fit(x, y)


@shops.predict
def predict(model, x):
    return np.maximum(model.predict(x), 0)
'''


@pytest.fixture(scope="module")
def shops(modelmill: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("graphs")
    (folder / "modelmill.toml").write_text('model = "shops.py"\n[serve]\nmemory = "900MiB"\n')
    (folder / "shops.py").write_text(MODEL)
    done = modelmill("train", cwd=folder)
    assert done.code == 0, done.err
    return folder


def test_what_answers_is_told_with_its_reason(modelmill: Any, shops: Path) -> None:
    def runtime(segment: str) -> tuple[str, str]:
        version = json.loads(modelmill("show", f"shops[{segment}]", "--json", cwd=shops).out)["details"]["version"]
        return version["runtime"], version["runtime_why"]

    kind, why = runtime("north")
    assert kind == "onnx"
    assert "MLPRegressor, which has no packed form" in why
    assert "no graph" not in why
    kind, why = runtime("east")
    assert kind == "python"
    assert "no graph, ONNX Runtime does not take its graph" in why


def test_graphs_answer_beside_a_child_and_are_counted(modelmill: Any, shops: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", "--json", cwd=shops)
    assert up.code == 0, up.err
    try:
        for shop in ("north", "south", "west", "east", "north"):
            asked = modelmill("predict", "shops", f"shop={shop}", "warmth=1", "--json", cwd=shops)
            (answer,) = json.loads(asked.out)["answers"]
            assert answer["answered_by"] in ("own", "pooled")
            factor = {"east": 4, "north": 1, "south": -1, "west": 3}[shop]
            if answer["answered_by"] == "own" and shop != "east":
                assert answer["value"] == pytest.approx(20 + 4 * factor * 0.8415, abs=3)
        url = json.loads(modelmill("status", "--json", cwd=shops).out)["nodes"][0]["url"]
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("modelmill_graph"))
        assert float(told["modelmill_graphs_open"]) == float(told["modelmill_graph_loads_total"]) >= 1
        assert 0 < float(told["modelmill_graphs_bytes_limit"]) < 900 << 20
        assert float(told["modelmill_graph_evictions_total"]) == 0
    finally:
        modelmill("down", cwd=shops)


def test_too_little_memory_is_refused_before_anything_starts(modelmill: Any, shops: Path) -> None:
    refused = modelmill("serve", "--memory", "5MB", "--detach", cwd=shops)
    assert refused.code != 0
    assert "too little for a node" in refused.err + refused.out
    assert modelmill("down", cwd=shops).out.startswith("no node")


def test_a_graph_is_built_again_number_by_number(modelmill: Any, shops: Path) -> None:
    done = modelmill("reproduce", "shops[north]", "1", cwd=shops)
    assert "IDENTICAL" in done.out, done.out + done.err


NETWORKS = '''
import numpy as np
import polars as pl
import torch

import modelmill as mm


class Day(mm.Schema):
    """A day of a shop."""

    shop: str = mm.key(doc="the shop")
    warmth: float = mm.col(doc="how warm it was")
    sold: float = mm.target(doc="pieces")


nets = mm.Model("nets", Day, by=[Day.shop], min_rows=30)


@nets.data
def days() -> pl.DataFrame:
    warmth = np.random.default_rng(0).uniform(-1, 1, size=120)
    sold = 20 + np.tile([1, 2, 3], 40) * warmth
    return pl.DataFrame({"shop": ["north", "south", "west"] * 40, "warmth": warmth, "sold": sold})


@nets.train
def train(x, y):
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    steps = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(50):
        steps.zero_grad()
        torch.nn.functional.mse_loss(net(x).squeeze(1), y).backward()
        steps.step()
    return net


@nets.predict
def predict(model, x):
    return np.maximum(model.predict(x), 0)
'''


def test_a_network_of_torch_is_a_graph_and_comes_out_the_same_again(modelmill: Any, tmp_path: Path) -> None:
    if find_spec("torch") is None:
        pytest.skip("optional component missing: torch")
    (tmp_path / "modelmill.toml").write_text('model = "nets.py"\n')
    (tmp_path / "nets.py").write_text(NETWORKS)
    up = modelmill("up", "--detach", "--port", "0", "--json", cwd=tmp_path)
    try:
        assert up.code == 0, up.err
        answer = httpx.post(up.json["url"], json={"shop": "south", "warmth": 0.5}).json()
        assert answer["sold"] == pytest.approx(21, abs=4)
    finally:
        modelmill("down", cwd=tmp_path)
    version = json.loads(modelmill("show", "nets[south]", "--json", cwd=tmp_path).out)["details"]["version"]
    assert version["runtime"] == "onnx"
    done = modelmill("reproduce", "nets[south]", "1", "--in", "here", cwd=tmp_path)
    assert "IDENTICAL" in done.out, done.out + done.err
