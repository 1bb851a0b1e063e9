"""A fleet from the command line: train, look, predict, serve, stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from .conftest import PATIENCE_S

ROW = {
    "origin": "JFK",
    "carrier": "B6",
    "dest": "BOS",
    "time_hour": "2013-06-01T09:00:00",
    "distance": 187,
    "hour": 9,
}
FIELDS = [f"{name}={value}" for name, value in ROW.items()]


def post(url: str, row: dict[str, object]) -> dict[str, object]:
    request = Request(url, json.dumps(row).encode(), {"content-type": "application/json"})  # noqa: S310
    with urlopen(request, timeout=30) as answer:  # noqa: S310
        found: dict[str, object] = json.load(answer)
    return found


def test_training_again_builds_nothing(modelmill: Callable[..., Any], fleet: Path) -> None:
    again = modelmill("train", "--json", cwd=fleet)
    assert (again.code, again.json["run"], again.json["counts"]["built"]) == (0, None, 0)
    assert again.json["counts"]["unchanged"] > 200
    assert again.json["snapshot"]["new"] is False


def test_the_fleet_beats_its_pooled_model(modelmill: Callable[..., Any], fleet: Path) -> None:
    found = modelmill("train", "--json", cwd=fleet).json["comparison"]
    assert found["own"] < 0.9 * found["pooled"]
    assert found["own"] < 0.9 * found["mean"]


def test_explain_gives_every_segment_its_reason(modelmill: Callable[..., Any], fleet: Path) -> None:
    found = modelmill("train", "--explain", "--json", cwd=fleet).json
    assert len(found["explained"]) >= found["counts"]["segments"]
    assert all(reason for _, reason in found["explained"])


def test_the_template_is_served_without_its_code(modelmill: Callable[..., Any], fleet: Path) -> None:
    for segment in ("JFK,B6,BOS", "pooled"):
        shown = modelmill("show", f"air-time[{segment}]", "--json", cwd=fleet).json
        assert shown["details"]["version"]["runtime"] == "packed"


def test_status_search_and_show_agree(modelmill: Callable[..., Any], fleet: Path) -> None:
    (model,) = modelmill("status", "--json", cwd=fleet).json["models"]
    assert model["own"] + model["pooled"] == model["segments"]
    best = modelmill("search", "air-time", "--where", "mae < 8", "--limit", "3", "--json", cwd=fleet).json
    assert [row["score"] for row in best["versions"]] == sorted(row["score"] for row in best["versions"])
    first = best["versions"][0]
    shown = modelmill("show", f"air-time[{first['segment']}]", str(first["number"]), "--json", cwd=fleet).json
    assert shown["details"]["version"]["score"] == first["score"]
    assert modelmill("search", "--where", "mae < 8", "--limit", "3", "--json", cwd=fleet).json == best
    further = modelmill("search", "air-time", "--where", "mae < 8", "--after", best["after"], "--json", cwd=fleet).json
    assert not {row["segment"] for row in further["versions"]} & {row["segment"] for row in best["versions"]}


def test_every_next_command_of_a_look_around_works(modelmill: Callable[..., Any], fleet: Path) -> None:
    for words in (["status"], ["show"], ["show", "run", "1"], ["data", "list"], ["data", "show"]):
        done = modelmill(*words, cwd=fleet)
        assert done.code == 0, done.err
        following = done.next.split()
        assert following[0] == "modelmill"
        if following[1] not in ("up", "train"):
            assert modelmill(*following[1:], cwd=fleet).code == 0


def test_commands_find_the_project_from_below_and_from_afar(
    modelmill: Callable[..., Any], fleet: Path, tmp_path: Path
) -> None:
    (fleet / "notes").mkdir(exist_ok=True)
    below = modelmill("status", "--json", cwd=fleet / "notes").json
    afar = modelmill("status", "--json", "--project", str(fleet), cwd=tmp_path).json
    assert below["models"] == afar["models"] != []


def test_rows_that_break_the_contract_change_nothing(
    modelmill: Callable[..., Any], fleet: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("origin,carrier,dest,time_hour,distance,hour,air_time\nJFK,B6,BOS,2013-01-01T09:00:00,187,99,40\n")
    before = modelmill("data", "list", "--json", cwd=fleet).json
    done = modelmill("data", "import", str(bad), cwd=fleet)
    assert (done.code, done.err.splitlines()[1].split()[0]) == (2, "MM101")
    assert "hour" in done.err
    assert modelmill("data", "list", "--json", cwd=fleet).json == before


def test_predict_answers_without_a_node(modelmill: Callable[..., Any], fleet: Path) -> None:
    done = modelmill("predict", "--row", *FIELDS, "--json", cwd=fleet)
    (answer,) = done.json["answers"]
    assert 20 < answer["value"] < 90
    assert answer["segment"] == "JFK,B6,BOS"


def test_a_field_that_is_missing_is_named(modelmill: Callable[..., Any], fleet: Path) -> None:
    done = modelmill("predict", "--row", *FIELDS[:-1], cwd=fleet)
    assert (done.code, done.err[:5]) == (2, "MM201")
    assert "`hour`" in done.err


def test_a_node_in_the_background_answers_until_down(modelmill: Callable[..., Any], fleet: Path) -> None:
    up = modelmill("up", "--detach", "--port", "0", "--json", cwd=fleet)
    assert up.code == 0, up.out
    try:
        answer = post(up.json["url"], ROW)
        assert answer["answered_by"] in ("own", "pooled")
        by_command = modelmill("predict", *FIELDS, "--json", cwd=fleet).json
        assert by_command["answers"][0]["value"] == answer["air_time"]
        assert by_command["source"].startswith("node ")
        assert modelmill("status", "--json", cwd=fleet).json["node"]["healthy"]
    finally:
        down = modelmill("down", "--json", cwd=fleet)
    assert down.json["stopped"] is True
    assert modelmill("down", "--json", cwd=fleet).json["stopped"] is False


def test_up_in_the_foreground_ends_cleanly_on_sigterm(fleet: Path) -> None:
    command = [sys.executable, "-m", "modelmill", "up", "--port", "0"]
    with subprocess.Popen(command, cwd=fleet, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if line.startswith("answers   http"))
        assert post(said.split()[1], ROW)["model"] == "air-time"
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints


def test_fsck_and_doctor_find_nothing_wrong(modelmill: Callable[..., Any], fleet: Path) -> None:
    assert modelmill("fsck", "--json", cwd=fleet).json["problems"] == []
    doctor = modelmill("doctor", "--json", cwd=fleet)
    assert (doctor.code, [check for check in doctor.json["checks"] if check["state"] == "problem"]) == (0, [])
