"""A zoo of bad models beside a good one, in short: contained, and counted, and nobody else notices; see `make campaign`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import bad_models  # type: ignore[import-not-found]

Command = Callable[..., Any]
ROUNDS = 20


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, modelmill: Command) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("zoo") / "project"
    bad_models.write_project(folder)
    bad_models.start(folder)
    yield bad_models.misbehave(folder, ROUNDS) | {"store lost": bad_models.lose_store(folder)}
    modelmill("down", cwd=folder)


def test_the_good_model_answers_as_ever(found: dict[str, Any]) -> None:
    assert (found["good failed"], found["good answers"]) == (0, 1), found
    assert found["good answered"] >= 100


def test_what_is_no_answer_is_answered_by_the_pooled_model(found: dict[str, Any]) -> None:
    assert found["NaN"] == found["shape"] == {"pooled": ROUNDS}
    assert found["raises"] == {"own": ROUNDS - ROUNDS // 20, "pooled": ROUNDS // 20}


def test_what_is_slow_or_talks_still_answers(found: dict[str, Any]) -> None:
    assert found["slow"] == found["prints"] == {"own": ROUNDS}


def test_a_leak_is_ended_and_counted(found: dict[str, Any]) -> None:
    assert found["ended by memory"] >= 1
    assert found["leaks"]["pooled"] == found["ended by memory"]  # the very requests at which there was no more
    assert set(found["leaks"]) == {"own", "pooled"}


def test_a_crash_loop_is_left_alone_told_and_tried_again(found: dict[str, Any]) -> None:
    loop = found["loop"]
    assert loop["refused at once"] == {"MM538": 20}
    assert loop["quarantined"] == 1
    assert "is not started for" in loop["told"]
    assert "modelmill rollback" in loop["told"]
    assert loop["again"] == "own"
    assert found["ended otherwise"] >= 2


def test_what_is_loaded_answers_without_database_and_blobs(found: dict[str, Any]) -> None:
    lost = found["store lost"]
    assert (lost["before"], lost["loaded"], lost["after"]) == ("own", {"own": 50}, "own")
    assert lost["not loaded"].startswith("MM5")
