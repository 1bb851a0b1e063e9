"""Habits that nobody should have to remember: reasons beside choices, tests beside rooms, targets that say what they do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import modelmill

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "modelmill"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
TARGET = re.compile(r"^(\w+):.*?(?:## (.+))?$", re.MULTILINE)
VAGUE = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}


def section(begin: str, end: str = "]\n") -> list[str]:
    """Return the lines of a list in pyproject.toml that hold an entry."""
    inside = PROJECT.partition(begin)[2].partition(end)[0]
    return [line.strip() for line in inside.splitlines() if line.strip().startswith('"')]


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return every function of the source with the place where it stands."""
    return [
        (f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}", node)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_every_dependency_has_its_reason() -> None:
    entries = section("\ndependencies = [")
    assert len(entries) > 10
    assert not [entry for entry in entries if "# " not in entry]


def test_every_ignored_rule_has_its_reason() -> None:
    entries = section("\nignore = [")
    assert len(entries) > 10
    assert not [entry for entry in entries if "# " not in entry]


def test_the_import_contract_has_no_exceptions() -> None:
    contracts = PROJECT.partition("[tool.importlinter]")[2]
    assert "exhaustive = true" in contracts
    assert "ignore" not in contracts


def test_the_makefile_has_at_most_ten_targets_that_say_what_they_do() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = dict(TARGET.findall(text))
    assert {"setup", "check", "test", "demo", "docs", "bench"} <= set(targets)
    assert len(targets) <= 10
    assert all(targets.values())


def test_make_alone_lists_the_targets() -> None:
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make test" in said
    assert "make demo" in said


@pytest.mark.parametrize("room", sorted(p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()))
def test_every_room_has_tests(room: str) -> None:
    folder = ROOT / "tests" / "unit" / room
    apart = ROOT / "tests" / ("conformance" if room == "testing" else "journeys")  # what proves these two rooms
    assert list(folder.glob("test_*.py")) or (room in {"testing", "orchestrator"} and list(apart.glob("test_*.py")))


def test_no_module_is_named_after_nothing() -> None:
    assert not [path for path in SOURCE.rglob("*.py") if path.stem.strip("_") in VAGUE]


def test_every_module_says_what_it_is() -> None:
    said = {
        path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        for path in SOURCE.rglob("*.py")
        if "template" not in path.parts
    }
    assert not [path for path, text in said.items() if not text]


def test_no_function_is_longer_than_a_page() -> None:
    lengths = {place: (node.end_lineno or 0) - node.lineno + 1 for place, node in functions()}
    assert len(lengths) > 500
    assert {place: length for place, length in lengths.items() if length > 60} == {}


def swallows(node: ast.AST) -> bool:
    """Return whether `node` catches everything and raises nothing instead."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = "BaseException" if node.type is None else ast.unparse(node.type)
    raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    return caught in {"Exception", "BaseException"} and not raises


def test_errors_are_caught_by_name_but_at_a_few_borders() -> None:
    sources = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")]
    broad = sum(swallows(node) for text in sources for node in ast.walk(ast.parse(text)))
    assert 0 < broad <= sum(text.count("\n") for text in sources) / 1000


def test_tests_use_no_mocks() -> None:
    mocks = re.compile(r"\bunittest\.mock\b|\bMagicMock\b|\bmocker\b")
    found = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__) and mocks.search(path.read_text())
    ]
    assert not found


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quickstart" / "index.html").exists()


def test_the_glossary_has_the_words_and_each_once() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([a-z ]+?) \| ", page, re.MULTILINE)[1:]
    assert {"fleet", "segment", "snapshot", "version", "release", "law", "pack", "pooled model"} <= set(words)
    assert words == sorted(set(words))


def test_the_version_is_said_once() -> None:
    assert f'version = "{modelmill.__version__}"' in PROJECT


def test_every_console_session_names_a_command_that_exists() -> None:
    known = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    typed = {
        c
        for page in pages
        for c in re.findall(r"^\$ .*?modelmill ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(typed) > 8
    assert not [command for command in typed if f"modelmill {command}" not in known]
