"""Finished models in ONNX's own form: looked through, and made the graph that a node opens.

Such a file is a program, if a small one. What it may do is bounded here before ONNX Runtime sees it: no other file, no
operation but the standard's, no loop without an end, nothing drawn by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.graph import INPUT, OUTPUT, Graph, GraphHeader, open_session
from modelmill.artifact.optimising import MISSING, MOST_BYTES, Unconvertible, optimise
from modelmill.artifact.saved import Classes, Floats, Programs
from modelmill.errors import GraphRuntimeMissing, OnnxRefused

_OLDEST_OPSET = 7
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_REFUSED = {
    "Loop": "may never end",
    **dict.fromkeys(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"), "draws by chance"),
    **dict.fromkeys(("Multinomial", "Bernoulli"), "draws by chance"),
}
_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_OTHERS = {b"\x80": "a pickle", b"PK": "a zip archive, as torch saves its pickles", b"\x89HDF": "an HDF5 file"}
_PROBES = 3


class OnnxModel:
    """A finished graph as a fitted estimator. Its answers are those that a node gives: it is the same graph."""

    def __init__(self, graph: Graph, ort: bytes, labels: tuple[str, ...]) -> None:
        """Take a graph that is open, its bytes in ONNX Runtime's format, and what its classes are called."""
        self.graph, self.ort, self.labels = graph, ort, labels

    def __getattr__(self, name: str) -> Any:
        # A regression has no such attributes: whoever looks for them finds out what the model is.
        if name in {"predict_proba", "classes_"}:
            return getattr(self.graph, name)
        raise AttributeError(name)

    def predict(self, x: Floats) -> NDArray[Any]:
        """Return (rows,) numbers, or codes of the likeliest classes; raises ValueError where ``x`` is refused."""
        return self.graph.predict(x)

    def __getstate__(self) -> dict[str, Any]:
        return {"header": self.graph.header, "ort": self.ort, "labels": self.labels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.graph, self.ort, self.labels = Graph(state["header"]), state["ort"], state["labels"]
        self.graph.session = open_session(self.graph.header, self.ort)


def open_onnx(path: Path | str, features: int | None = None) -> OnnxModel:
    """Return the model in an ONNX file, with `predict`, and `predict_proba` where it gives probabilities.

    The graph takes one tensor of (rows, features), float32 or float64, and gives a number for each row, or a probability of
    each class. `features` is how many there are, where the file does not say. What is float32 is computed in
    float64, as long as ONNX Runtime can: its answers then do not depend on how many rows are asked together.

    Raises `OnnxRefused` for any other file, `GraphRuntimeMissing` where ONNX Runtime is not installed.
    """
    if any(find_spec(name) is None for name in ("onnx", "onnxruntime")):
        raise GraphRuntimeMissing(MISSING.partition(":")[0], next="pip install 'modelmill[onnx]'")
    path = Path(path)
    if (size := path.stat().st_size) > MOST_BYTES:
        raise _refused("it is too large", f"{size:,} bytes", f"at most {MOST_BYTES >> 20} MB")
    proto = _parsed(path.read_bytes())
    for graph in _graphs(proto.graph):
        _check(graph)
    labels = _labels(proto)
    _cut_to_one_answer(proto.graph)
    _renamed(proto.graph)
    features = _fixed(proto.graph.input[0], features)
    return _opened(proto, features, labels)


def answers_of_file(path: Path | str, model: OnnxModel, x: Floats) -> Floats:
    """Return what ONNX Runtime answers with a file as it is, which `open_onnx` has taken: (rows,), or (rows, classes)."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    (answer,) = (one for one in session.get_outputs() if one.type in kinds or one.type.startswith("seq(map"))
    (found,) = session.run([answer.name], {given.name: x.astype(kinds[given.type])})
    if isinstance(found, list):  # a map for each row
        found = [[row[name] for label in model.labels for name in row if str(name) == label] for row in found]
    numbers: Floats = np.asarray(found, dtype=np.float64)
    return numbers.reshape(len(x), -1) if model.labels else numbers.reshape(-1)


def _refused(what: str, got: str = "", expected: str = "") -> OnnxRefused:
    return OnnxRefused(
        f"the ONNX file cannot be taken: {what}",
        got=got[:200],
        expected=expected,
        next="export it anew: one float input (rows, features), one number a row or one probability a class, weights inside",
    )


# ------------------------------------------------------------------ looking through


def _parsed(content: bytes) -> Any:
    """Return what an ONNX file holds; raises `OnnxRefused` for bytes that are none."""
    for first, what in _OTHERS.items():
        if content.startswith(first):
            raise _refused(f"it is {what}")
    onnx = import_module("onnx")
    try:
        proto = onnx.load_from_string(content)
    except Exception as error:  # of protobuf, whose errors have no common class
        raise _refused("it is no ONNX file", f"{type(error).__name__}: {error}") from error
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": math.inf}
    for opset in proto.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        if domain not in newest:
            raise _refused("it has operations of its own", opset.domain, "those of ONNX alone")
        if not domain and not _OLDEST_OPSET <= opset.version <= newest[domain]:
            raise _refused("its opset is not known", str(opset.version), f"{_OLDEST_OPSET} to {newest[domain]}")
    if proto.functions:
        raise _refused("it has functions of its own", proto.functions[0].name)
    if not proto.graph.node:
        raise _refused("it is no ONNX file, or an empty one")
    return proto


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph, and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the numbers that a graph holds, where they may be changed."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors


def _check(graph: Any) -> None:
    if graph.sparse_initializer or any(
        attribute.HasField("sparse_tensor") or attribute.sparse_tensors
        for node in graph.node
        for attribute in node.attribute
    ):
        raise _refused("it has sparse tensors")
    for node in graph.node:
        if node.domain not in _DOMAINS:
            raise _refused("it has operations of its own", f"{node.domain}.{node.op_type}", "those of ONNX alone")
        if node.op_type in _REFUSED:
            raise _refused(f"an operation {_REFUSED[node.op_type]}", node.op_type)
    external = import_module("onnx").TensorProto.EXTERNAL
    for tensor in _tensors(graph):
        if tensor.data_location == external or tensor.external_data:
            raise _refused("its weights lie in another file", tensor.name, "weights inside")


def _labels(proto: Any) -> tuple[str, ...]:
    """Return what the classes are called, in their order, where the file says so."""
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name in _LABELS and (attribute.strings or attribute.ints):
                return (*(text.decode(errors="replace") for text in attribute.strings), *map(str, attribute.ints))
    return ()


# ------------------------------------------------------------------ one input, one answer


def _cut_to_one_answer(graph: Any) -> None:
    """Leave one input and the output that answers; raises `OnnxRefused` where it is not clear which ones."""
    inside = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in inside]
    if len(given) != 1:
        raise _refused("it has several inputs", ", ".join(value.name for value in given), "one of all features")
    maps = {node.output[0]: node for node in graph.node if node.op_type == "ZipMap" and node.input and node.output}
    answers = [value for value in graph.output if value.name in maps or value.type.tensor_type.elem_type in _floats()]
    if len(answers) != 1:
        raise _refused("it is not clear which output answers", ", ".join(value.name for value in graph.output), "one")
    (answer,) = answers
    if answer.name in maps:  # a map for each row: the tensor that it is made of
        node = maps[answer.name]
        graph.node.remove(node)
        answer = import_module("onnx").helper.make_tensor_value_info(node.input[0], _floats()[0], None)
    else:
        answer.type.tensor_type.ClearField("shape")
    kept_input, kept_output = type(given[0])(), type(answer)()
    kept_input.CopyFrom(given[0])
    kept_output.CopyFrom(answer)
    for field, kept in ((graph.input, kept_input), (graph.output, kept_output)):
        del field[:]
        field.append(kept)
    del graph.value_info[:]


def _floats() -> tuple[int, int]:
    kinds = import_module("onnx").TensorProto
    return kinds.FLOAT, kinds.DOUBLE


def _renamed(graph: Any) -> None:
    """Call the input and the output as every graph of a node calls them, and what is between by other names."""
    outside = {graph.input[0].name: INPUT, graph.output[0].name: OUTPUT}
    if len(outside) < 2:
        raise _refused("its answer is what it is given")

    def named(name: str) -> str:
        return outside.get(name, f"of.{name}") if name else ""  # no name is a part that is left out

    for one in _graphs(graph):
        for value in (*one.input, *one.output, *one.initializer, *one.value_info):
            value.name = named(value.name)
        for node in one.node:
            node.input[:] = [named(name) for name in node.input]
            node.output[:] = [named(name) for name in node.output]


def _fixed(value: Any, features: int | None) -> int:
    """Return how many features there are, said by the file or by whoever opens it; from here on the graph says it."""
    tensor = value.type.tensor_type
    if tensor.elem_type not in _floats() or len(tensor.shape.dim) != 2:
        raise _refused("its input is no table of numbers", str(value.type)[:120], "float (rows, features)")
    rows, width = tensor.shape.dim
    if rows.HasField("dim_value"):
        raise _refused(
            "it takes a fixed number of rows", str(rows.dim_value), "rows of any number: a dynamic first axis"
        )
    said = width.dim_value if width.HasField("dim_value") else features
    if said is None or said < 1:
        raise _refused("it does not say how many features it takes")
    if features not in (None, said):
        raise _refused(f"it takes {said} features, and is given {features}")
    width.dim_value = said
    return said


# ------------------------------------------------------------------ the graph of a node


def _opened(proto: Any, features: int, labels: tuple[str, ...]) -> OnnxModel:
    single = proto.graph.input[0].type.tensor_type.elem_type == _floats()[0]
    standard = all(node.domain != "ai.onnx.ml" for node in proto.graph.node)  # the others compute in float32 alone
    for form in [_in_float64(proto), proto] if single and standard else [proto]:
        is_single = single and form is proto
        try:
            ort = optimise(form.SerializeToString(deterministic=True))
        except Unconvertible as error:
            reason = error
            continue
        if len(ort) > MOST_BYTES:
            raise _refused("its constants take too much", f"{len(ort):,} bytes", f"at most {MOST_BYTES >> 20} MB")
        graph = Graph(_header(features, None, single=is_single))
        graph.session = open_session(graph.header, ort)
        classes = _classes_in(graph, features)
        if labels and classes and len(labels) != classes:
            raise _refused("it has more or fewer classes than answers", ", ".join(labels[:8]), f"{classes} classes")
        if classes:
            session, graph = graph.session, Graph(_header(features, classes, single=is_single))
            graph.session = session
        return OnnxModel(graph, ort, (labels or tuple(map(str, range(classes)))) if classes else ())
    raise _refused("ONNX Runtime does not take it", str(reason)) from reason


def _header(features: int, classes: int | None, *, single: bool) -> GraphHeader:
    return GraphHeader(
        features=features,
        classes=Classes(classes, tuple(range(classes))) if classes else None,
        programs=Programs(),
        single=single,
        made_by=f"onnxruntime {version('onnxruntime')}",
    )


def _classes_in(graph: Graph, features: int) -> int:
    """Return of how many classes a graph gives probabilities; 0 where it gives a number for each row."""
    try:
        (found,) = graph.session.run([OUTPUT], {INPUT: np.zeros((_PROBES, features), dtype=graph.dtype)})
    except Exception as error:  # its errors have no common class
        raise _refused("ONNX Runtime cannot answer with it", str(error)) from error
    found = np.asarray(found)
    if found.size == _PROBES:
        return 0
    if found.ndim != 2 or len(found) != _PROBES or found.shape[1] < 2:
        raise _refused(
            "its answers have no shape that is known", str(found.shape), f"({_PROBES},), or a column a class"
        )
    if (found < 0).any() or not np.allclose(found.sum(axis=1), 1, atol=1e-4):
        got = str(found[0].tolist())
        raise _refused("it gives several numbers for a row that are no probabilities", got, "a softmax at its end")
    return int(found.shape[1])


def _in_float64(proto: Any) -> Any:
    """Return a graph of float32 that computes the same in float64."""
    float32, float64 = _floats()
    changed = type(proto)()
    changed.CopyFrom(proto)
    for graph in _graphs(changed.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == float32:
                value.type.tensor_type.elem_type = float64
        for node in graph.node:
            for attribute in node.attribute:
                _widen_attribute(node, attribute)
        for tensor in _tensors(graph):
            if tensor.data_type == float32:
                _widen(tensor)
    return changed


def _widen(tensor: Any) -> None:
    helper = import_module("onnx.numpy_helper")
    try:
        numbers = helper.to_array(tensor).astype(np.float64)
    except ValueError as error:
        raise _refused("a tensor does not hold what it says", tensor.name) from error
    tensor.CopyFrom(helper.from_array(numbers, tensor.name))


def _widen_attribute(node: Any, attribute: Any) -> None:
    """Change what names a type, or holds a constant without being a tensor."""
    float32, float64 = _floats()
    if attribute.name in ("to", "dtype") and attribute.i == float32:
        attribute.i = float64
    if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        numbers = np.asarray(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
        onnx = import_module("onnx")
        attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(numbers)))
