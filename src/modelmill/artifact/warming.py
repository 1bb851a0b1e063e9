"""Loading the kernels and calling each once, before a process is forked or a request comes."""

from __future__ import annotations

import numpy as np

from modelmill.artifact.columns import Step, as_columns, untouched
from modelmill.artifact.layout import Link, Op
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.trees import Tables, Trees, lay_out


def warm() -> None:
    """Evaluate one small model of each kind; where nothing is cached yet, this compiles for some seconds."""
    x = np.zeros((1, 1))
    columns = as_columns([column.then(Step(Op.ADD, 1.0)) for column in untouched(1)], 1)
    Packed(Linear(np.zeros((1, 1)), np.zeros(1)), 1, columns).answer(x)
    one = np.array([0])
    nodes, roots = lay_out(Tables([1], one, one, np.array([True]), one, np.zeros(1), one))
    for single, sums_single in ((False, False), (True, False), (True, True)):
        Packed(Trees(nodes, roots, np.zeros(1), single=single, sums_single=sums_single), 1).answer(x)
    Packed(Trees(nodes, roots, np.zeros(1), leaves=np.zeros((1, 1)), link=Link.MEAN, single=True), 1).answer(x)
