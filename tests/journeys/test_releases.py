"""From dev to prod: plans that are exact or refused, canaries that stop by themselves, and the way back."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import Command

STORES = [f"s{n:02d}" for n in range(40)]
MODEL = """
import numpy as np
import polars as pl

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    day: int = mm.col()
    sales: float = mm.target()


sales = mm.Model(
    "sales",
    Sale,
    by=[Sale.store],
    min_rows=10,
    canary=mm.Canary(steps=["25%", "100%"], of="OF", hold="2s", abort=[mm.error_rate > 0.05]),
)


@sales.data
def rows(window):
    n = 40 * 30
    day = np.arange(n) // 40
    return pl.DataFrame({"store": [f"s{i % 40:02d}" for i in range(n)], "day": day, "sales": 3.0 * day + np.arange(n) % 40})


@sales.train
def train(x, y, slope: float = 1.0):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(x, slope * y)
    return model


@sales.predict
def predict(model, x):
    return POISON(model.predict(x))


@sales.test
def later_is_more(ask):
    assert ask(day=20) > ask(day=10)
"""


def write(folder: Path, of: str = "segments", poison: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "m.py").write_text(MODEL.replace('"OF"', f'"{of}"').replace("POISON", poison))
    (folder / "modelmill.toml").write_text('model = "m.py"\n[environments.prod]\nrequires = ["law"]\n')


def trained(modelmill: Command, folder: Path, of: str) -> Path:
    write(folder, of)
    assert modelmill("train", cwd=folder).code == 0
    return folder


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = trained(modelmill, tmp_path_factory.mktemp("releases") / "p", "segments")
    yield folder
    modelmill("down", "--env", "prod", cwd=folder)


@contextmanager
def asked(url: str) -> Iterator[Counter[str]]:
    """Ask all stores in turn until the block ends; count the answers by status and version."""
    host, found, over = url.removeprefix("http://"), Counter[str](), threading.Event()

    def ask() -> None:
        number = 0
        with closing(http.client.HTTPConnection(host)) as connection:
            while not over.is_set():
                number += 1
                body = json.dumps({"store": STORES[number % 40], "day": number % 100})
                connection.request("POST", "/sales", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                told = json.loads(answer.read())
                found[f"{answer.status} {told.get('version')} {told.get('answered_by')}"] += 1
                time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def url_of(modelmill: Command, folder: Path) -> str:
    (node,) = modelmill("status", "--json", cwd=folder).json["nodes"]
    assert node["environment"] == "prod"
    return str(node["url"])


def answer(modelmill: Command, folder: Path, store: str = "s01") -> Any:
    return answer_at(url_of(modelmill, folder), store)


def answer_at(url: str, store: str = "s01") -> Any:
    with closing(http.client.HTTPConnection(url.removeprefix("http://"))) as connection:
        connection.request(
            "POST", "/sales", json.dumps({"store": store, "day": 7}), {"content-type": "application/json"}
        )
        return connection.getresponse().read()


def test_a_first_release_is_planned_asked_for_and_made(modelmill: Command, project: Path) -> None:
    plan = modelmill("plan", "prod", "--json", cwd=project).json
    assert (plan["before"], plan["version"], plan["kind"], plan["new"], plan["steps"]) == (0, 1, "first", 41, [])
    refused = modelmill("deploy", "prod", cwd=project)
    assert refused.code == 4
    assert "MM406" in refused.err
    assert plan["id"] in refused.out
    other = modelmill("deploy", "prod", "--yes", "--plan", "00000000", cwd=project)
    assert (other.code, "MM415" in other.err) == (3, True)
    done = modelmill("deploy", "prod", "--yes", "--plan", plan["id"], "--json", cwd=project)
    assert (done.code, done.json["release"], done.json["moved"]) == (0, 1, True)
    again = modelmill("deploy", "prod", "--yes", "--json", cwd=project).json
    assert (again["moved"], again["plan"]["nothing"]) == (False, True)
    assert modelmill("rollback", "prod", cwd=project).code == 2  # there is nothing to go back to
    served = modelmill("serve", "--env", "prod", "--detach", "--port", "0", cwd=project)
    assert served.code == 0, served.err


def test_an_environment_that_is_not_declared_is_told(modelmill: Command, project: Path) -> None:
    done = modelmill("plan", "prd", cwd=project)
    assert (done.code, "MM008" in done.err, "`prod`" in done.err) == (2, True, True)


def test_a_canary_of_segments_goes_all_the_way(modelmill: Command, project: Path) -> None:
    built = modelmill("train", "--set", "slope=2.0", "--json", cwd=project).json
    assert built["counts"]["built"] == 40
    before = answer(modelmill, project)
    planned = modelmill("plan", "prod", "-o", "next.plan", "--json", cwd=project).json
    assert (planned["kind"], len(planned["changed"]), planned["steps"]) == ("experiment", 9, ["25%", "100%"])
    every = modelmill("plan", "prod", "--all", "--json", cwd=project).json
    assert len(every["changed"]) == 41
    with asked(url_of(modelmill, project)) as found:
        done = modelmill("deploy", "next.plan", "--json", cwd=project)
    assert done.code == 0, done.err
    assert (done.json["moved"], done.json["canary"]["state"]) == (True, "done")
    assert {key.split()[0] for key in found} == {"200"}
    assert answer(modelmill, project) != before
    stale = modelmill("deploy", "next.plan", cwd=project)
    assert (stale.code, "before: 1 -> 2" in stale.err) == (3, True)
    back = modelmill("rollback", "prod", "--reason", "a rehearsal", "--json", cwd=project).json
    assert (back["before"], back["after"], back["version"], back["confirmed"]) == (2, 1, 1, 1)
    assert answer(modelmill, project) == before


def test_what_was_taken_back_is_on_hold_until_somebody_resumes(modelmill: Command, project: Path) -> None:
    refused = modelmill("deploy", "prod", "--yes", cwd=project)
    assert (refused.code, "MM417" in refused.err, "a rehearsal" in refused.err) == (3, True, True)
    assert modelmill("resume", "prod", cwd=project).code == 0
    assert modelmill("resume", "prod", cwd=project).code == 2
    assert modelmill("hold", "prod", "--for", "2h", "--reason", "stocktaking", cwd=project).code == 0
    assert "stocktaking" in modelmill("status", cwd=project).out
    assert modelmill("resume", "sales", "prod", cwd=project).code == 0
    moves = modelmill("history", "sales", "prod", "--json", cwd=project).json["moves"]
    kinds = [move["kind"] for move in moves]
    assert kinds == ["resume", "hold", "resume", "rollback", "release", "canary", "release"]


def test_what_answers_is_explained(modelmill: Command, project: Path) -> None:
    answer(modelmill, project, "s03")
    facts = modelmill("explain", "sales[s03]", "--in", "prod", "--json", cwd=project).json["facts"]
    assert facts["answers"].startswith("version 1, in release r1, since ")
    assert "a rehearsal" in facts["answers"]
    assert url_of(modelmill, project) in facts["runs on"]
    assert (facts["reads"], facts["falls back"]) == ("POST /sales {store, day} -> sales", "the pooled model")
    unknown = modelmill("explain", "sales[s99]", "--in", "prod", "--json", cwd=project).json["facts"]
    assert unknown["answers"].startswith("the pooled model, no model was built for this segment: version 1")
    assert "(41 segments)" in modelmill("explain", "--in", "prod", cwd=project).out
    assert modelmill("explain", "--in", "dev", cwd=project).code == 2  # nothing is released there


def test_a_poisoned_release_is_taken_back_by_itself(modelmill: Command, project: Path) -> None:
    before = answer(modelmill, project)
    write(project, poison="np.nan * ")
    file = (project / "m.py").read_text()
    (project / "m.py").write_text(file.replace("assert ask(day=20) > ask(day=10)", "pass").replace("POISON", ""))
    built = modelmill("train", "--json", cwd=project)
    if built.code != 0:  # a model without an answer is not even built: the poison has to come with the traffic
        write(project, poison="np.where(x[:, :1].max() > 40, np.nan, 1.0) * ")
        built = modelmill("train", "--json", cwd=project)
    assert built.json["counts"]["built"] == 40, built.out + built.err
    with asked(url_of(modelmill, project)) as found:
        done = modelmill("deploy", "prod", "--yes", "--json", cwd=project)
    assert (done.code, done.json["canary"]["state"], done.json["moved"]) == (3, "stopped", False), done.out
    assert "error_rate" in done.json["canary"]["why"] or "fails more often" in done.json["canary"]["why"]
    assert done.json["canary"]["exposed"] == 10
    assert done.json["canary"]["asked"] < 0.5 * sum(found.values())
    assert answer(modelmill, project) == before
    assert modelmill("history", "prod", "--json", cwd=project).json["moves"][0]["kind"] == "stop"


def test_some_segments_go_back_alone(modelmill: Command, project: Path) -> None:
    write(project)
    assert modelmill("promote", "2", "--to", "prod", "--detach", cwd=project).code == 0
    wanted = modelmill("rollback", "prod", cwd=project)  # a canary that runs is what goes
    assert wanted.code == 0
    assert "r2" in wanted.out
    assert modelmill("status", "--json", cwd=project).json["canaries"] == []
    assert modelmill("resume", "prod", cwd=project).code == 0
    one, other = answer(modelmill, project, "s01"), answer(modelmill, project, "s02")
    with asked(url_of(modelmill, project)):
        assert modelmill("promote", "2", "--to", "prod", cwd=project).code == 0
    changed = answer(modelmill, project, "s02")
    assert changed != other
    back = modelmill("rollback", "sales[s01]", "prod", "--json", cwd=project).json
    assert (back["segments"], back["confirmed"]) == (["s01"], 1)
    assert answer(modelmill, project, "s01") == one
    assert answer(modelmill, project, "s02") == changed
    assert modelmill("fsck", cwd=project).code == 0
    assert modelmill("resume", "prod", cwd=project).code == 0


def test_a_rollback_needs_no_database(modelmill: Command, project: Path) -> None:
    database = project / ".modelmill" / "mill.db"
    url = url_of(modelmill, project)
    aside = database.rename(database.with_name("aside"))
    database.mkdir()  # nothing can be opened there
    try:
        back = modelmill("rollback", "prod", "--json", cwd=project)
        assert back.code == 0, back.err
        assert (back.json["without_database"], back.json["confirmed"]) == (True, 1)
        after = answer_at(url)
    finally:
        database.rmdir()
        aside.rename(database)
    status = modelmill("status", "--json", cwd=project).json
    assert status["models"][0]["releases"]["prod"] == back.json["after"]
    assert list(status["holds"]) == ["sales prod"]
    assert answer(modelmill, project) == after
    assert modelmill("history", "prod", "--json", cwd=project).json["moves"][0]["kind"] == "rollback"


def test_floors_that_are_not_reached_refuse(modelmill: Command, project: Path) -> None:
    assert modelmill("resume", "prod", cwd=project).code == 0
    toml = project / "modelmill.toml"
    declared = toml.read_text()
    toml.write_text(declared.replace('["law"]', '["law", "clean commit", "gate"]'))
    plan = modelmill("plan", "prod", "--json", cwd=project)
    assert (plan.code, plan.json["unmet"]) == (3, ["clean commit", "gate"])
    refused = modelmill("deploy", "prod", "--yes", cwd=project)
    assert (refused.code, "MM416" in refused.err) == (3, True)
    toml.write_text(declared.replace('"law"', '"magic"'))
    assert "MM003" in modelmill("plan", "prod", cwd=project).err
    toml.write_text(declared)  # what cannot be read would not let the node be stopped


def test_a_canary_of_requests_is_sticky(modelmill: Command, tmp_path: Path) -> None:
    folder = trained(modelmill, tmp_path / "p", "requests")
    assert modelmill("deploy", "prod", "--yes", cwd=folder).code == 0
    assert modelmill("serve", "--env", "prod", "--detach", "--port", "0", cwd=folder).code == 0
    host = url_of(modelmill, folder).removeprefix("http://")
    try:
        assert modelmill("train", "--set", "slope=2.0", cwd=folder).code == 0
        assert modelmill("deploy", "prod", "--yes", "--detach", cwd=folder).code == 0
        connection = http.client.HTTPConnection(host)
        versions: dict[tuple[str, int], set[int]] = {}
        for day in range(50):
            for store in STORES:
                for _ in range(2):
                    body = json.dumps({"day": day, "store": store})
                    connection.request("POST", "/sales", body, {"content-type": "application/json"})
                    told = json.loads(connection.getresponse().read())
                    versions.setdefault((store, day), set()).add(told["version"])
            if modelmill("status", "--json", cwd=folder).json["canaries"] == []:
                break
        sticky = [found for found in versions.values() if len(found) == 1]
        share = sum(found == {2} for found in sticky) / len(sticky)
        assert len(sticky) >= len(versions) - 40  # but for those that were asked while the canary ended
        assert share > 0.15
        connection.close()
    finally:
        modelmill("down", "--env", "prod", cwd=folder)


@pytest.fixture(scope="module")
def built(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with two versions, and an environment in which somebody has to approve."""
    folder = trained(modelmill, tmp_path_factory.mktemp("approved") / "p", "segments")
    toml = 'model = "m.py"\n[environments.prod]\nrequires = ["approval"]\nmost_refused = 0.1\n'
    (folder / "modelmill.toml").write_text(toml)
    return folder


