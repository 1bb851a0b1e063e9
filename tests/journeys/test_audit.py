"""At which level a model is: planted situations whose level is known."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

import modelmill as mm

Command = Callable[..., Any]


def states(audit: Any) -> dict[str, str]:
    return {f"{cell['row']} {cell['column']}": cell["state"] for cell in audit["cells"]}


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in a commit, trained once."""
    folder = tmp_path_factory.mktemp("audited") / "delays"
    assert modelmill("init", str(folder), cwd=folder.parent).code == 0
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    assert modelmill("train", cwd=folder).code == 0
    return folder


def audit(modelmill: Command, folder: Path) -> Any:
    (found,) = modelmill("audit", "--json", cwd=folder).json["audits"]
    return found


def test_it_works_for_me(modelmill: Command, project: Path) -> None:
    done = modelmill("audit", cwd=project)
    assert done.code == 0
    assert "level     1 of 4" in done.out
    assert "reproduce x model" in done.out
    found = states(audit(modelmill, project))
    assert len(found) == 24
    assert (found["version code"], found["reproduce code"], found["monitor data"]) == ("automatic", "by hand", "empty")


def test_reproduced_by_oneself_is_not_reproduced_by_another(modelmill: Command, project: Path) -> None:
    assert modelmill("reproduce", "1", "--sample", "1%", "--in", "here", cwd=project).code == 0
    found = audit(modelmill, project)
    assert (found["level"], states(found)["reproduce data"], states(found)["reproduce code"]) == (
        1,
        "automatic",
        "by hand",
    )


def test_reproduced_by_another_person_is_level_2(modelmill: Command, project: Path) -> None:
    done = modelmill("reproduce", "1", "--sample", "1%", "--in", "here", cwd=project, LOGNAME="somebody-else")
    assert done.code == 0
    found = audit(modelmill, project)
    assert (found["level"], found["level_before"]) == (2, 1)
    assert any("experiment" in text for text in found["blocked_by"])
    assert modelmill("audit", "--fail-under", "2", cwd=project).code == 0
    assert modelmill("audit", "--fail-under", "3", cwd=project).code == 3


def test_a_snapshot_that_is_gone_lowers_the_level(modelmill: Command, project: Path) -> None:
    details = json.loads(modelmill("show", "run", "1", "--json", cwd=project).out)["details"]["run"]
    (blob,) = (project / ".modelmill" / "blobs").rglob(details["snapshot"])
    kept = blob.rename(blob.with_name("aside"))
    try:
        found = audit(modelmill, project)
        assert (found["level"], found["level_before"]) == (1, 2)
        assert "version x data was automatic" in found["emptied"]
    finally:
        kept.rename(blob)
    assert audit(modelmill, project)["level"] == 2


def test_a_dirty_tree_is_by_hand(modelmill: Command, project: Path) -> None:
    with (project / "delays.py").open("a") as file:
        file.write("\n# not in a commit\n")
    assert modelmill("train", cwd=project).code == 0
    assert states(audit(modelmill, project))["version code"] == "by hand"


def test_a_model_without_law_and_owner_stays_at_level_1(modelmill: Command, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import polars as pl\nfrom sklearn.linear_model import Ridge\nimport modelmill as mm\n"
        "class Row(mm.Schema):\n    a: float = mm.col()\n    y: float = mm.target()\n"
        "m = mm.Model('m', Row)\n"
        "@m.data\ndef rows(window):\n"
        "    return pl.DataFrame({'a': [float(i) for i in range(99)]}).with_columns(y=pl.col('a') * 2)\n"
        "@m.train\ndef train(x, y):\n    return Ridge().fit(x, y)\n"
    )
    (tmp_path / "modelmill.toml").write_text('model = "m.py"\n')
    assert modelmill("train", cwd=tmp_path).code == 0
    assert modelmill("reproduce", "1", "--in", "here", cwd=tmp_path, LOGNAME="somebody-else").code == 0
    found = audit(modelmill, tmp_path)
    assert found["level"] == 1
    blocked = " ".join(found["blocked_by"])
    assert all(cell in blocked for cell in ("test x model", "document x code", "document x model"))


def test_before_anything_was_built(modelmill: Command, tmp_path: Path) -> None:
    (tmp_path / "modelmill.toml").touch()
    done = modelmill("audit", cwd=tmp_path)
    assert done.code == 2
    assert "there is no store" in done.err


def test_the_number_of_queries_does_not_grow_with_the_fleet(project: Path) -> None:
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        mm.Mill(project).audit("air-time")
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert 0 < len(statements) < 60
