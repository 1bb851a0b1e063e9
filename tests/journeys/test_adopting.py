"""Finished models become models that run like any other, by the real command and over HTTP."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import lightgbm
import numpy as np
import onnxruntime
import pandas as pd
import polars as pl
import pytest
import skops.io as skops
import xgboost
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tests.journeys.conftest import Command, Done

ROWS = 200
FUNCTION = '''
import pandas as pd


def guess(rows: pd.DataFrame):
    """Three an area."""
    return rows["size"] * 3
'''


def houses() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": generator.uniform(20, 200, ROWS).round(1),
            "rooms": generator.integers(1, 7, ROWS),
            "town": generator.choice(["a", "b"], ROWS),
        }
    )
    frame["price"] = (frame["size"] * 3 + frame["rooms"] * 10 + (frame["town"] == "b") * 50).round(2)
    frame["dear"] = np.where(frame["price"] > frame["price"].median(), "yes", "no")
    return frame


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sample and finished models of several libraries."""
    folder, frame = tmp_path_factory.mktemp("made"), houses()
    frame.to_csv(folder / "houses.csv", index=False)
    frame[["rooms", "size", "price"]].to_csv(folder / "numbers.csv", index=False)
    numbers, price, dear = frame[["rooms", "size"]], frame["price"], frame["dear"]
    joblib.dump(make_pipeline(StandardScaler(), Ridge()).fit(numbers, price), folder / "price.joblib")
    towns = ColumnTransformer([("town", OneHotEncoder(), ["town"])], remainder="passthrough")
    joblib.dump(make_pipeline(towns, Ridge()).fit(frame[["size", "town"]], price), folder / "towns.joblib")
    skops.dump(make_pipeline(StandardScaler(), Ridge()).fit(numbers, price), folder / "kept.skops")
    skops.dump(Strange().fit(numbers, price), folder / "strange.skops")
    (folder / "dear.pkl").write_bytes(pickle.dumps(LogisticRegression(max_iter=1000).fit(numbers, dear)))
    boosted = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(numbers, price)
    boosted.booster_.save_model(str(folder / "boost.txt"))
    xgboost.XGBRegressor(n_estimators=10).fit(numbers, price).save_model(str(folder / "trees.json"))
    xgboost.XGBClassifier(n_estimators=10).fit(numbers, (dear == "yes").astype(int)).save_model(folder / "class.ubj")
    net = MLPRegressor(hidden_layer_sizes=(8,), n_iter_no_change=1, tol=1e9, random_state=0).fit(numbers, price)
    (folder / "net.onnx").write_bytes(to_onnx(net, numbers.to_numpy()[:1].astype(np.float32)).SerializeToString())
    (folder / "rules.py").write_text(FUNCTION)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, modelmill: Command) -> Iterator[Path]:
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    yield tmp_path
    modelmill("down", cwd=tmp_path)


def adopt(modelmill: Command, folder: Path, source: str, target: str, *more: str) -> Done:
    sample = "numbers.csv" if source == "net.onnx" else "houses.csv"  # a graph has no names: all columns are its own
    return modelmill("adopt", source, "--sample", sample, "--target", target, *more, "--json", cwd=folder)


@pytest.mark.parametrize(
    ("source", "target", "runtime", "trusted"),
    [
        ("price.joblib", "price", "packed", True),
        ("towns.joblib", "price", "python", True),
        ("dear.pkl", "dear", "", True),
        ("kept.skops", "price", "packed", False),
        ("boost.txt", "price", "packed", False),
        ("trees.json", "price", "packed", False),
        ("rules:guess", "price", "python", False),
        ("net.onnx", "price", "onnx", False),
    ],
)
def test_a_finished_model_is_served(
    modelmill: Command, folder: Path, source: str, target: str, runtime: str, trusted: bool
) -> None:
    done = adopt(modelmill, folder, source, target, *(["--i-trust-this"] if trusted else []))
    assert done.code == 0, done.err
    assert (done.json["trusted"], done.json["rows"]) == (trusted, ROWS)
    file = done.json["written"][0]
    up = modelmill("up", file, "--detach", "--port", "0", "--json", cwd=folder)
    assert up.code == 0, up.err
    row = houses().iloc[0].to_dict() | {"rooms": int(houses().iloc[0]["rooms"])}
    asked = {name: row[name] for name in used_by(folder / file) if name != target}
    answer = httpx.post(up.json["url"], json=asked).json()
    assert answer["version"] == 1, answer
    expected = by_hand(folder, source, row)
    found = answer[target] if not isinstance(expected, dict) else answer["probabilities"]
    assert found == pytest.approx(expected, rel=1e-6), answer
    name = done.json["model"]
    shown = modelmill("show", name, cwd=folder).out
    assert runtime in shown
    tagged = modelmill("search", "--tag", f"trust={'by hand' if trusted else 'format'}", "--json", cwd=folder).json
    assert [one["model"] for one in tagged["versions"]] == [name]


def used_by(file: Path) -> list[str]:
    return [name for name in houses().columns if f"    {name}: " in file.read_text()]


