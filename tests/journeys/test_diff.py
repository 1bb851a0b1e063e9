"""What lies between two versions: computed from records, told in one order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import Engine, event

import modelmill as mm

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with three versions: the first, another parameter, another code and other rows."""
    folder = tmp_path_factory.mktemp("differs") / "delays"
    assert modelmill("init", str(folder), cwd=folder.parent).code == 0
    assert modelmill("train", cwd=folder).code == 0
    assert modelmill("train", "--set", "alpha=50", cwd=folder).code == 0
    file = folder / "delays.py"
    file.write_text(file.read_text().replace("alpha: float = 1.0", "alpha: float = 2.0"))
    rows = folder / "sample" / "flights.parquet"
    pl.read_parquet(rows).sample(50_000, seed=1).write_parquet(rows)
    assert modelmill("train", cwd=folder).code == 0
    return folder


def test_another_parameter_is_an_experiment(modelmill: Command, project: Path) -> None:
    found = modelmill("diff", "1", "2", "--json", cwd=project).json
    assert (found["change"], found["differs"]) == ("experiment", ["model"])
    assert found["declared"] == ["alpha 1.0 -> 50.0"]
    assert (found["code"], found["data"]) == ([], None)
    assert found["segments_refitted"] > 290
    mae = found["metrics"][0]
    assert mae["name"] == "mae"
    assert mae["better"] + mae["worse"] <= mae["segments"]
    assert mae["before"] != mae["after"]
    assert len(mae["most"]) == 10
    every = modelmill("diff", "1", "2", "--all", "--json", cwd=project).json["metrics"][0]
    assert len(every["most"]) == every["better"] + every["worse"] > 100
    assert found["refused"] == []


def test_code_and_rows_are_a_rework(modelmill: Command, project: Path) -> None:
    found = modelmill("diff", "air-time", "2", "3", "--json", cwd=project).json
    assert (found["change"], found["differs"]) == ("rework", ["code", "data", "model"])
    assert any(line.startswith("+") and "alpha: float = 2.0" in line for line in found["code"])
    assert found["data"]["rows"] == [60_000, 50_000]
    assert found["data"]["segments_changed"] > 100


def test_one_segment_with_answers_to_the_same_rows(modelmill: Command, project: Path) -> None:
    done = modelmill("diff", "air-time[JFK,B6,BOS]", "1", "2", "--answers", "--json", cwd=project)
    assert done.code == 0, done.err
    answers = done.json["answers"]
    assert answers["rows"] == answers["moved"] > 50
    assert answers["source"] == "test rows of flights@s1"
    assert 0 < answers["median"] <= answers["p95"] <= answers["largest"]
    assert done.json["segment"] == "JFK,B6,BOS"


def test_a_segment_that_was_carried_forward_is_that_of_its_own_run(modelmill: Command, project: Path) -> None:
    file = project / "delays.py"
    kept = file.read_text()
    again = modelmill("train", "--json", cwd=project)
    assert again.json["run"] is None  # nothing has changed: there is no fourth run
    found = modelmill("diff", "air-time[JFK,B6,BOS]", "3", "3", "--json", cwd=project).json
    assert (found["change"], found["segments_same"], file.read_text()) == ("same", 1, kept)


def test_snapshots_are_compared_row_by_row(modelmill: Command, project: Path) -> None:
    found = modelmill("data", "diff", "flights@s1", "flights@s2", "--json", cwd=project).json["data"]
    assert (found["rows_added"], found["rows_removed"]) == (0, 10_000)
    same = modelmill("diff", "flights@s1", "flights@s1", cwd=project)
    assert (same.code, "same" in same.out) == (0, True)
    text = modelmill("data", "diff", "flights@s1", "flights@s2", cwd=project).out
    assert "rows      0 added   10,000 removed" in text
    assert "distance" in text


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_an_exported_snapshot_imported_again_is_the_same(modelmill: Command, project: Path, name: str) -> None:
    out = modelmill("data", "export", "flights@s1", "--out", name, "--json", cwd=project).json
    assert (out["snapshot"]["rows"], out["bytes"]) == (60_000, (project / name).stat().st_size)
    again = modelmill("data", "import", name, "--dataset", "flights", "--json", cwd=project).json["snapshot"]
    assert (again["new"], again["label"]) == (False, "flights@s1")
    assert [path.name for path in project.glob(".rows*")] == []


@pytest.mark.parametrize(
    "words", [("flights@s1",), ("flights@s1", "--out", "rows.xls"), ("flights@s9", "--out", "r.csv")]
)
def test_what_cannot_be_exported(modelmill: Command, project: Path, words: tuple[str, ...]) -> None:
    assert modelmill("data", "export", *words, cwd=project).code == 2


def test_the_text_is_in_one_order(modelmill: Command, project: Path) -> None:
    out = modelmill("diff", "2", "3", cwd=project).out
    labels = [line.split()[0] for line in out.splitlines() if line[:1].isalpha()]
    wanted = ["diff", "commits", "code", "model", "data", "segments", "mae", "next"]
    assert [label for label in labels if label in wanted and label != "segments"] == [
        w for w in wanted if w != "segments"
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("1",), "which two?"),
        (("1", "9"), "has no run 9"),
        (("1", "r7"), "has no release r7"),
        (("1", "later"), "neither a version nor a release"),
        (("air-time[XX,YY,ZZ]", "1", "2"), "has no `air-time[XX,YY,ZZ]`"),
        (("flights@s1", "flights@s9"), "there is no snapshot"),
    ],
)
def test_what_cannot_be_compared(modelmill: Command, project: Path, words: tuple[str, ...], said: str) -> None:
    done = modelmill("diff", *words, cwd=project)
    assert done.code == 2
    assert said in done.err


def test_the_number_of_queries_does_not_grow_with_the_fleet(project: Path) -> None:
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert mm.Mill(project).diff(1, 2).segments_refitted > 290
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert 0 < len(statements) < 40
