"""From ONNX's form to ONNX Runtime's own: optimised once, where a model is built."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

MOST_BYTES = 64 << 20
"""A graph that is larger is no small model: a process of its own is a better place for it."""
MISSING = "ONNX Runtime and its converters are not installed: pip install 'modelmill[onnx]'"


class Unconvertible(Exception):
    """The model is not written as a graph; the message says why, and is the same for all models with that reason."""


def optimise(proto: bytes) -> bytes:
    """Return an ONNX graph as ONNX Runtime would optimise it, in its own format; raises `Unconvertible`."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Not all: what is done beyond is for this machine's processor, and the graph may be opened on another.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.ort"
        options.optimized_model_filepath = str(path)
        try:
            runtime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Unconvertible(f"ONNX Runtime does not take its graph: {told(error)}") from error
        return path.read_bytes()


def told(error: Exception) -> str:
    """Return an error without what differs from model to model: reasons are counted."""
    text = str(error).partition("\n")[0]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    kind = text.partition("(node:")[0].partition(" node with name")[0].partition("in node (")[0]
    return f"{type(error).__name__}: {kind}"[:120].rstrip()
