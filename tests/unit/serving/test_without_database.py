"""A node needs what lies on the disk, and nothing else: it starts, and starts again, while the database is away."""

from __future__ import annotations

import http.client
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import pytest

from modelmill.errors import EnvironmentRefused
from modelmill.names import Digest, ModelName
from modelmill.orchestrator.looking import status
from modelmill.orchestrator.returning import rollback
from modelmill.registry.environment import environments_in, is_used
from modelmill.registry.fleet import FleetMap, sign
from modelmill.registry.lock import Lock, Package
from modelmill.registry.wheel import build_wheel
from modelmill.release.pointers import Pointer, Published, publish
from modelmill.requests import RollbackRequest, StatusRequest
from modelmill.serving.control import describe_node, find_node
from modelmill.serving.processes import descendants, list_processes
from modelmill.settings import load_settings
from modelmill.store.blobs import blobs_of, pointers_of

from .test_python import Released

PATIENCE_S = 60
NOWHERE = "postgresql://mill@127.0.0.1:1/mill"
"""Where a server was, and is none: nothing listens at port 1."""


class Project:
    """A project of which only the disk is left: a released model that a child answers, and no database."""

    def __init__(self, folder: Path) -> None:
        self.released = released = Released(folder)
        self.publish(1, released.pointer)
        self.root, self.store = folder / "project", released.store
        self.settings(f'store = "../store"\ndatabase = "{NOWHERE}"\n')
        self.commands: list[subprocess.Popen[str]] = []

    def settings(self, text: str) -> None:
        """Write what the project declares."""
        (self.root / "modelmill.toml").write_text(text)

    def publish(self, revision: int, pointer: Pointer) -> None:
        """Have a release served."""
        publish(pointers_of(self.released.store), Published("dev", revision, {ModelName("sales"): pointer}))

    def serve(self) -> subprocess.Popen[str]:
        """Have a node served as a supervisor does: by a command that stays; return once it answers."""
        command = subprocess.Popen(
            [sys.executable, "-m", "modelmill", "serve", "--port", "0"],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.commands.append(command)
        assert command.stdout is not None
        said = [command.stdout.readline()]
        while said[-1] and "Ctrl-C" not in said[-1]:
            said.append(command.stdout.readline())
        assert said[-1], command.communicate()
        return command

    def ask(self) -> Any:
        """Return what the model answers, once somebody does."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            node = find_node(self.store)
            with suppress(OSError, http.client.HTTPException):
                assert node is not None
                with closing(http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE_S)) as link:
                    link.request("POST", "/sales", json.dumps({"store": "A", "hour": 2}))
                    return json.load(link.getresponse())["y"]
            time.sleep(0.05)
        raise AssertionError("nobody answers")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    for command in project.commands:
        command.send_signal(signal.SIGTERM)
        command.communicate(timeout=PATIENCE_S)


def test_a_node_starts_and_starts_again_from_the_disk(project: Project) -> None:
    command = project.serve()
    assert project.ask() == 20
    node = find_node(project.store)
    assert node is not None
    (worker,) = (describe_node(node) or {})["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    assert project.ask() == 20

    os.kill(node.pid, signal.SIGKILL)
    _, error = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, "nobody had stopped it" in error) == (70, True), error
    project.serve()
    again = find_node(project.store)
    assert again is not None
    assert again.pid != node.pid
    assert project.ask() == 20

    told = status(load_settings(project.root), StatusRequest())
    assert [one.releases for one in told.nodes] == [{"sales": 1}]
    assert "MM502" in told.notices[-1]


def test_a_roll_back_moves_first_and_then_makes_the_environment_that_is_missing(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a database, too; where the environment cannot be made, the node serves on, and another way is told."""
    released, folder = project.released, environments_in(project.store)
    lock = lock_with_a_bridge(released.store)
    header = msgspec.structs.replace(released.map.header, lock=lock)
    signed = sign(released.key, FleetMap.build(header, list(released.map)))
    before = Pointer(1, blobs_of(project.store).put([signed.content])[0], signed.signature)
    now = msgspec.structs.replace(released.pointer, release=2, before=before)
    project.publish(1, now)
    project.serve()
    settings, request = load_settings(project.root), RollbackRequest(what=("dev",))

    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentRefused) as refused:
        rollback(settings, request)
    assert refused.value.parts["safe"].startswith("the pointer is moved")
    assert "--to rN" in refused.value.parts["next"]
    assert project.ask() == 20

    project.publish(3, now)
    write_bridge(tmp_path / "wheels")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    back = rollback(settings, request)
    assert (back.before, back.after, back.confirmed, back.without_database) == (2, 1, 1, True)
    assert project.ask() == 20
    node = find_node(project.store)
    assert node is not None
    every = {one.pid: one for one in list_processes()}
    pythons = {every[pid].words[0] for pid in descendants(every, {node.pid})}
    assert str(folder / lock / "bin" / "python") in pythons
    assert is_used(folder, lock)


def lock_with_a_bridge(store: Path) -> Digest:
    """Keep a lock whose environment holds one small package, which finds all others where this process has them."""
    name, content = build_wheel()
    blobs = blobs_of(store)
    lock = Lock(
        python=platform.python_version(),
        implementation=sys.implementation.name,
        packages=(Package("bridge", "1"),),
        wheel=blobs.put([content])[0],
        wheel_name=name,
        needed=("bridge",),
    )
    return blobs.put([msgspec.json.encode(lock)])[0]


def write_bridge(folder: Path) -> None:
    """Write that package: a path that is looked through behind its own environment's."""
    folder.mkdir()
    with ZipFile(folder / "bridge-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("bridge.pth", sysconfig.get_path("purelib"))
        wheel.writestr("bridge-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: bridge\nVersion: 1\n")
        tags = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("bridge-1.dist-info/WHEEL", tags)
        wheel.writestr("bridge-1.dist-info/RECORD", "")


def test_no_empty_database_takes_the_place_of_one_that_is_gone(project: Project) -> None:
    project.settings('store = "../store"\n')
    told = status(load_settings(project.root), StatusRequest())
    assert "the database's file is gone" in told.notices[0]
    assert not (project.store / "mill.db").exists()
