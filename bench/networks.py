"""What a network of torch costs as a graph: ``python bench/networks.py --models 300``, with torch installed.

Networks of three layers are fitted by nobody: their weights are drawn. Timed are the export of the first one in this process,
the export of an architecture after that, each of the others - weights put into its place, optimised, opened - and one row asked
of the graph, and of the network in float64 as its Python child would ask it, both without a server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from modelmill.artifact import networks
from modelmill.artifact.converting import convert
from modelmill.artifact.graph import Graph
from modelmill.artifact.saved import Programs

OUT = Path(__file__).parent / "out" / "networks"
FEATURES = 10
X = np.random.default_rng(0).normal(size=(40, FEATURES))


def network() -> Any:
    """Return a network of 897 weights and biases, as the build asks it."""
    nn = import_module("torch").nn
    layers = nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)
    return networks.as_model(nn.Sequential(*layers), 0)


def converted(model: Any) -> tuple[float, Graph, int]:
    """Return the seconds that a conversion took, the graph and its bytes; it gives the network's answers."""
    began = time.perf_counter()
    graph, content = convert(model, X, 0, Programs())
    took = time.perf_counter() - began
    assert graph.agrees(X, model.predict(X))
    return took, graph, len(content)


def asked(answer: Callable[[Any], Any], times: int = 3000) -> float:
    """Return the median seconds of one row."""
    row, found = X[:1], []
    for _ in range(times):
        began = time.perf_counter()
        answer(row)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    """Measure, print and keep."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--models", type=int, default=300)
    many = arguments.parse_args().models
    warnings.simplefilter("ignore")
    first, _, size = converted(network())
    others = [converted(network())[0] for _ in range(many)]
    networks.forget_architectures()
    again, graph, _ = converted(model := network())
    figures = {
        "first_export_ms": first * 1e3,
        "export_ms": again * 1e3,
        "each_other_ms": statistics.median(others) * 1e3,
        "bytes": size,
        "graph_row_us": asked(graph.one) * 1e6,
        "network_row_us": asked(model.predict) * 1e6,
        "models": many,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "onnxscript", "onnxruntime")},
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "networks.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


main()