def test_somebody_else_has_to_approve(modelmill: Command, built: Path) -> None:
    refused = modelmill("deploy", "prod", "--yes", cwd=built)
    assert (refused.code, "MM406" in refused.err, "nobody has said so" in refused.err) == (4, True, True)
    own = modelmill("approve", "1", "--for", "prod", cwd=built)
    assert (own.code, "MM407" in own.err) == (3, True)
    said = modelmill("approve", "1", "--for", "prod", "--json", cwd=built, LOGNAME="somebody-else")
    assert (said.code, said.json["approved"], said.json["by"]) == (0, True, "somebody-else")
    assert modelmill("approve", "1", "--for", "prod", "--decline", "--reason", "too early", cwd=built).code == 0
    declined = modelmill("plan", "prod", cwd=built)
    assert (declined.code, "too early" in declined.out) == (3, True)
    assert modelmill("approve", "1", "--for", "prod", cwd=built, LOGNAME="somebody-else").code == 0
    done = modelmill("deploy", "prod", "--yes", "--json", cwd=built)
    assert (done.code, done.json["moved"]) == (0, True)
    assert "41 segments answered as at their build" in done.json["rehearsed"]
    assert "41 segments" in modelmill("plan", "prod", "--json", cwd=built).json["rehearsed"]
    assert modelmill("approve", cwd=built).code == 2


