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
from sklearn.linear_model import BayesianRidge

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
_MOST_MEMORY = 4 << 30
X = np.random.default_rng(0).normal(size=(60, 4))


def content() -> bytes:
    return convert(BayesianRidge().fit(X, X[:, 0]), X, 0, Programs())[1]


def _little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def opened(folder: Path) -> tuple[int, list[str]]:
    """Return how a process ended that opened every file of a folder, and what it said of each."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, folder],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_little_memory,
    )
    return done.returncode, done.stdout.splitlines()


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
