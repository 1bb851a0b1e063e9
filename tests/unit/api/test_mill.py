"""`Mill`: a project for Python programs."""

from pathlib import Path

import pytest

import modelmill
from modelmill.api.mill import Mill
from modelmill.api.verbs import VERBS, Verb
from modelmill.errors import ProjectNotFound, UsageError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project without a model."""
    (tmp_path / "modelmill.toml").touch()
    return tmp_path


def test_the_front_door_has_it() -> None:
    assert modelmill.Mill is Mill


def test_it_is_found_from_any_folder_below(project: Path) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    assert Mill(below).settings.root == project


def test_a_flag_wins_over_the_file(project: Path) -> None:
    assert Mill(project, store="elsewhere").settings.store_folder == project / "elsewhere"


def test_without_a_project_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectNotFound) as caught:
        Mill(tmp_path)
    assert "modelmill init" in caught.value.parts["next"]


def test_its_methods_are_the_verbs(project: Path) -> None:
    assert {check.name for check in Mill(project).doctor().checks} >= {"python", "store", "database", "port"}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_its_method(project: Path, verb: Verb) -> None:
    *group, name = verb.name.split()
    mill = Mill(project)
    place = getattr(mill, group[0]) if group else mill if hasattr(mill, name) else mill.releases
    assert callable(getattr(place, name, None) or getattr(place, f"{name}_"))


def test_an_unknown_option_is_the_callers_mistake(project: Path) -> None:
    with pytest.raises(UsageError, match="unknown field `colour`"):
        Mill(project).train(colour="red")


def test_a_class_stays_small_enough_to_know() -> None:
    assert len([name for name in vars(Mill) if not name.startswith("_")]) <= 25
