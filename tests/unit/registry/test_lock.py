"""The lock: which packages a file needs, exactly, with hashes where a lock file knows them."""

from __future__ import annotations

import sys
import zipfile
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from modelmill.errors import BlobBroken
from modelmill.names import digest_of
from modelmill.registry.host import host_differences, host_facts
from modelmill.registry.lock import (
    Lock,
    Package,
    capture_lock,
    differences_here,
    imported_names,
    lock_differences,
    needed_imports,
    read_lock,
)
from modelmill.registry.wheel import build_wheel
from modelmill.testing.memory import MemoryBlobs

UV_LOCK = """
version = 1
[[package]]
name = "numpy"
version = "{version}"
sdist = {{ url = "https://example.org/numpy.tar.gz", hash = "sha256:aa" }}
wheels = [
  {{ url = "https://example.org/numpy-{version}-py3-none-any.whl", hash = "sha256:bb" }},
  {{ url = "https://example.org/numpy-{version}-cp27-cp27m-win32.whl", hash = "sha256:cc" }},
]
"""
PYLOCK = """
lock-version = "1.0"
[[packages]]
name = "numpy"
version = "{version}"
wheels = [{{ name = "numpy-{version}-py3-none-any.whl", hashes = {{ sha256 = "dd" }} }}]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(
        "import numpy as np\nfrom . import near\n\ndef train(x):\n    import lightgbm.basic\n"
    )
    return tmp_path


def captured(root: Path, blobs: MemoryBlobs | None = None) -> Lock:
    blobs = blobs or MemoryBlobs()
    return read_lock(blobs, capture_lock(blobs, root, [root / "model.py"], root / "cache"))


def test_imports_inside_of_functions_count_and_own_modules_do_not(root: Path) -> None:
    assert imported_names([root / "model.py"]) == {"numpy", "lightgbm"}


def test_a_lock_holds_what_is_needed_and_nothing_else(root: Path) -> None:
    lock = captured(root)
    names = {package.name: package.version for package in lock.packages}
    assert names["numpy"] == version("numpy")
    assert {"lightgbm", "polars", "msgspec", "scipy"} <= names.keys()
    assert not {"modelmill", "ruff", "pytest", "hypothesis"} & names.keys()
    assert lock.python == ".".join(map(str, sys.version_info[:3]))


def test_a_lock_says_what_the_code_needs_and_what_is_another_here(root: Path) -> None:
    lock = captured(root)
    assert {"lightgbm", "numpy", "scipy"} <= set(lock.needed or ())
    assert not {"uvicorn", "polars", "modelmill"} & set(lock.needed or ())
    assert differences_here(lock) == []
    others = tuple(Package(one.name, "0.0.1") if one.name != "numpy" else one for one in lock.packages)
    changed = msgspec.structs.replace(lock, packages=others)
    assert f"lightgbm 0.0.1 / {version('lightgbm')}" in differences_here(changed)
    assert not any(text.startswith(("numpy ", "uvicorn ")) for text in differences_here(changed))
    before_it_was_asked = msgspec.structs.replace(changed, needed=msgspec.UNSET)
    assert differences_here(before_it_was_asked) == []


def test_the_same_packages_are_the_same_lock(root: Path) -> None:
    blobs, others = MemoryBlobs(), MemoryBlobs()
    first = capture_lock(blobs, root, [root / "model.py"], root / "cache")
    again = capture_lock(blobs, root, [root / "model.py"], root / "cache")
    elsewhere = capture_lock(others, root, [root / "model.py"], root / "other-cache")
    assert first == again == elsewhere
    (root / "model.py").write_text("import numpy\n")
    assert capture_lock(blobs, root, [root / "model.py"], root / "cache") != first


def test_a_remembered_lock_whose_bytes_are_gone_is_made_again(root: Path) -> None:
    blobs = MemoryBlobs()
    digest = capture_lock(blobs, root, [root / "model.py"], root / "cache")
    blobs.delete([read_lock(blobs, digest).wheel])
    assert capture_lock(blobs, root, [root / "model.py"], root / "cache") == digest
    assert blobs.get(read_lock(blobs, digest).wheel)


@pytest.mark.parametrize(
    ("name", "text", "hashes"),
    [
        ("uv.lock", UV_LOCK, ("sha256:aa", "sha256:bb")),
        ("pylock.toml", PYLOCK, ("sha256:dd",)),
        ("uv.lock", UV_LOCK.replace("{version}", "0.0.1"), ()),
        ("uv.lock", "[[[", ()),
    ],
)
def test_hashes_come_from_the_projects_lock_file(root: Path, name: str, text: str, hashes: tuple[str, ...]) -> None:
    (root / name).write_text(text.format(version=version("numpy")) if "{{" in text else text)
    lock = captured(root)
    (numpy,) = (package for package in lock.packages if package.name == "numpy")
    assert (lock.origin, numpy.hashes) == (name, hashes)
    assert numpy.requirement == " ".join([f"numpy=={version('numpy')}", *(f"--hash={one}" for one in hashes)])


def test_bytes_that_are_no_lock(root: Path) -> None:
    blobs = MemoryBlobs()
    (digest,) = blobs.put([b'{"python": "3.11.7", "distributions": {}}'])
    with pytest.raises(BlobBroken, match="cannot be read"):
        read_lock(blobs, digest)


def test_what_differs_between_locks_is_named(root: Path) -> None:
    here = captured(root)
    then = msgspec.structs.replace(
        here, python="3.11.0", packages=(*here.packages[1:], Package("zz", "1")), wheel=digest_of(b"other")
    )
    found = lock_differences(then, here)
    assert found[0] == f"python 3.11.0 / {here.python}"
    assert f"{here.packages[0].name} absent / {here.packages[0].version}" in found
    assert "zz 1 / absent" in found
    assert found[-1].startswith("modelmill ")
    assert lock_differences(here, here) == []


def test_modelmill_is_a_wheel_of_the_same_bytes_each_time() -> None:
    name, content = build_wheel()
    assert (name, digest_of(content)) == (build_wheel()[0], digest_of(build_wheel()[1]))
    with zipfile.ZipFile(BytesIO(content)) as archive:
        names = set(archive.namelist())
        record = archive.read(f"modelmill-{version('modelmill')}.dist-info/RECORD").decode()
    assert {"modelmill/__init__.py", "modelmill/cli/template/sample/flights.parquet"} <= names
    assert {line.split(",")[0] for line in record.splitlines()} == names
    assert not any("__pycache__" in name for name in names)


def test_a_machine_differs_only_in_what_may_change_a_number() -> None:
    here = host_facts()
    assert host_differences(here, here) == []
    other = here | {"BLAS kernel": "openblas of another", "features": "avx sse9", "locale": "tlh", "user": "somebody"}
    found = host_differences(other, here)
    assert [line.partition(" ")[0] for line in found] == ["features", "BLAS"]
    assert found[1] == f"BLAS kernel openblas of another / {here['BLAS kernel']}"
    assert found[0].startswith("features sse9 /")


def test_what_writes_graphs_is_part_of_a_lock_where_its_library_is_used(tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text("from sklearn.linear_model import Ridge\n")
    (tmp_path / "other.py").write_text("import numpy\n")
    (tmp_path / "nets.py").write_text("import torch\n")
    assert {"onnxruntime", "skl2onnx"} <= needed_imports([tmp_path / "uses.py"])
    assert needed_imports([tmp_path / "nets.py"]) == {"torch", "onnxruntime", "onnx", "onnxscript"}
    assert needed_imports([tmp_path / "other.py"]) == {"numpy"}
    assert needed_imports([tmp_path / "other.py", tmp_path / "net.onnx"]) == {"numpy", "onnxruntime", "onnx"}
