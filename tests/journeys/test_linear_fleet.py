"""The demo's fleet with `mm.linear` in the place of scikit-learn's Ridge: the same models, fitted together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journeys.conftest import Command, environment
from tests.journeys.test_cli_fleet import FIELDS, ROW, post

ITS_OWN = """@air_time.train
def train(x: np.ndarray, y: np.ndarray, alpha: float = 1.0) -> Ridge:
    return Ridge(alpha=alpha).fit(x, y)
"""


@pytest.fixture(scope="module")
def linear(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("linear") / "delays"
    assert modelmill("init", str(folder), cwd=folder.parent).code == 0
    file = folder / "delays.py"
    source = file.read_text()
    assert ITS_OWN in source
    source = source.replace(ITS_OWN, "train = air_time.train(mm.linear(alpha=1.0))\n")
    file.write_text(source.replace("from sklearn.linear_model import Ridge\n", ""))
    yield folder
    modelmill("down", cwd=folder)


def test_check_and_its_own_tests_know_no_difference(modelmill: Command, linear: Path) -> None:
    checked = modelmill("check", cwd=linear)
    assert checked.code == 0, checked.out + checked.err
    its_tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(linear)],
        cwd=linear,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert its_tests.returncode == 0, its_tests.stdout


def test_every_model_is_the_one_that_scikit_learn_fits(modelmill: Command, linear: Path, fleet: Path) -> None:
    built = modelmill("train", "--json", cwd=linear)
    assert built.code == 0, built.err
    theirs = modelmill("train", "--rebuild", "--json", cwd=fleet).json
    assert built.json["counts"] == theirs["counts"]
    assert built.json["metrics"] == pytest.approx(theirs["metrics"], rel=1e-9)
    assert built.json["comparison"]["pooled"] == pytest.approx(theirs["comparison"]["pooled"], rel=1e-9)
    assert "packed" in modelmill("show", "air-time", cwd=linear).out
    one, other = (modelmill("predict", *FIELDS, "--json", cwd=folder).json for folder in (linear, fleet))
    assert one["answers"][0]["value"] == pytest.approx(other["answers"][0]["value"], rel=1e-9)


def test_another_parameter_is_another_model(modelmill: Command, linear: Path) -> None:
    again = modelmill("train", "--json", cwd=linear)
    assert again.json["counts"]["built"] == 0
    other = modelmill("train", "--set", "alpha=0.5", "--json", cwd=linear)
    assert (other.code, other.json["reasons"].keys()) == (0, {"model changed", "fewer than 30 labelled rows"})
    refused = modelmill("train", "--set", "alpha=-1", cwd=linear)
    assert refused.code == 1
    assert "alpha is -1.0, and may not be negative" in refused.out + refused.err


def test_a_node_answers_with_it(modelmill: Command, linear: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", "--json", cwd=linear)
    assert up.code == 0, up.err
    answered = post(up.json["url"], ROW)
    told = modelmill("predict", *FIELDS, "--json", cwd=linear).json
    assert answered["answered_by"] == "own"
    assert answered["air_time"] == pytest.approx(told["answers"][0]["value"])
