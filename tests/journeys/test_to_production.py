"""From a first version to a release that a canary has judged in production, and back: a year of flights, under load.

The project is the one that `init` writes, with every flight of 2013 instead of its sample.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.journeys.conftest import Command
from tests.journeys.test_levels import commit

from modelmill.serving.processes import held_by

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights"
FLOORS = '\n[environments.prod]\nrequires = ["clean commit", "law", "gate", "canary"]\nworkers = 2\n'
FIELDS = ["origin", "carrier", "dest", "time_hour", "distance", "hour"]


def write_project(folder: Path) -> None:
    """Put the whole year in the place of the sample, declare production, and have the canary's steps last seconds.

    Its first step takes 10% of the segments: 2% of them would have to be asked 50,000 requests before they have had their 700.
    """
    sys.path.insert(0, str(EXAMPLE))
    try:
        from flights import read_flights
    finally:
        sys.path.remove(str(EXAMPLE))
    read_flights().write_parquet(folder / "sample" / "flights.parquet")
    model, settings = folder / "delays.py", folder / "modelmill.toml"
    text = model.read_text().replace('hold="30m"', 'hold="1s"').replace('steps=["2%", "20%",', 'steps=["10%", "50%",')
    model.write_text(text)
    settings.write_text(settings.read_text() + FLOORS)


def requests_of(folder: Path) -> list[bytes]:
    """Return a request each of many flights, from all over the fleet."""
    return bodies_of(flights_of(folder).gather_every(17))


def one_of_each(folder: Path) -> list[bytes]:
    """Return a request for each segment: who has answered them all has mapped all that it ever will."""
    return bodies_of(flights_of(folder).unique(["origin", "carrier", "dest"], maintain_order=True))


def flights_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "sample" / "flights.parquet", columns=FIELDS)


def bodies_of(flights: pl.DataFrame) -> list[bytes]:
    rows = flights.with_columns(pl.col("time_hour").dt.strftime("%Y-%m-%dT%H:%M"))
    return [json.dumps(row).encode() for row in rows.to_dicts()]


@contextmanager
def load(url: str, bodies: Sequence[bytes]) -> Iterator[Counter[str]]:
    """Ask flight after flight from three connections until the block ends; count the answers by status."""
    found, over = Counter[str](), threading.Event()

    def ask(first: int) -> None:
        with closing(http.client.HTTPConnection(url.removeprefix("http://"))) as connection:
            for body in itertools.islice(itertools.cycle(bodies), first, None, 3):
                if over.is_set():
                    return
                connection.request("POST", "/air-time", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                found[str(answer.status)] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def answers(url: str, bodies: Sequence[bytes]) -> list[bytes]:
    """Return what some flights are answered."""
    found = []
    with closing(http.client.HTTPConnection(url.removeprefix("http://"))) as connection:
        for body in bodies:
            connection.request("POST", "/air-time", body, {"content-type": "application/json"})
            found.append(connection.getresponse().read())
    return found


def mapped(infra: dict[str, Any], folder: Path) -> dict[str, int]:
    """Return the files of the store that a node's processes have in their memory, with their bytes, as /proc tells."""
    seen = [held_by(one["pid"]) for one in infra["processes"]]
    files = {file for one in seen if one for file in one.maps if str(folder / ".modelmill" / "blobs") in file}
    return {file: Path(file).stat().st_size for file in files}


