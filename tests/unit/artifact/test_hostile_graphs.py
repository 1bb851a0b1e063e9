"""Hostile bytes in the place of a graph: refused, or the end of the process that opens them, never of another.

A node opens only bytes that this installation signed. These tests are about what stands behind that: each is opened in a
process of its own with little memory, as whatever opens a stranger's file does it.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.linear_model import BayesianRidge
from sklearn.neural_network import MLPRegressor

from modelmill.artifact.converting import convert
from modelmill.artifact.graph import encode, split
from modelmill.artifact.saved import Programs

_OPEN = """
import sys
from pathlib import Path
from modelmill.artifact.graph import decode
from modelmill.errors import BlobBroken
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes())
        print("opened", path.name)
    except BlobBroken as error:
        print("refused", path.name, error.what)
"""
_OPEN_FILES = """
import sys
from pathlib import Path
from modelmill.artifact.onnx_files import open_onnx
from modelmill.errors import OnnxRefused
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_onnx(path)
        print("opened", path.name)
    except OnnxRefused as error:
        print("refused", path.name, error.what)
"""
_MOST_MEMORY = 4 << 30
X = np.random.default_rng(0).normal(size=(60, 4))


def content() -> bytes:
    return convert(BayesianRidge().fit(X, X[:, 0]), X, 0, Programs())[1]


def _little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def opened(folder: Path, code: str = _OPEN) -> tuple[int, list[str]]:
    """Return how a process ended that opened every file of a folder, and what it said of each."""
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_little_memory,
    )
    # ONNX Runtime prints to the standard output, too.
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith(("opened ", "refused "))]


def _onnx_with_external_data(folder: Path) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    (folder.parent / "secret").write_bytes(bytes(64))
    tensor = helper.make_tensor("w", TensorProto.DOUBLE, [8], bytes(64), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["answers"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 8])],
        [helper.make_tensor_value_info("answers", TensorProto.DOUBLE, [None, 8])],
        [tensor],
    )
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def _hostile(folder: Path) -> Iterator[tuple[str, bytes]]:
    good = content()
    header, ort = split(good)
    whole = bytes(ort)
    yield from ((f"cut-{share}", encode(header, whole[: len(whole) * share // 16])) for share in range(16))
    yield "header-huge", good[:8] + b"\xff\xff\xff\x7f" + good[12:]
    yield "header-nested", good[:8] + (1 << 16).to_bytes(4, "little") + b"\x91" * (1 << 16)
    yield "header-no-text", good.replace(header.made_by.encode(), b"\xff" * len(header.made_by.encode()), 1)
    yield "root-beyond", encode(header, b"\xff\xff\xff\x7f" + whole[4:])
    yield "root-itself", encode(header, bytes(4) + whole[4:])
    yield "pickle", b"\x80\x05cposix\nsystem\n(S'touch here'\ntR."
    yield "pickle-within", encode(header, b"\x80\x05cp" + b"ORTM" + b"posix\nsystem\n(S'touch here'\ntR.")
    yield "onnx-with-external-data", encode(header, _onnx_with_external_data(folder))
    yield "nothing", b""


def test_what_is_no_graph_is_refused_and_nobody_ends(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    names = []
    for name, some in _hostile(folder):
        (folder / name).write_bytes(some)
        names.append(name)
    code, told = opened(folder)
    assert code == 0
    assert [line.split()[:2] for line in told] == [["refused", name] for name in sorted(names)]
    assert not Path("here").exists()


@pytest.mark.parametrize("seed", range(2))
def test_bytes_that_were_changed_anywhere_end_at_most_the_process_that_opens_them(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    good = content()
    for place in range(100):
        changed = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(12, len(good))] = draw.randrange(256)
        (tmp_path / f"{place:03d}").write_bytes(changed)
    code, told = opened(tmp_path)
    assert len(told) == 100 if code == 0 else code < 0 or code > 128
    assert any(line.startswith("refused") for line in told)


# ------------------------------------------------------------------ files in ONNX's own form


def _onnx() -> bytes:
    net = MLPRegressor(hidden_layer_sizes=(4,), n_iter_no_change=1, tol=1e9, random_state=0).fit(X, X[:, 0])
    return bytes(to_onnx(net, X[:1].astype(np.float32)).SerializeToString())


def _filled(*shape: int) -> bytes:
    """Return a graph of thirty bytes that asks for so many numbers."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["one"], keepdims=0),
        helper.make_node("Add", ["in", "one"], ["sums"]),
        helper.make_node("ReduceSum", ["sums", "axes"], ["out"]),
    ]
    given = helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.array(shape), "shape"), numpy_helper.from_array(np.array([1]), "axes")]
    graph = helper.make_graph(nodes, "g", [given], [out], tensors)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


def _false_tensor() -> bytes:
    """Return a graph whose weights say that they are many more than they are."""
    import onnx

    proto = onnx.load_from_string(_onnx())
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]
    return bytes(proto.SerializeToString())


def _nested(depth: int) -> bytes:
    """Return a message within messages, as deep as nobody reads: of a graph in an attribute of a node of a graph."""
    content = b""
    for place in range(depth):
        tag = (b"\x0a", b"\x2a", b"\x32")[place % 3]  # node, attribute, graph
        length, size = len(content), b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        content = tag + size + bytes([length]) + content
    return b"\x3a" + b"\xff\xff\xff\xff\x07" + content


def _hostile_files() -> Iterator[tuple[str, bytes]]:
    good = _onnx()
    yield from ((f"cut-{share:02d}", good[: len(good) * share // 16]) for share in range(16))
    yield "pickle", b"\x80\x05cposix\nsystem\n(S'touch here'\ntR."
    yield "pickle-of-old", b"cposix\nsystem\n(S'touch here'\ntR."
    yield "filled", _filled(1 << 20, 1 << 20)
    yield "false-tensor", _false_tensor()
    yield "nested", _nested(3000)


def test_a_hostile_onnx_file_is_refused_and_nobody_ends(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, some in _hostile_files():
        (folder / name).write_bytes(some)
    code, told = opened(folder, _OPEN_FILES)
    assert code == 0
    assert [line.split()[:2] for line in told] == [["refused", path.name] for path in sorted(folder.iterdir())]
    assert not Path("here").exists()


@pytest.mark.parametrize("seed", range(2))
def test_an_onnx_file_changed_anywhere_ends_at_most_its_reader(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    good = _onnx()
    for place in range(100):
        changed = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(good))] = draw.randrange(256)
        (tmp_path / f"{place:03d}").write_bytes(changed)
    code, told = opened(tmp_path, _OPEN_FILES)
    assert len(told) == 100 if code == 0 else code < 0 or code > 128
    assert any(line.startswith("refused") for line in told)
