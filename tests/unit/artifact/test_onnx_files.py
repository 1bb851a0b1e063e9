"""Finished models in ONNX's own form: what they answer as graphs of a node, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from modelmill.artifact import onnx_files
from modelmill.artifact.converting import convert
from modelmill.artifact.graph import decode
from modelmill.artifact.onnx_files import answers_of_file, open_onnx
from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import unpickle
from modelmill.artifact.unpackable import Unpackable
from modelmill.errors import GraphRuntimeMissing, OnnxRefused

X: NDArray[np.float64] = np.random.default_rng(6).normal(size=(80, 4))
Y = X[:, 0] + np.sin(X[:, 1]) + 3
CODES = (X[:, 0] > 0).astype(np.int64) + 2 * (X[:, 1] > 1)
WORDS = np.array(["no", "yes"])[(X[:, 0] > 0).astype(np.int64)]
FLOATS = X[:1].astype(np.float32)
NET = {"hidden_layer_sizes": (8,), "max_iter": 20, "random_state": 0}


def written(folder: Path, proto: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def made(nodes: list[Any], *, tensors: list[Any] = [], answer: Any = None, **more: Any) -> Any:  # noqa: B006 - read alone
    """Return a graph from ``in`` (rows, 4) to ``out``."""
    given = more.pop("given", helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 4]))
    out = answer or helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", more.pop("opset", 18))], **more)


def summed(**more: Any) -> Any:
    return made([helper.make_node("ReduceSum", ["in", "axes"], ["out"])], tensors=[AXES], **more)


AXES = numpy_helper.from_array(np.array([1]), "axes")


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # twenty rounds are too few to converge
        yield


@pytest.mark.parametrize(
    ("model", "target", "given", "single"),
    [
        (MLPRegressor(**NET), Y, FLOATS, False),
        (MLPRegressor(**NET), Y, X[:1], False),
        (KNeighborsRegressor(), Y, X[:1], False),
        (RandomForestRegressor(5, random_state=0), Y, FLOATS, True),
        (RandomForestClassifier(5, random_state=0), CODES, FLOATS, True),
        (MLPClassifier(**NET), WORDS, FLOATS, True),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_file_answers_as_onnx_runtime_does_with_it(
    tmp_path: Path, model: Any, target: NDArray[Any], given: NDArray[Any], single: bool
) -> None:
    path = written(tmp_path, to_onnx(model.fit(X, target), given))
    opened = open_onnx(path)
    assert opened.labels == tuple(map(str, getattr(model, "classes_", ())))
    assert opened.graph.header.single is single
    found = opened.predict_proba(X) if opened.labels else opened.predict(X)
    np.testing.assert_allclose(found, answers_of_file(path, opened, X), rtol=1e-5, atol=1e-6)
    graph, content = convert(opened, X, len(opened.labels), Programs())
    assert graph.agrees(X, found)
    alone = [decode(content).answer(row[None])[0] for row in X]
    np.testing.assert_allclose(alone, found, rtol=1e-12 if single else 1e-10)  # whatever rows are beside it
    again = unpickle(pickle.dumps(opened))
    np.testing.assert_array_equal(again.predict(X), opened.predict(X))
    assert again.labels == opened.labels


def test_constants_of_every_kind_are_widened(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["third"], value_float=1 / 3),
        helper.make_node("Constant", [], ["halves"], value_floats=[0.5] * 4),
        helper.make_node("Cast", ["halves"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["in", "cast"], ["a"]),
        helper.make_node("Mul", ["a", "third"], ["x"]),  # a name that the graph of a node gives to its input
        helper.make_node("ReduceSum", ["x", "axes"], ["out"], keepdims=0),
    ]
    opened = open_onnx(written(tmp_path, made(nodes, tensors=[AXES])))
    assert not opened.graph.header.single
    np.testing.assert_allclose(opened.predict(X), X.sum(axis=1) / 2 * np.float32(1 / 3), rtol=1e-10)


def test_how_many_features_there_are_may_be_said_by_who_opens(tmp_path: Path) -> None:
    free = summed(given=helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", None]))
    np.testing.assert_allclose(open_onnx(written(tmp_path, free), 4).predict(X), X.sum(axis=1))
    with pytest.raises(OnnxRefused, match="how many features"):
        open_onnx(tmp_path / "model.onnx")
    with pytest.raises(OnnxRefused, match="takes 4 features, and is given 3"):
        open_onnx(written(tmp_path, summed()), 3)


def test_a_file_is_no_plain_array_and_refuses_gaps(tmp_path: Path) -> None:
    opened = open_onnx(written(tmp_path, summed()))
    with pytest.raises(Unpackable, match="an ONNX file"):
        pack(opened, 4, 0, Programs())
    with pytest.raises(ValueError, match="NaN"):
        opened.predict(np.full((1, 4), np.nan))
    assert not hasattr(opened, "predict_proba")


def test_without_onnx_runtime_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "find_spec", lambda name: None)
    with pytest.raises(GraphRuntimeMissing):
        open_onnx(written(tmp_path, summed()))


def _external() -> Any:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def _looping() -> list[Any]:
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    kept = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    step = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "b", [step, go], [kept])
    return [helper.make_node("Loop", ["", "true"], [], body=body), helper.make_node("Identity", ["in"], ["out"])]


def node(kind: str, *given: str, **options: Any) -> Any:
    return helper.make_node(kind, given, ["out"], **options)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no ONNX file"),
        (b"onnx", "no ONNX file"),
        (pickle.dumps([1, 2]), "a pickle"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (summed().SerializeToString()[:-30], "no ONNX file|does not take it|cannot"),
        (summed(opset=3), "opset"),
        (summed(opset=99), "opset"),
        (made([node("Add", "in", "w")], tensors=[_external()]), "another file"),
        (made([node("Constant", value=_external())]), "another file"),
        (made([node("FusedGemm", "in", domain="com.microsoft")]), "operations of its own"),
        (made([node("RandomNormalLike", "in")]), "draws by chance"),
        (made(_looping()), "may never end"),
        (made([node("NoSuchOperation", "in")]), "does not take it"),
        (made([node("Identity", "in")]), "no probabilities"),
        (made([node("Transpose", "in")]), "no shape that is known"),
        (summed(given=helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 4])), "fixed number of rows"),
        (summed(given=helper.make_tensor_value_info("in", TensorProto.FLOAT16, ["n", 4])), "no table of numbers"),
        (summed(given=helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 4, 2])), "no table of numbers"),
        (summed(given=helper.make_tensor_value_info("axes", TensorProto.INT64, [1])), "several inputs"),
        (summed(answer=helper.make_tensor_value_info("out", TensorProto.INT64, None)), "which output answers"),
        (summed(functions=[helper.make_function("own", "f", [], [], [], [])]), "functions of its own"),
    ],
)
def test_what_no_graph_of_a_node_may_do_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(OnnxRefused, match=said):
        open_onnx(written(tmp_path, content))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(1 << 40)  # sparse: it takes no room
    with pytest.raises(OnnxRefused, match="too large"):
        open_onnx(tmp_path / "model.onnx")


def test_labels_in_the_file_are_told_as_they_are(tmp_path: Path) -> None:
    proto = to_onnx(RandomForestClassifier(3, random_state=0).fit(X, WORDS), FLOATS)
    for part in (one for each in proto.graph.node for one in each.attribute if one.name == "classlabels_strings"):
        part.strings[:] = [b'no"""', b"yes"]
    assert open_onnx(written(tmp_path, proto)).labels == ('no"""', "yes")
