"""Importing a model file: the user's own lines in every error, and just the project's files counted as its code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from modelmill.errors import DeclarationInvalid, ModelFileBroken, ModelMissing
from modelmill.model.loading import imported_files, load_model_file

GOOD = """
import modelmill as mm
import {helper}

class Row(mm.Schema):
    hour: int = mm.col()
    y: float = mm.target()

sales = mm.Model("sales", Row)

@sales.train
def train(x, y):
    return {helper}.fit(x, y)
"""


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_loaded_with_what_it_imports(tmp_path: Path) -> None:
    write(tmp_path, "helper_one.py", "def fit(x, y): return 1")
    write(tmp_path, "unused.py", "1/0")
    path = write(tmp_path, "sales_one.py", GOOD.format(helper="helper_one"))
    loaded = load_model_file(path, tmp_path)
    assert list(loaded.models) == ["sales"]
    assert [file.name for file in imported_files(tmp_path)] == ["helper_one.py", "sales_one.py"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def f(:\n  pass", ModelFileBroken, "syntax error"),
        ("import no_such_package_at_all", ModelFileBroken, "no_such_package_at_all"),
        ("x = 1\n1/0", ModelFileBroken, "ZeroDivisionError"),
        ("x = 1", ModelMissing, "declares no model"),
        ("import modelmill as mm\nmm.every('weak')", DeclarationInvalid, "`weak` is not a period"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, error: type[Exception], said: str) -> None:
    path = write(tmp_path, "broken_file.py", text)
    with pytest.raises(error, match=said) as caught:
        load_model_file(path, tmp_path)
    assert "broken_file.py" in caught.value.parts["where"]  # type: ignore[attr-defined]
    assert "importlib" not in "".join(caught.value.lines())  # type: ignore[attr-defined]


def test_a_name_of_the_standard_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileBroken, match="hides the standard module"):
        load_model_file(write(tmp_path, "json.py", "x = 1"), tmp_path)


def test_two_projects_may_use_the_same_file_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "helper_two.py", "def fit(x, y): return 1")
        path = write(tmp_path / name, "sales_two.py", GOOD.format(helper="helper_two"))
        assert load_model_file(path, tmp_path / name).module.__file__ == str(path)


def test_a_link_out_of_the_project_is_not_its_code(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    write(outside, "helper_three.py", "def fit(x, y): return 1")
    (inside / "helper_three.py").symlink_to(outside / "helper_three.py")
    load_model_file(write(inside, "sales_three.py", GOOD.format(helper="helper_three")), inside)
    assert [file.name for file in imported_files(inside)] == ["sales_three.py"]


def test_a_module_that_names_no_real_file_is_nobodys_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = ModuleType("strange")
    strange.__file__ = "_classes.py"  # as torch has them
    monkeypatch.setitem(sys.modules, "strange", strange)
    monkeypatch.chdir(tmp_path)
    assert imported_files(tmp_path) == []