@pytest.fixture(scope="module")
def session(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Run the whole session once; return every command's answer."""
    parent = tmp_path_factory.mktemp("production")
    folder = parent / "delays"
    found: dict[str, Any] = {"folder": folder}

    def run(name: str, *words: str, code: int = 0) -> Any:
        done = modelmill(*words, "--json", cwd=parent if words[0] == "init" else folder)
        assert done.code == code, f"{name}: {done.out}{done.err}"
        found[name] = json.loads(done.out or done.err)
        return found[name]

    run("init", "init", "delays")
    write_project(folder)
    commit(folder)
    run("train", "train", "--window", "..2013-09-01")
    run("too early", "deploy", "prod", "--yes", code=3)
    run("retrain", "retrain", "--window", "..2013-11-01")
    run("dev", "promote", "2", "--to", "dev")
    run("first", "promote", "2", "--to", "prod")
    run("serve", "serve", "--env", "prod", "--detach", "--port", "0")
    try:
        url, bodies = found["serve"]["node"]["url"], requests_of(folder)
        some = bodies[:300]
        found["answers before"] = answers(url, some)
        run("retrain again", "retrain", "--window", "..2013-12-31")
        run("infra", "infra")
        answers(url, one_of_each(folder))
        found["mapped before"] = mapped(found["infra"], folder)
        run("plan", "plan", "prod", "--all", "-o", "next.plan")
        with load(url, bodies) as counted:
            run("deploy", "deploy", "next.plan")
        found["asked"] = counted
        run("status", "status")
        found["answers after"] = answers(url, some)
        answers(url, one_of_each(folder))
        found["mapped after"] = mapped(found["infra"], folder)
        run("explain", "explain", "--in", "prod")
        run("rollback", "rollback", "air-time", "prod", "--reason", "rehearsal")
        found["answers again"] = answers(url, some)
        run("history", "history", "air-time", "prod")
        run("audit", "audit")
        yield found
    finally:
        modelmill("down", "--env", "prod", cwd=folder)


def test_what_no_gate_has_judged_does_not_get_to_production(session: dict[str, Any]) -> None:
    refused = session["too early"]
    assert (refused["code"], "gate" in refused["got"]) == ("MM416", True)


def test_a_promotion_moves_the_same_bytes_to_another_place(session: dict[str, Any]) -> None:
    dev, prod = session["dev"], session["first"]
    assert (dev["plan"]["version"], prod["plan"]["version"], dev["moved"], prod["moved"]) == (2, 2, True, True)
    assert "segments answered as at their build" in prod["rehearsed"]
    blocked = session["audit"]["audits"][0]["blocked_by"]
    assert "no promotion was recorded" not in blocked


def test_the_plan_says_what_happens(session: dict[str, Any]) -> None:
    plan, status = session["plan"], session["status"]
    assert (plan["before"], plan["before_version"], plan["version"], plan["kind"]) == (1, 2, 3, "retraining")
    assert plan["steps"] == ["10%", "50%", "100%"]
    assert [check["floor"] for check in plan["checks"]][:3] == ["clean commit", "law", "gate"]
    assert all(check["ok"] for check in plan["checks"])
    (node,) = [node for node in status["nodes"] if node["environment"] == "prod"]
    assert (plan["url"], plan["workers"], plan["runs"]) == (node["url"], node["workers"], True)
    assert node["releases"]["air-time"] == session["deploy"]["release"] == 2
    before, after = (session[name] for name in ("answers before", "answers after"))
    changed = {key for key in plan["changed"] if key != "pooled"}
    assert len(changed) > 100
    for one, other in zip(before, after, strict=True):
        told, now = json.loads(one), json.loads(other)
        own = now["answered_by"] == told["answered_by"] == "own"
        if own:  # a segment whose answer is another one was planned to change, and none else did
            assert (told["version"] != now["version"]) <= (now["segment"] in changed)
            assert (told["air_time"] == now["air_time"]) >= (now["segment"] not in changed)


def test_what_the_node_maps_is_what_was_planned(session: dict[str, Any]) -> None:
    new = session["mapped after"].keys() - session["mapped before"].keys()
    assert session["plan"]["load_mb"] == pytest.approx(sum(session["mapped after"][file] for file in new) / 2**20)
    assert new


def test_the_canary_goes_all_the_way_under_load(session: dict[str, Any]) -> None:
    deploy = session["deploy"]
    assert (deploy["moved"], deploy["canary"]["state"]) == (True, "done")
    assert deploy["canary"]["asked"] >= 300
    assert set(session["asked"]) == {"200"}
    assert session["explain"]["facts"]["answers"].startswith("version 3, in release r2")


def test_a_rollback_answers_with_the_bytes_of_before(session: dict[str, Any]) -> None:
    back = session["rollback"]
    assert (back["before"], back["after"], back["confirmed"]) == (2, 1, 2)
    assert session["answers again"] == session["answers before"] != session["answers after"]
    kinds = [move["kind"] for move in session["history"]["moves"]]
    assert kinds == ["rollback", "release", "canary", "release"]
    cells = {(cell["row"], cell["column"]): cell["state"] for cell in session["audit"]["audits"][0]["cells"]}
    assert (cells["deploy", "code"], cells["deploy", "model"]) == ("automatic", "automatic")
