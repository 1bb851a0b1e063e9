"""Files that claim to be models: whatever they hold, their reader says no, or ends alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightgbm
import msgspec
import numpy as np
import polars as pl
import pytest
import xgboost
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.neighbors import KNeighborsRegressor

from modelmill.artifact.outside import listening
from modelmill.errors import AdoptionFailed
from modelmill.orchestrator.adopting import adopt
from modelmill.orchestrator.foreign import LIGHTGBM, ONNX, SKOPS, XGBOOST, Found, Question
from modelmill.requests import AdoptRequest
from modelmill.settings import load_settings


class _Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.place, "opened")


class Files(NamedTuple):
    """One good file of each kind, and where others are written."""

    folder: Path
    boost: bytes
    trees: bytes
    graph: bytes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("foreign")
    x = np.random.default_rng(0).normal(size=(200, 2))
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, x[:, 0]), 5)
    model = xgboost.XGBRegressor(n_estimators=3, n_jobs=1).fit(x, x[:, 0])
    pl.DataFrame(x, ["a", "b"]).write_parquet(folder / "sample.parquet")
    graph = to_onnx(KNeighborsRegressor().fit(x, x[:, 0]), x[:1].astype(np.float32)).SerializeToString()
    return Files(folder, booster.model_to_string().encode(), bytes(model.get_booster().save_raw("ubj")), graph)


def opened(files: Files, kind: str, name: str, content: bytes) -> tuple[int, Found | None]:
    """Return how the process ended that opened a file, and what it said of it."""
    file, asked, answer = (files.folder / (name + end) for end in ("", ".asked", ".answer"))
    file.write_bytes(content)
    sample = str(files.folder / "sample.parquet")
    question = Question(kind=kind, place=str(file), folder=str(files.folder), sample=sample)
    asked.write_bytes(msgspec.json.encode(question))
    command = [sys.executable, "-m", "modelmill.orchestrator.foreign", str(asked), str(answer)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, cwd=files.folder)
    return done.returncode, msgspec.json.decode(answer.read_bytes(), type=Found) if answer.exists() else None


def hostile(files: Files) -> Iterator[tuple[str, str, bytes]]:
    bomb = pickle.dumps(_Bomb(files.folder / "bomb"))
    yield LIGHTGBM, "cut.txt", files.boost[: len(files.boost) // 2]
    yield LIGHTGBM, "huge.txt", files.boost.replace(b"num_leaves=", b"num_leaves=999999999")
    yield LIGHTGBM, "bomb.txt", bomb
    yield XGBOOST, "cut.ubj", files.trees[: len(files.trees) // 2]
    yield XGBOOST, "huge.ubj", files.trees[:40] + b"L\x7f\xff\xff\xff\xff\xff\xff\xff" + files.trees[40:]
    yield XGBOOST, "nested.json", b'{"learner":' + b"[" * 1_000_000
    yield XGBOOST, "bomb.ubj", bomb
    yield SKOPS, "bomb.skops", bomb
    yield SKOPS, "cut.skops", b"PK\x03\x04" + bytes(40)
    yield ONNX, "bomb.onnx", bomb
    yield ONNX, "cut.onnx", files.graph[: len(files.graph) // 2]
    yield ONNX, "filled.onnx", filled()


def filled() -> bytes:
    """Return a graph of a few bytes that fills more memory with each row that it is asked than anybody has."""
    many = numpy_helper.from_array(np.array([1 << 34]), "many")
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sums"]),
        helper.make_node("Expand", ["sums", "many"], ["all"]),
    ]
    nodes.append(helper.make_node("ReduceMax", ["all", "axes"], ["answers"]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    out = helper.make_tensor_value_info("answers", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [out], [many, numpy_helper.from_array(np.array([1]), "axes")])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


def test_a_good_file_is_opened(files: Files) -> None:
    good = (LIGHTGBM, "good.txt", files.boost), (XGBOOST, "good.ubj", files.trees), (ONNX, "good.onnx", files.graph)
    for kind, name, content in good:
        code, found = opened(files, kind, name, content)
        assert (code, found is not None and found.broken) == (0, "")


def test_a_hostile_file_ends_at_most_its_reader(files: Files) -> None:
    for kind, name, content in hostile(files):
        code, found = opened(files, kind, name, content)
        assert code < 0 if found is None else found.broken, name
    assert not (files.folder / "bomb").exists()


def weights() -> Iterator[tuple[str, bytes, int]]:
    """Yield files of safetensors by name: how each begins, and how long it says to be on the disk."""
    good = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    yield "good", len(good).to_bytes(8, "little") + good + bytes(4), 0
    yield "cut", len(good).to_bytes(8, "little") + good[:20], 0
    yield "empty", b"", 0
    yield "header-beyond", (1 << 63).to_bytes(8, "little") + good, 0
    yield "nested", (1 << 20).to_bytes(8, "little") + b'{"w":' + b"[" * (1 << 20), 0
    yield "twice", (2 * len(good)).to_bytes(8, "little") + good[:-1] + b"," + good[1:], 0
    yield "larger-than-memory", (1 << 40).to_bytes(8, "little"), 1 << 42


def test_weights_alone_are_refused_unread(tmp_path: Path) -> None:
    """A safetensors file has no network: nothing reads it, whatever it holds, so that nothing can be done to a reader."""
    (tmp_path / "modelmill.toml").write_text("")
    pl.DataFrame({"a": [1.0, 2.0], "y": [1.0, 2.0]}).write_csv(tmp_path / "rows.csv")
    for name, content, size in weights():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        if size:
            with file.open("ab") as some:
                some.truncate(size)  # it takes no room
        file.chmod(0)
        request = AdoptRequest(source=str(file), sample=str(tmp_path / "rows.csv"), target="y")
        with listening() as reached, pytest.raises(AdoptionFailed, match="weights without the network") as caught:
            adopt(load_settings(tmp_path), request)
        assert ".onnx" in caught.value.parts["next"]
        assert not [event for event in reached if "safetensors" in event]
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix != ".safetensors") == [".csv", ".toml"]
