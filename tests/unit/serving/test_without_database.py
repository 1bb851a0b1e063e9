"""A node needs what lies on the disk, and nothing else: it starts, and starts again, while the database is away."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from modelmill.names import ModelName
from modelmill.orchestrator.looking import status
from modelmill.release.pointers import Published, publish
from modelmill.requests import StatusRequest
from modelmill.serving.control import describe_node, find_node
from modelmill.settings import load_settings
from modelmill.store.blobs import pointers_of

from .test_python import Released

PATIENCE_S = 60
NOWHERE = "postgresql://mill@127.0.0.1:1/mill"
"""Where a server was, and is none: nothing listens at port 1."""


class Project:
    """A project of which only the disk is left: a released model that a child answers, and no database."""

    def __init__(self, folder: Path) -> None:
        released = Released(folder)
        publish(pointers_of(released.store), Published("dev", 1, {ModelName("sales"): released.pointer}))
        self.root, self.store = folder / "project", released.store
        self.settings(f'store = "../store"\ndatabase = "{NOWHERE}"\n')
        self.commands: list[subprocess.Popen[str]] = []

    def settings(self, text: str) -> None:
        """Write what the project declares."""
        (self.root / "modelmill.toml").write_text(text)

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


def test_no_empty_database_takes_the_place_of_one_that_is_gone(project: Project) -> None:
    project.settings('store = "../store"\n')
    told = status(load_settings(project.root), StatusRequest())
    assert "the database's file is gone" in told.notices[0]
    assert not (project.store / "mill.db").exists()
