"""The journeys of a file stay in one process: they share a project, and each goes on where the one before ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import os
import pathlib

import pytest

pytestmark = pytest.mark.xdist_group("these")

@pytest.mark.parametrize("number", range(8))
def test_where_it_runs(number):
    with pathlib.Path("where").open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


def test_a_group_is_not_torn_apart(tmp_path: Path) -> None:
    (tmp_path / "test_these.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "test_those.py").write_text(TESTS.replace("these", "those"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    for file in ("test_these.py", "test_those.py"):
        (tmp_path / "where").unlink(missing_ok=True)
        words = [*command, "--numprocesses", "2", "--dist", "loadgroup", str(tmp_path / file)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = (tmp_path / "where").read_text().split()
        assert (len(found), len(set(found))) == (8, 1)
