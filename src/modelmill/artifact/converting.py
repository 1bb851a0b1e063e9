"""Writing a fitted object as a graph of ONNX Runtime, where a converter knows it.

Graphs are written in float64 wherever that can be, so that their answers are the object's own to the tenth digit; whoever
uses them proves it. Optimised here, once: a node that opens thousands of them optimises nothing.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from modelmill.artifact import networks
from modelmill.artifact.agreeing import apart
from modelmill.artifact.graph import INPUT, OUTPUT, Graph, GraphHeader, encode, open_session
from modelmill.artifact.networks import Network
from modelmill.artifact.onnx_files import OnnxModel
from modelmill.artifact.optimising import MISSING, MOST_BYTES, Unconvertible, optimise, told
from modelmill.artifact.saved import Classes, Floats, Programs

_NEEDED = ("onnxruntime", "onnx")
_WRITERS = {"sklearn": "skl2onnx", "torch": "onnxscript", "onnx": "onnx"}
"""What else a library's objects need to be written."""


def convert(fitted: Any, x: Floats, classes: int, programs: Programs) -> tuple[Graph, bytes]:
    """Return a fitted object as a graph, open, that should give its answers, and as bytes; whoever uses it proves it.

    `x` are rows that it was asked, (rows, features); `classes` is 0 for a regression. Raises `Unconvertible`.
    """
    check_convertible(fitted)
    if _takes_gaps(fitted, x):
        raise Unconvertible("it takes missing values, which graphs refuse")
    header = GraphHeader(
        features=x.shape[1],
        classes=_classes_of(fitted, classes),
        programs=programs,
        single=isinstance(fitted, OnnxModel) and fitted.graph.header.single,
        made_by=f"onnxruntime {version('onnxruntime')}",
    )
    with _quiet():
        ort = _ort_of(fitted, header)
    if len(ort) > MOST_BYTES:
        raise Unconvertible(f"a graph of more than {MOST_BYTES >> 20} MB")
    graph = Graph(header)
    graph.session = open_session(header, ort)
    if _library_of(fitted) != "sklearn":  # its own converters see to that
        _check_row_wise(graph, x)
    return graph, encode(header, ort)


def check_convertible(fitted: Any) -> None:
    """Raise `Unconvertible` where no converter knows the object, or the converters are not installed.

    Of an object that no converter knows there is nothing to say: the message is empty.
    """
    library = _library_of(fitted)
    if not library:
        raise Unconvertible("")
    if networks.is_module(fitted):
        raise Unconvertible("the network has a predict() of its own: without one it would be asked in float64")
    if any(find_spec(name) is None for name in (*_NEEDED, _WRITERS[library])):
        raise Unconvertible(MISSING)


def _library_of(fitted: Any) -> str:
    if isinstance(fitted, OnnxModel):
        return "onnx"
    if isinstance(fitted, Network) or networks.is_module(fitted):
        return "torch"
    return "sklearn" if type(fitted).__module__.startswith("sklearn.") else ""


def _check_row_wise(graph: Graph, x: Floats) -> None:
    """Raise `Unconvertible` where a row gets another answer alone than among others: what somebody wrote may do that."""
    together = graph.raw(x)
    for place in {0, len(x) - 1}:
        try:
            alone = graph.raw(x[place : place + 1])
        except Exception as error:  # its errors have no common class
            raise Unconvertible("it cannot answer a row alone") from error
        if not (apart(alone, together)[place] <= graph.tolerance).all():
            raise Unconvertible("its answer to a row depends on the rows beside it")


def _takes_gaps(fitted: Any, x: Floats) -> bool:
    """Return whether the object answers a row with one feature missing. It is asked: of its steps a pipeline says nothing."""
    for place in range(x.shape[1]):
        row = x[:1].copy()
        row[0, place] = np.nan
        with suppress(Exception):  # it refuses the row, by whatever error
            fitted.predict(row)
            return True
    return False


def _classes_of(fitted: Any, count: int) -> Classes | None:
    if not count:
        if hasattr(fitted, "classes_"):
            raise Unconvertible("it is a classifier for a target that is a number")
        return None
    if not hasattr(fitted, "predict_proba"):
        raise Unconvertible("it gives no probabilities")
    seen = np.asarray(fitted.classes_)
    if seen.dtype.kind not in "iu" or not ((seen >= 0) & (seen < count)).all():
        raise Unconvertible("its classes are no codes of the target's")
    return Classes(count, tuple(int(code) for code in seen))


def _ort_of(fitted: Any, header: GraphHeader) -> bytes:
    """Return an object as a graph in ONNX Runtime's format; of a file it is the one that it answers with."""
    if isinstance(fitted, OnnxModel):
        return fitted.ort
    return optimise(_written(fitted, header.features, is_classifier=header.classes is not None))


def _written(fitted: Any, features: int, *, is_classifier: bool) -> bytes:
    """Return an object in ONNX's form, with one input and one output, as its library's converter writes it."""
    try:
        if isinstance(fitted, Network):
            return networks.write(fitted, features)
        return _written_by_skl2onnx(fitted, features, is_classifier=is_classifier)
    except Exception as error:
        raise Unconvertible(f"its converter failed: {told(error)}") from error


def _written_by_skl2onnx(fitted: Any, features: int, *, is_classifier: bool) -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType

    proto = to_onnx(
        fitted,
        name="model",
        initial_types=[(INPUT, DoubleTensorType([None, features]))],
        options={"zipmap": False} if is_classifier else None,
    )
    (output,) = (one for one in proto.graph.output if not is_classifier or one.name == "probabilities")
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [OUTPUT if name == output.name else name for name in names]
    output.name = OUTPUT
    del proto.graph.output[:]
    proto.graph.output.append(output)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' remarks out of the build's output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def arrays_of(ort: bytes | memoryview) -> dict[str, Any]:
    """Return the numbers of a graph by their names: its bytes hold the same ones in an order that differs from run to run."""
    import onnx
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ORT")
    options.add_session_config_entry("session.save_model_format", "ONNX")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        runtime.InferenceSession(bytes(ort), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(path).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for place, node in enumerate(graph.node):  # not by their names, of which some count what was converted before
        values = {part.name: onnx.helper.get_attribute_value(part) for part in node.attribute}
        kept = {name: value for name, value in values.items() if isinstance(value, int | float | list | tuple)}
        found |= {f"{place}.{node.op_type}.{name}": np.asarray(value) for name, value in kept.items()}
    return found
