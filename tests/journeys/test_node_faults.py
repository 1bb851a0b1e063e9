"""A node under faults, in short: other clients' answers keep coming, and are right. `make campaign` does it at length."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmill.serving.control import find_node

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import faults  # type: ignore[import-not-found]
import foreign_clients  # type: ignore[import-not-found]

Command = Callable[..., Any]
FEW_FILES = 256
GREW_MB = 400
"""What bodies that are arriving may take, and what Python does not give back at once."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, modelmill: Command) -> Iterator[Path]:
    """Return a project with a node of two workers, started where a process is allowed few files."""
    folder = tmp_path_factory.mktemp("faults") / "stores"
    foreign_clients.write_project(folder)
    assert modelmill("up", "--detach", "--port", "0", cwd=folder).code == 0
    assert modelmill("down", cwd=folder).code == 0
    serve = f"ulimit -S -n {FEW_FILES}; exec {sys.executable} -m modelmill serve --detach --port 0 --workers 2"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MODELMILL_")}
    subprocess.run(["bash", "-c", serve], cwd=folder, env=environ, check=True, capture_output=True)
    yield folder
    modelmill("down", cwd=folder)
    assert find_node(folder / ".modelmill") is None


def test_an_upgrade_with_a_new_release_fails_no_request(project: Path) -> None:
    found = faults.upgrade(project, 1)
    assert found["failed"] == 0, found
    assert len(found["versions"]) == 2


def test_a_damaged_byte_of_a_new_pack_and_the_old_version_serves_on(project: Path) -> None:
    found = faults.damage(project, 1, random.Random(1))
    assert found["failed"] == 0, found


def test_nobody_waits_for_clients_that_do_what_no_client_should(project: Path) -> None:
    found = faults.be_rude(project, 1, slow=3 * FEW_FILES)
    assert found["told otherwise"] == []
    assert found["failed"] == 0, found
    assert found["grew mb"] < GREW_MB