def test_a_release_whose_bytes_were_changed_is_not_made(modelmill: Command, built: Path) -> None:
    assert modelmill("train", "--set", "slope=2.0", cwd=built).code == 0
    assert modelmill("approve", "2", "--for", "prod", cwd=built, LOGNAME="somebody-else").code == 0
    pack = max((path for path in (built / ".modelmill" / "blobs").rglob("*") if path.is_file()), key=_packed_at)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(content)
    refused = modelmill("deploy", "prod", "--yes", cwd=built)
    assert (refused.code, "MM419" in refused.err or "MM505" in refused.err) == (
        3 if "MM419" in refused.err else 70,
        True,
    )
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)
    assert modelmill("status", "--json", cwd=built).json["models"][0]["releases"]["prod"] == 1


def _packed_at(path: Path) -> float:
    return path.stat().st_mtime_ns if path.read_bytes()[:4] == b"mode" else 0


def test_too_many_refused_segments_refuse_the_release(modelmill: Command, built: Path) -> None:
    file = built / "m.py"
    file.write_text(file.read_text().replace("ask(day=20) > ask(day=10)", "ask(day=0) < 30"))
    assert modelmill("train", "--set", "slope=1.2", cwd=built).code == 1
    assert modelmill("approve", "3", "--for", "prod", cwd=built, LOGNAME="somebody-else").code == 0
    plan = modelmill("plan", "prod", "--json", cwd=built)
    assert (plan.code, plan.json["unmet"]) == (3, ["refused"])
    assert modelmill("deploy", "prod", "--yes", cwd=built).code == 3


def test_the_same_bytes_in_two_environments_are_a_promotion(modelmill: Command, built: Path) -> None:
    before = modelmill("audit", "--json", cwd=built).json["audits"][0]
    assert "no promotion was recorded" in before["blocked_by"] or before["level"] < 2
    assert modelmill("promote", "1", "--to", "dev", cwd=built).code == 0
    after = modelmill("audit", "--json", cwd=built).json["audits"][0]
    assert "no promotion was recorded" not in after["blocked_by"]
    cell = next(one for one in after["cells"] if (one["row"], one["column"]) == ("deploy", "code"))
    assert cell["state"] in ("by hand", "automatic")
