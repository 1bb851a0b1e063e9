"""Releases that answer copies: a canary's first step, and by hand, while nobody sees what they answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PATIENCE_S, Command
from .test_releases import MODEL, answer, asked, url_of

STEPS = '["shadow", "25%", "100%"]'


def write(folder: Path, poison: str = "") -> None:
    folder.mkdir(exist_ok=True)
    text = MODEL.replace('["25%", "100%"]', STEPS).replace('"OF"', '"segments"').replace("POISON", poison)
    (folder / "m.py").write_text(text)
    (folder / "modelmill.toml").write_text('model = "m.py"\n[environments.prod]\nrequires = ["law"]\n')


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project whose first version a node of prod serves."""
    folder = tmp_path_factory.mktemp("shadows") / "p"
    write(folder)
    assert modelmill("train", cwd=folder).code == 0
    nothing = modelmill("shadow", "1", "--in", "prod", cwd=folder)
    assert (nothing.code, "MM427" in nothing.err) == (3, True), nothing.err
    assert modelmill("deploy", "prod", "--yes", cwd=folder).code == 0
    served = modelmill("serve", "--env", "prod", "--detach", "--port", "0", cwd=folder)
    assert served.code == 0, served.err
    yield folder
    modelmill("down", "--env", "prod", cwd=folder)


def shadows(modelmill: Command, folder: Path) -> list[Any]:
    return list(modelmill("shadow", "--in", "prod", "--json", cwd=folder).json["shadows"])


def copied(modelmill: Command, folder: Path, count: int, least: int) -> list[Any]:
    """Wait until each of several shadows has answered some copies."""
    until = time.monotonic() + PATIENCE_S
    while True:
        found = shadows(modelmill, folder)
        if len(found) == count and all(one["copies"] >= least for one in found):
            return found
        assert time.monotonic() < until, found


def test_two_shadows_by_hand_change_no_answer(modelmill: Command, project: Path) -> None:
    for slope in ("2.0", "1.0"):
        assert modelmill("train", "--set", f"slope={slope}", cwd=project).code == 0
    before = answer(modelmill, project)
    assert shadows(modelmill, project) == []
    for version in ("2", "3"):
        begun = modelmill("shadow", version, "--in", "prod", "--json", cwd=project)
        assert (begun.code, begun.json["done"], begun.json["confirmed"]) == (0, "begun", 1), begun.err
    again = modelmill("shadow", "2", "--in", "prod", cwd=project)
    assert (again.code, "MM401" in again.err or "already" in again.err) == (3, True), again.err
    with asked(url_of(modelmill, project)) as found:
        other, same = sorted(copied(modelmill, project, 2, 500), key=lambda one: int(one["version"]))
    assert set(found) == {"200 1 own"}  # the version that answers all the while
    assert (other["version"], same["version"]) == (2, 3)
    assert (other["failed"], same["failed"]) == (0, 0)
    assert other["equal"] < 0.1 * other["copies"]
    assert other["largest_difference"] > other["mean_difference"] > 1
    assert (same["equal"], same["agreed"], same["largest_difference"]) == (same["copies"], same["copies"], 0)
    assert other["apart"][0]["copies"] > 0
    assert answer(modelmill, project) == before
    assert "r2 = version 2" in modelmill("status", cwd=project).out
    ended = modelmill("shadow", "2", "--in", "prod", "--stop", "--json", cwd=project).json
    assert ended["done"] == "ended"
    assert ended["shadows"][0]["copies"] >= other["copies"]  # the last of it is counted, too
    assert [one["version"] for one in shadows(modelmill, project)] == [3]
    assert modelmill("shadow", "--in", "prod", "--stop", cwd=project).code == 0
    assert modelmill("shadow", "--in", "prod", "--stop", cwd=project).code == 2
    moves = modelmill("history", "prod", "--json", cwd=project).json["moves"]
    assert [move["kind"] for move in moves][:4] == ["shadow ended", "shadow ended", "shadow", "shadow"]
    assert answer(modelmill, project) == before


def test_a_canary_is_a_shadow_first(modelmill: Command, project: Path) -> None:
    assert modelmill("plan", "prod", "--json", cwd=project).json["steps"] == ["shadow", "25%", "100%"]
    with asked(url_of(modelmill, project)) as found:
        done = modelmill("promote", "2", "--to", "prod", "--json", cwd=project)
    assert (done.code, done.json["moved"], done.json["canary"]["state"]) == (0, True, "done"), done.out + done.err
    copies = done.json["canary"]["copies"]
    assert copies["copies"] >= 100
    assert copies["failed"] == 0
    assert copies["mean_difference"] > 1
    assert {key.split()[0] for key in found} == {"200"}
    kinds = [move["kind"] for move in modelmill("history", "prod", "--json", cwd=project).json["moves"]]
    assert kinds[:2] == ["release", "canary"]


def test_what_is_poisoned_ends_as_a_shadow(modelmill: Command, project: Path) -> None:
    before = answer(modelmill, project)
    write(project, poison="np.where(x[:, :1].max() > 40, np.nan, 1.0) * ")
    built = modelmill("train", "--json", cwd=project)
    assert built.json["counts"]["built"] == 40, built.out + built.err
    with asked(url_of(modelmill, project)) as found:
        done = modelmill("deploy", "prod", "--yes", "--json", cwd=project)
    canary = done.json["canary"]
    assert (done.code, canary["state"], canary["step"], canary["exposed"]) == (3, "stopped", 0, 0), done.out + done.err
    assert "error_rate" in canary["why"] or "fails more often" in canary["why"]
    assert canary["copies"]["failed"] > 0
    assert {tuple(key.split()[:2]) for key in found} == {("200", "2")}  # nobody was answered by it
    assert answer(modelmill, project) == before
    assert modelmill("fsck", cwd=project).code == 0
