"""What reaches a terminal: nothing that steers it, and every error in the one shape."""

import io
import json

import pytest

from modelmill.cli.output import print_error, print_outcome, to_json, write
from modelmill.cli.running import unexpected
from modelmill.errors import FieldMissing
from modelmill.outcomes import DownOutcome, ShowOutcome

ERROR = FieldMissing("field `hour` is missing", got="houre", likely="did you mean `hour`?")


def test_an_error_is_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ERROR, as_json=False)
    assert capsys.readouterr() == (
        "",
        "MM201 field `hour` is missing\n  got       houre\n  likely    did you mean `hour`?\n",
    )


def test_an_error_as_json_is_what_a_node_answers(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ERROR, as_json=True)
    assert json.loads(capsys.readouterr().out) == ERROR.as_dict()


def test_names_from_the_data_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(ShowOutcome(kind="model", name="\x1b]0;owned\x07\x9b31m", facts={"a\x08": "b"}), as_json=False)
    assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in capsys.readouterr().out)


def test_json_has_no_word_for_nan() -> None:
    assert json.loads(to_json({"score": float("nan"), "place": io})) == {"score": None, "place": str(io)}


def test_an_answer_as_json_is_its_struct(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(DownOutcome(stopped=True, pid=7), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"stopped": True, "pid": 7, "seconds": 0.0, "next": "modelmill up"}


def test_a_terminal_that_knows_only_ascii_is_written_to() -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    write(terminal, "caf\u00e9")
    assert raw.getvalue() == b"caf\\xe9\n"


def test_what_nobody_foresaw_has_the_shape_of_what_somebody_did() -> None:
    try:
        int("x")
    except ValueError as error:
        found = unexpected(error)
    assert (found.code, found.exit) == ("MM500", 70)
    assert "ValueError" in found.what
    assert "test_output.py" in found.parts["where"]
    assert "--trace" in found.parts["next"]
