"""The house keeps its own rules: what imports what, what is exported, documented, and named once."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import modelmill
from modelmill.api.verbs import VERBS
from modelmill.errors import every_error
from modelmill.store.tables import metadata

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "modelmill"
HEAVY = [
    "numpy",
    "onnxruntime",
    "polars",
    "pyarrow",
    "pandas",
    "pandera",
    "sqlalchemy",
    "alembic",
    "sklearn",
    "scipy",
    "uvicorn",
    "httpx",
    "rich",
]


def contract() -> list[set[str]]:
    """Return the layers of the import contract, low to high."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = tomllib.loads(text)["tool"]["importlinter"]["contracts"][0]["layers"]
    return [set(layer.split(" | ")) for layer in reversed(layers)]


def loaded_by(*arguments: str) -> set[str]:
    """Return the heavy libraries that a fresh interpreter has loaded after running something."""
    program = (
        f"import sys, runpy\nsys.argv = ['modelmill', *{list(arguments[1:])!r}]\n"
        f"try:\n    {arguments[0]}\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.strip().splitlines()[-1].split()[1:])


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_loads_nothing_heavy(option: str) -> None:
    assert loaded_by("runpy.run_module('modelmill', run_name='__main__')", option) == set()


def test_the_front_door_loads_nothing_but_numpy() -> None:
    assert loaded_by("import modelmill") <= {"numpy"}
    assert loaded_by("import modelmill; modelmill.Schema, modelmill.Model, modelmill.Canary") <= {"numpy"}


@pytest.mark.parametrize("module", ["node", "worker"])
def test_a_node_loads_no_database_and_no_training_library(module: str) -> None:
    assert loaded_by(f"import modelmill.serving.{module}") <= {"numpy", "uvicorn", "httpx", "rich"}


def test_the_front_door_is_sorted_and_small() -> None:
    assert modelmill.__all__ == sorted(modelmill.__all__)
    assert len(modelmill.__all__) <= 40
    assert all(hasattr(modelmill, name) for name in modelmill.__all__)


def test_no_exported_name_is_a_room() -> None:
    rooms = {path.stem for path in SOURCE.iterdir()}
    assert not rooms & set(modelmill.__all__)


def test_the_room_table_of_the_architecture_is_the_import_contract() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.+?) \|", text, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == contract()


def test_every_table_bears_the_name_of_its_room() -> None:
    rooms = {room for layer in contract() for room in layer}
    assert {name.split("_")[0] for name in metadata.tables} <= rooms


def test_every_room_says_what_it_is() -> None:
    for folder in SOURCE.iterdir():
        if (folder / "__init__.py").exists():
            assert len((folder / "__init__.py").read_text(encoding="utf-8").split('"""')[1]) > 100, folder.name


def test_no_room_is_deeper_than_one_folder() -> None:
    apart = {"migrations", "template"}
    deep = [p for p in SOURCE.rglob("*.py") if len(p.relative_to(SOURCE).parts) > 2]
    assert not [path for path in deep if not apart & set(path.parts)]


def test_the_generated_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.reference", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + "run: make docs"


def test_every_command_has_examples_or_needs_none() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert not [verb.name for verb in VERBS if f"modelmill {verb.name}" not in page]


def test_every_error_code_is_provoked_by_a_test() -> None:
    others = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    tests = "".join(path.read_text(encoding="utf-8") for path in others)
    families = {"MM000", "MM100", "MM200", "MM300", "MM400", "MM500", "MM600"}
    missing = [
        k.code for k in every_error() if k.code not in families and k.code not in tests and k.__name__ not in tests
    ]
    assert missing == NOT_RAISED_YET


NOT_RAISED_YET: list[str] = []
"""Gates and approvals are declared, and act in a later release."""


def test_only_one_file_unpickles_what_the_product_keeps() -> None:
    opens = re.compile(r"pickle\.loads?\(|joblib\W*\.load|marshal|yaml\.load|torch\.load")
    found = [
        path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if opens.search(path.read_text(encoding="utf-8"))
    ]
    # And one that opens what a person trusts, and one that writes a file which does.
    others = [Path("orchestrator/adopting.py"), Path("orchestrator/foreign.py")]
    assert sorted(found) == [Path("artifact/saving.py"), *others]
