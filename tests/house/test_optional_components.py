"""A missing system component is counted, and where it is required its absence is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_of_something_else(number):
    pytest.skip("optional component missing: a-server")

def test_that_passes():
    pass

def test_that_is_skipped_for_another_reason():
    pytest.skip("not on this planet")
"""


def run_tests(folder: Path, required: str) -> subprocess.CompletedProcess[str]:
    """Run the tests above with this suite's own conftest."""
    shutil.copy(CONFTEST, folder)
    (folder / "test_few.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    environ = {**os.environ, "MODELMILL_REQUIRE": required}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_a_missing_component_is_counted_and_is_no_failure(tmp_path: Path) -> None:
    done = run_tests(tmp_path, "")
    assert done.returncode == 0, done.stdout
    assert "optional component missing: a-server (2 tests skipped)" in done.stdout
    assert "planet (" not in done.stdout


@pytest.mark.parametrize("required", ["a-server", "postgresql, a-server"])
def test_a_missing_component_that_is_required_fails_the_run(tmp_path: Path, required: str) -> None:
    done = run_tests(tmp_path, required)
    assert done.returncode == 1
    assert "required, but missing: a-server" in done.stdout


def test_requiring_what_nothing_was_skipped_for_is_no_failure(tmp_path: Path) -> None:
    assert run_tests(tmp_path, "postgresql").returncode == 0


def test_ci_requires_every_component_that_a_test_may_lack() -> None:
    root = CONFTEST.parents[1]
    required = (root / ".ci" / "run").read_text(encoding="utf-8").partition("MODELMILL_REQUIRE=")[2].split()[0]
    sources = [p.read_text(encoding="utf-8") for p in (root / "tests").rglob("*.py") if p.parent.name != "house"]
    marker = "optional component missing: "
    named = {
        text.partition(marker)[2].partition('"')[0]
        for source in sources
        for text in source.splitlines()
        if marker in text
    }
    assert named - {""} == set(required.split(","))
