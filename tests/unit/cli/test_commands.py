"""Commands made from structs: arguments, options, help, and errors in the one shape."""

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from modelmill.api.verbs import VERBS, get_verb
from modelmill.cli import main
from modelmill.cli.app import app
from modelmill.cli.commands import command_of
from modelmill.cli.local import LOCAL_VERBS

TRAIN_OPTIONS = {"--model", "--set", "--explain", "--rebuild", "--workers", "--json", "--trace", "--project", "--store"}


def options_of(name: str) -> set[str]:
    command = command_of(get_verb(name))
    return {text for param in command.params if isinstance(param, click.Option) for text in param.opts}


def test_options_come_from_the_input_struct() -> None:
    assert options_of("train") >= TRAIN_OPTIONS
    assert options_of("up") >= TRAIN_OPTIONS | {"--port", "--detach"}


def test_what_only_python_may_give_is_no_option() -> None:
    assert not options_of("predict") & {"--rows", "--fields"}
    assert "--frame" not in options_of("data import")


@pytest.mark.parametrize("verb", [*VERBS, *LOCAL_VERBS], ids=lambda verb: verb.name)
def test_every_command_explains_its_arguments_and_options(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert verb.summary in " ".join(said.split())
    for name in msgspec.structs.fields(verb.input):
        if name.name in ("file", "segment", "port"):
            assert name.name in said.lower()


def test_every_example_is_a_command_that_parses() -> None:
    for verb in (*VERBS, *LOCAL_VERBS):
        for example in verb.examples:
            words = [word for word in example.split() if word != "modelmill"]
            assert " ".join(words).startswith(verb.name) or verb.name == "completion"


def test_help_lists_the_commands_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    listed = [
        text.split()[0] for text in capsys.readouterr().out.partition("Commands:")[2].splitlines() if text[2:3].strip()
    ]
    first, *rest = [verb.name.split()[0] for verb in (LOCAL_VERBS[0], *VERBS, *LOCAL_VERBS[1:])]
    wanted = list(dict.fromkeys([first, *rest]))
    assert [name for name in listed if name in wanted] == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["trian"], "did you mean `train`?"),
        (["data", "improt"], "did you mean `import`?"),
        (["up", "--prot", "1"], "--port"),
        (["up", "--port", "many"], "'many' is not a valid integer"),
    ],
)
def test_a_slip_of_the_hand_is_answered_with_what_was_meant(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("MM001 ")
    assert said in error
    assert "--help" in error


def test_with_json_an_error_is_json_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["likely"] == "did you mean `train`?"
    assert captured.err == ""


def test_a_port_out_of_range_is_the_callers_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "modelmill.toml").touch()
    assert main(["up", "--port", "70000", "--project", str(tmp_path)]) == 2
    assert "option `port`: Expected `int` <= 65535" in capsys.readouterr().err


@pytest.mark.parametrize("group", [[], ["data"]])
def test_a_group_alone_shows_its_help(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(group) == 2
    assert "Commands:" in capsys.readouterr().err


def test_outside_a_project_the_next_step_is_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--project", str(tmp_path)]) == 2
    assert "MM002" in (error := capsys.readouterr().err)
    assert "modelmill init" in error


def test_a_broken_settings_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "modelmill.toml").write_text("modle = 3", encoding="utf-8")
    assert main(["status", "--project", str(tmp_path)]) == 2
    assert "did you mean `model`?" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == f"modelmill {declared['project']['version']}\n"


def test_the_program_knows_no_command_twice() -> None:
    names = app.list_commands(click.Context(app))
    declared = {verb.name.partition(" ")[0] for verb in (*VERBS, *LOCAL_VERBS)}
    assert len(names) == len(set(names))
    assert set(names) == declared