def by_hand(folder: Path, source: str, row: dict[str, Any]) -> Any:
    frame = pd.DataFrame([row])
    numbers = frame[["rooms", "size"]]
    if source == "rules:guess":
        return row["size"] * 3
    if source == "net.onnx":
        session = onnxruntime.InferenceSession(folder / source)
        return float(session.run(None, {"X": numbers.to_numpy().astype(np.float32)})[0][0, 0])
    if source == "boost.txt":
        return float(lightgbm.Booster(model_file=str(folder / source)).predict(numbers)[0])
    if source == "trees.json":
        model = xgboost.XGBRegressor()
        model.load_model(folder / source)
        return float(model.predict(numbers)[0])
    model = skops.load(folder / source) if source == "kept.skops" else joblib.load(folder / source)
    if source == "dear.pkl":
        return dict(zip(model.classes_, model.predict_proba(numbers)[0], strict=True))
    return float(model.predict(frame[["size", "town"]] if source == "towns.joblib" else numbers)[0])


def test_an_adopted_model_comes_out_again_of_the_store_alone(modelmill: Command, folder: Path) -> None:
    assert adopt(modelmill, folder, "boost.txt", "price").code == 0
    assert modelmill("train", "boost.py", cwd=folder).code == 0
    (folder / "adopted" / "boost.txt").unlink()
    done = modelmill("reproduce", "1", "--in", "here", cwd=folder)
    assert (done.code, "IDENTICAL" in done.out) == (0, True), done.err


def test_a_pickle_is_opened_only_where_a_person_says_so(modelmill: Command, folder: Path) -> None:
    planted = folder / "ran"
    (folder / "bad.pkl").write_bytes(pickle.dumps(Planted(str(planted))))
    done = adopt(modelmill, folder, "bad.pkl", "price")
    assert (done.code, done.json["code"], planted.exists()) == (4, "MM311", False)
    assert written(folder) == []


class Planted:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def written(folder: Path) -> list[str]:
    """Return what an adoption has left beside what was there."""
    there = {"houses.csv", "rules.py"}
    return sorted(p.name for p in folder.iterdir() if p.suffix in (".py", ".toml") and p.name not in there) + [
        p.name for p in folder.glob("adopted/*")
    ]


def test_types_that_nobody_knows_need_trust(modelmill: Command, folder: Path) -> None:
    done = adopt(modelmill, folder, "strange.skops", "price")
    assert (done.code, done.json["code"], "Strange" in done.json["got"]) == (4, "MM311", True)
    assert written(folder) == []


class Strange(Ridge):  # type: ignore[misc]  # the library says nothing of its types
    """A type of somebody's own."""


def test_what_cannot_be_adopted_is_said_and_leaves_nothing(modelmill: Command, folder: Path) -> None:
    (folder / "torn.joblib").write_bytes((folder / "price.joblib").read_bytes()[:100])
    (folder / "model.onnx").write_bytes(pickle.dumps(Planted(str(folder / "ran"))))
    (folder / "weights.safetensors").write_bytes(bytes(8))
    (folder / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    trust = "--i-trust-this"
    pl.read_csv(folder / "houses.csv").drop("size").write_csv(folder / "narrow.csv")
    cases = [
        (adopt(modelmill, folder, "torn.joblib", "price", trust), "MM310", "cannot be opened"),
        (adopt(modelmill, folder, "list.pkl", "price", trust), "MM310", "predict"),
        (adopt(modelmill, folder, "model.onnx", "price"), "MM310", "it is a pickle"),
        (adopt(modelmill, folder, "weights.safetensors", "price"), "MM310", "weights without the network"),
        (adopt(modelmill, folder, "class.ubj", "dear"), "MM310", "none of the model's classes"),
        (adopt(modelmill, folder, "rules:gues", "price"), "MM310", "gues"),
        (adopt(modelmill, folder, "absent.txt", "price"), "MM001", "there is no file"),
        (adopt(modelmill, folder, "boost.txt", "prize"), "MM001", "no column `prize`"),
        (
            modelmill("adopt", "boost.txt", "--sample", "narrow.csv", "--target", "price", "--json", cwd=folder),
            "MM310",
            "lacks 1 of the columns",
        ),
    ]
    for done, code, said in cases:
        assert done.code == 2, done.out
        assert done.json["code"] == code
        assert said in done.out
    assert written(folder) == []
    assert not (folder / "ran").exists()


def test_what_is_there_is_not_overwritten(modelmill: Command, folder: Path) -> None:
    (folder / "boost.py").write_text("# mine\n")
    done = adopt(modelmill, folder, "boost.txt", "price")
    assert (done.code, "is there already" in done.out) == (2, True)
    assert (folder / "boost.py").read_text() == "# mine\n"
    assert adopt(modelmill, folder, "boost.txt", "price", "--name", "boost-two").code == 0


def test_a_file_of_the_model_that_is_gone_is_told(modelmill: Command, folder: Path) -> None:
    assert adopt(modelmill, folder, "boost.txt", "price").code == 0
    (folder / "adopted" / "boost.txt").unlink()
    done = modelmill("train", "boost.py", cwd=folder)
    assert (done.code, "adopted/boost.txt" in done.err) == (2, True), done.err


def test_a_schema_is_inferred_and_written(modelmill: Command, folder: Path) -> None:
    done = modelmill("data", "infer", "houses.csv", "--target", "price", "--out", "schema.py", cwd=folder)
    assert done.code == 0, done.err
    assert "town: str = mm.category('a', 'b', doc=\"\")" in (folder / "schema.py").read_text()
    again = modelmill("data", "infer", "houses.csv", "--target", "price", "--out", "schema.py", cwd=folder)
    assert (again.code, "is there already" in again.err) == (2, True)
    assert modelmill("data", "infer", "houses.csv", cwd=folder).code == 2
