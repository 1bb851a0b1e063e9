"""Two fleets that were built with different scikit-learn versions answer from one node, each with its own packages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn

from modelmill.registry.environment import Wanted, environment_for
from modelmill.registry.lock import make_lock

from .conftest import environment

Command = Callable[..., Any]

OLD = "1.8.0"
"""A minor version before the one that runs, with wheels for the same Python."""
MODEL = """
import numpy as np
import polars as pl
import sklearn
from sklearn.neighbors import KNeighborsRegressor

import modelmill as mm


class Row(mm.Schema):
    store: str = mm.key()
    a: float = mm.col()
    y: float = mm.target()


m = mm.Model("{name}", Row, by=[Row.store], min_rows=20)


@m.data
def rows(window: mm.Window) -> pl.DataFrame:
    a = np.random.default_rng(0).normal(size=120)
    place = np.arange(120) % 2
    return pl.DataFrame({{"store": [f"s{{i}}" for i in place], "a": a, "y": (2 + 50 * place) * a + np.sin(9 * a)}})


@m.train
def train(x: np.ndarray, y: np.ndarray) -> dict:
    return {{"built_with": sklearn.__version__, "near": KNeighborsRegressor(5).fit(x, y)}}


@m.predict
def predict(model: dict, x: np.ndarray) -> np.ndarray:
    if model["built_with"] != sklearn.__version__:
        raise RuntimeError(f"built with {{model['built_with']}}, asked with {{sklearn.__version__}}")
    return model["near"].predict(x)
"""


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project with two fleets: `new` is built with what is installed, `old` with another scikit-learn."""
    assert sklearn.__version__ != OLD
    folder = tmp_path_factory.mktemp("environments") / "project"
    folder.mkdir()
    for name in ("new", "old"):
        (folder / f"{name}.py").write_text(MODEL.format(name=name))
    (folder / "modelmill.toml").write_text('model = "new.py"\n')
    python = environment_for(folder.parent / "builds", _with_old_library(folder)).python
    built = subprocess.run(
        [python, "-m", "modelmill", "train", "old.py", "--json"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    yield folder
    modelmill("down", cwd=folder)


def _with_old_library(folder: Path) -> Wanted:
    """Return what is installed here, with the old scikit-learn in the place of the one that is."""
    lock, wheel = make_lock(folder, [folder / "old.py"])
    lines = [f"{one.name}=={OLD if one.name == 'scikit-learn' else one.version}" for one in lock.packages]
    return Wanted("b" * 64, lock.python, lines, lock.wheel_name, wheel)


def ask(folder: Path, model: str, **row: Any) -> Any:
    (file,) = (folder / ".modelmill" / "run").rglob("node.json")
    url = f"http://127.0.0.1:{json.loads(file.read_bytes())['port']}/{model}"
    with urllib.request.urlopen(url, json.dumps(row).encode(), timeout=60) as response:
        return json.load(response)


def test_both_answer_from_one_node(modelmill: Command, project: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", "--json", cwd=project)
    assert up.code == 0, up.out + up.err
    planned = modelmill("plan", "dev", "--model", "old", "--json", cwd=project).json
    (text,) = planned["environments"]
    assert re.search(rf"will be made .*scikit-learn {re.escape(OLD)} / {re.escape(sklearn.__version__)}", text)
    deployed = modelmill("deploy", "dev", "--model", "old", "--yes", "--json", cwd=project)
    assert deployed.code == 0, deployed.out + deployed.err
    # The golden rows were asked in a fresh process, through a child in that environment, before anything was moved.
    assert re.search(r"(\d+) segments answered as at their build, \1 of them to the bit", deployed.json["rehearsed"])
    assert deployed.json["confirmed"] == 1
    for store in ("s0", "s1"):
        for model in ("old", "new"):
            told = ask(project, model, store=store, a=0.5)
            assert (told["model"], told["answered_by"], "why" in told) == (model, "own", False)


def test_what_is_there_is_not_made_again(modelmill: Command, project: Path) -> None:
    planned = modelmill("plan", "dev", "--model", "old", "--json", cwd=project).json
    assert "is there" in planned["environments"][0]
    assert modelmill("plan", "dev", "--model", "new", "--json", cwd=project).json["environments"] == []


def test_a_node_whose_cache_was_emptied_says_so_and_serve_makes_it(modelmill: Command, project: Path) -> None:
    assert modelmill("down", cwd=project).code == 0
    (place,) = (path for path in (project / ".modelmill/cache/environments").iterdir() if path.is_dir())
    shutil.rmtree(place)
    served = modelmill("serve", "--detach", "--port", "0", "--json", cwd=project)
    assert served.code == 0, served.out + served.err
    assert (place / "finished").is_file()
    assert ask(project, "old", store="s0", a=0.5)["answered_by"] == "own"
