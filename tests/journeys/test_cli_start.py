"""The first minutes: help, init, check, and what a command that is interrupted leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import PATIENCE_S

HEAVY = {
    "alembic",
    "httpx",
    "numpy",
    "pandas",
    "pandera",
    "polars",
    "pyarrow",
    "rich",
    "sklearn",
    "sqlalchemy",
    "uvicorn",
}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["data", "--help"], ["trian"]])
def test_asking_for_help_loads_no_heavy_library(words: list[str]) -> None:
    script = f"import sys; from modelmill.cli import main; main({words!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_a_new_user_follows_what_each_answer_ends_in(modelmill: Callable[..., Any], tmp_path: Path) -> None:
    started = modelmill("init", "delays", cwd=tmp_path)
    assert started.next == "cd delays && modelmill check"
    checked = modelmill("check", cwd=tmp_path / "delays")
    assert checked.code == 0, checked.err
    assert checked.next.startswith("modelmill predict ")
    words = checked.next.removeprefix("modelmill ").split()
    predicted = modelmill(*words, cwd=tmp_path / "delays")
    assert predicted.code == 0, predicted.err
    assert predicted.out.startswith("air_time ")


def test_the_projects_own_tests_pass_under_plain_pytest(modelmill: Callable[..., Any], tmp_path: Path) -> None:
    modelmill("init", cwd=tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_folder_with_files_keeps_them(modelmill: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "modelmill.toml").write_text('model = "delays.py"\n', encoding="utf-8")
    started = modelmill("init", cwd=tmp_path)
    assert "kept      modelmill.toml" in started.out
    assert "[connections.flights]" in started.out
    assert (tmp_path / "modelmill.toml").read_text(encoding="utf-8") == 'model = "delays.py"\n'


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["up", "--prot", "1"], 2, "--port"),
        (["trian"], 2, "did you mean `train`?"),
        (["train", "missing.py"], 2, "there is no model file `missing.py`"),
        (["train", "--set", "alhpa=1"], 2, "did you mean `alpha`?"),
        (["show", "air-tme"], 2, "no version of `air-tme` was built here"),
        (["show", "air-time[a"], 2, "is not written as a model"),
        (["data", "show", "flights@s9"], 2, "there is no snapshot `flights@s9`"),
        (["data", "import", "nothing.csv"], 2, "neither a file nor a connection"),
        (["search", "--where", "mae ? 3"], 2, "is not a condition on a metric"),
        (["completion", "tcsh"], 2, "bash, zsh, fish"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(
    modelmill: Callable[..., Any], fleet: Path, words: list[str], code: int, said: str
) -> None:
    done = modelmill(*words, cwd=fleet)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("MM")
    assert said in done.err
    assert "Traceback" not in done.err


def test_with_json_a_mistake_is_json_with_the_same_code(modelmill: Callable[..., Any], fleet: Path) -> None:
    done = modelmill("show", "air-tme", "--json", cwd=fleet)
    assert (done.code, done.json["code"], done.json["likely"]) == (2, "MM005", "did you mean `air-time`?")


def test_trace_shows_everything(modelmill: Callable[..., Any], tmp_path: Path) -> None:
    done = modelmill("status", "--trace", cwd=tmp_path)
    assert "Traceback (most recent call last)" in done.err
    assert "MM002" in done.err


def test_a_fault_of_ours_says_so_and_exits_with_70(modelmill: Callable[..., Any], fleet: Path, tmp_path: Path) -> None:
    # A folder where the database should be is something nobody wrote code for.
    (tmp_path / "store" / "keys").mkdir(parents=True)
    (tmp_path / "store" / "mill.db").mkdir()
    done = modelmill("show", "air-time", "--store", str(tmp_path / "store"), cwd=fleet)
    assert done.code == 70
    assert done.err.startswith("MM5")
    assert "Traceback" not in done.err


def test_ctrl_c_ends_a_training_cleanly_and_the_next_one_goes_on(modelmill: Callable[..., Any], tmp_path: Path) -> None:
    modelmill("init", cwd=tmp_path)
    command = [sys.executable, "-m", "modelmill", "train"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("snapshot")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.rstrip().endswith("interrupted")
    assert "Traceback" not in said
    assert modelmill("train", cwd=tmp_path).code == 0
    assert modelmill("fsck", cwd=tmp_path).code == 0


@pytest.mark.parametrize("words", [["search", "--limit", "1000", "--json"], ["status"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(fleet: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "modelmill", *words]
    with subprocess.Popen(command, cwd=fleet, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert said == b""
    assert process.returncode in (0, 1)


def test_completion_knows_the_commands(modelmill: Callable[..., Any], tmp_path: Path) -> None:
    script = modelmill("completion", "bash", cwd=tmp_path)
    assert "_MODELMILL_COMPLETE" in script.out
    asked = {"_MODELMILL_COMPLETE": "bash_complete", "COMP_WORDS": "modelmill da", "COMP_CWORD": "1"}
    assert modelmill(cwd=tmp_path, **asked).out.strip() == "plain,data"


def test_no_colour_reaches_a_pipe(modelmill: Callable[..., Any], fleet: Path) -> None:
    for words in (["status"], ["trian"], ["train"]):
        done = modelmill(*words, cwd=fleet)
        assert "\x1b" not in done.out + done.err
