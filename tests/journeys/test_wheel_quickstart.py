"""What a stranger installs: the built wheel in an empty environment, and the quickstart as it is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(Path(sys.prefix) / "bin" / "uv")


def run(*words: str | Path, **options: str | Path) -> str:
    """Run a program to its end and return what it printed; anything but success fails the test with all of it."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}\n{done.stdout}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that holds the wheel and what it requires, as the lock file has it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, cwd=ROOT)
    locked = folder / "locked.txt"
    run(UV, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "-o", locked, cwd=ROOT)
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "empty")
    wheel = next(folder.glob("modelmill-*.whl"))
    python = folder / "empty" / "bin" / "python"
    run(UV, "pip", "install", "--quiet", "--python", python, "--constraint", locked, wheel)
    return python.parent


@pytest.fixture
def place(installed: Path, tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder; the node of a project in it is stopped."""
    yield tmp_path
    for project in tmp_path.glob("*/modelmill.toml"):
        subprocess.run([installed / "modelmill", "down"], cwd=project.parent, check=False, capture_output=True)


def quickstart() -> str:
    """Return the commands of the quickstart, up to the ones that load a whole year."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8").partition("## The whole year")[0]
    typed = re.findall(r"^\$ (.+)$", page, re.MULTILINE)
    return "\n".join(["set -ex", *(line for line in typed if not line.startswith("pip install"))])


def test_the_quickstart_runs_from_the_wheel(installed: Path, place: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environ = inherited | {"PATH": f"{installed}{os.pathsep}{os.environ['PATH']}"}
    said = run("bash", "-c", f"{quickstart()}\nmodelmill status\nmodelmill down", cwd=place, env=environ)  # type: ignore[arg-type]
    assert "air-time 1" in said
    assert "air_time" in said


def test_the_wheel_holds_what_it_needs_and_is_small(installed: Path) -> None:
    wheel = next(installed.parents[1].glob("modelmill-*.whl"))
    assert wheel.stat().st_size < 1_500_000 + 500_000  # the sample, and the program
    listed = run(installed / "python", "-m", "zipfile", "-l", wheel)
    for part in ("py.typed", "template/sample/flights.parquet", "migrations/versions/0001_first_tables.py", "LICENSE"):
        assert part in listed
