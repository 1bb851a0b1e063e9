"""Which interpreter answers for which version: the node's own packages, an environment, or nobody yet."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from modelmill.errors import EnvironmentMissing, EnvironmentRefused, ProtocolUnknown
from modelmill.names import Digest, ModelName
from modelmill.orchestrator.preparing import needed_environments, prepare_environments, prepare_published
from modelmill.outcomes import no_progress
from modelmill.registry.environment import environments_in
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.registry.lock import Lock, Package
from modelmill.release.pointers import Pointer, Published
from modelmill.serving.applied import apply
from modelmill.serving.frames import PROTOCOL
from modelmill.serving.interpreter import interpreter_of
from modelmill.serving.python import Place, PythonRuntime
from modelmill.store.blobs import Blobs, blobs_of

from .test_python import SPEC, Released

HERE = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("children"))


def lock_of(blobs: Blobs, python: str = HERE, **packages: str) -> Digest:
    """Keep a lock whose code needs these packages."""
    named = tuple(Package(name.replace("_", "-"), version) for name, version in packages.items())
    (wheel,) = blobs.put([b"no wheel"])
    lock = Lock(
        python=python,
        implementation=sys.implementation.name,
        packages=(*named, Package("uvicorn", "0.0.1")),
        wheel=wheel,
        wheel_name="modelmill-0-py3-none-any.whl",
        needed=tuple(package.name for package in named),
    )
    return blobs.put([msgspec.json.encode(lock)])[0]


def fleet_of(lock: Digest) -> FleetMap:
    header = Header(
        model=ModelName("m"), spec=SPEC, by=("store",), task="regression", code=lock, entry=("m.py", "m"), lock=lock
    )
    return FleetMap.build(header, [Entry(("A",), 1, "pickle", "python", lock, 0, 1, lock)])


def test_the_same_packages_are_answered_by_the_node_itself(tmp_path: Path) -> None:
    blobs = blobs_of(tmp_path)
    lock = lock_of(blobs, numpy=np.__version__)  # that its uvicorn was another one is nothing to a fitted object
    assert interpreter_of(tmp_path, blobs, lock).python == Path(sys.executable)
    assert interpreter_of(tmp_path, blobs, None).python == Path(sys.executable)
    assert list(needed_environments(tmp_path, blobs, fleet_of(lock))) == []


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"numpy": "0.0.1"}, f"numpy 0.0.1 / {np.__version__}"),
        ({"numpy": np.__version__, "no_such": "1"}, "no-such 1 / absent"),
        ({"numpy": np.__version__, "python": "3.2.1"}, "python 3.2 / "),
    ],
    ids=["another version", "one that is not here", "another Python"],
)
def test_a_node_installs_nothing_and_says_what_to_do(tmp_path: Path, recorded: dict[str, str], told: str) -> None:
    blobs = blobs_of(tmp_path)
    lock = lock_of(blobs, **recorded)
    with pytest.raises(EnvironmentMissing) as caught:
        interpreter_of(tmp_path, blobs, lock)
    assert told in caught.value.parts["got"]
    assert caught.value.parts["next"].startswith("modelmill serve --restart")
    (needed,) = needed_environments(tmp_path, blobs, fleet_of(lock))
    assert "will be made" in needed.text
    assert told in needed.text


def test_what_cannot_be_made_is_refused_before_anything_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_NO_INDEX", "1")
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "index"))
    blobs = blobs_of(tmp_path)
    fleet = fleet_of(lock_of(blobs, numpy="0.0.1"))
    with pytest.raises(EnvironmentRefused) as caught:
        prepare_environments(tmp_path, blobs, fleet, no_progress)
    assert "numpy 0.0.1 / " in caught.value.parts["got"]
    assert caught.value.parts["safe"] == "nothing was moved"
    assert [path.name for path in environments_in(tmp_path).iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("spoken", [0, PROTOCOL + 1], ids=["older", "newer"])
def test_a_child_that_speaks_otherwise_is_told_apart_in_its_first_frame(
    released: Released, tmp_path: Path, spoken: int
) -> None:
    other = tmp_path / "python"
    change = f"from modelmill.serving import child; child.PROTOCOL = {spoken}; child.main()"
    other.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{change}' \"$4\"\n")
    other.chmod(0o700)

    async def start() -> None:
        runtime = PythonRuntime(released.store, released.pointer, released.code, place=Place(other))
        with pytest.raises(ProtocolUnknown, match="cannot speak") as caught:
            await runtime.start()
        assert caught.value.parts["next"].startswith("modelmill train --rebuild")
        assert runtime.pid is None
        await runtime.close()

    asyncio.run(start())


def test_a_node_tells_what_is_missing_and_serve_goes_on_without_it(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release of packages that are nowhere: the node names the command, and `serve` tells why it could not help."""
    blobs = blobs_of(released.store)
    header = msgspec.structs.replace(released.map.header, lock=lock_of(blobs, numpy="0.0.1"))
    signed = sign(released.key, FleetMap.build(header, list(released.map)))
    pointer = Pointer(1, blobs.put([signed.content])[0], signed.signature)
    published = Published("dev", 1, {ModelName("sales"): pointer})
    applied = asyncio.run(apply(released.store, published, None))
    assert "next: modelmill serve --restart" in applied.broken[ModelName("sales")]
    monkeypatch.setenv("UV_OFFLINE", "1")
    told: list[str] = []
    assert prepare_published(released.store, published, lambda _, facts: told.append(facts["text"])) == 0
    assert "making the environment" in told[0]
    assert "MM429" in told[1]
