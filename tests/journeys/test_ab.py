"""Two versions serve side by side, and what was measured says which does better."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from .conftest import Command

CUSTOMERS = [f"c{n:04d}" for n in range(1_000)]
BUYS = {1: 0.3, 2: 0.5}
"""How often a customer buys whom a version has answered."""
MODEL = """
import numpy as np
import polars as pl

import modelmill as mm


class Offer(mm.Schema):
    store: str = mm.key()
    customer: str = mm.key()
    day: int = mm.col()
    price: float = mm.target()


offers = mm.Model("offers", Offer, by=[Offer.store], min_rows=10)


@offers.data
def rows(window):
    n = 100
    at = np.arange(n)
    store = [f"s{i % 2}" for i in range(n)]
    return pl.DataFrame({"store": store, "customer": "c", "day": at // 2, "price": 10.0 + at // 2})


@offers.train
def train(x, y, more: float = 0.0):
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(x, y + more)


@offers.test
def later_is_more(ask):
    assert ask(day=20) > ask(day=10)
"""


class Asked(NamedTuple):
    request_id: str
    customer: str
    version: int


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project whose first version a node of prod serves, and a second that is only built."""
    folder = tmp_path_factory.mktemp("ab") / "p"
    folder.mkdir()
    (folder / "m.py").write_text(MODEL)
    (folder / "modelmill.toml").write_text('model = "m.py"\n[environments.prod]\nrequires = ["law"]\n')
    assert modelmill("train", cwd=folder).code == 0
    alone = modelmill("ab", "1", "--in", "prod", "--outcome", "bought", cwd=folder)
    assert (alone.code, "MM428" in alone.err) == (3, True), alone.err
    assert modelmill("deploy", "prod", "--yes", cwd=folder).code == 0
    assert modelmill("serve", "--env", "prod", "--detach", "--port", "0", cwd=folder).code == 0
    assert modelmill("train", "--set", "more=1.0", cwd=folder).code == 0
    yield folder
    modelmill("down", "--env", "prod", cwd=folder)


def ask(modelmill: Command, folder: Path, customers: list[str]) -> list[Asked]:
    (node,) = modelmill("status", "--json", cwd=folder).json["nodes"]
    found = []
    with closing(http.client.HTTPConnection(node["url"].removeprefix("http://"))) as connection:
        for customer in customers:
            body = json.dumps({"store": "s0", "customer": customer, "day": 7})
            connection.request("POST", "/offers", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            found.append(Asked(answer.headers["x-request-id"], customer, told["version"]))
    return found


def write_bought(file: Path, asked: list[Asked]) -> int:
    """Write down who bought, and nobody else, as a shop's tills do; return how many."""
    chance = random.Random(1)
    bought = [one.request_id for one in asked if chance.random() < BUYS[one.version]]
    file.write_text("".join(f"{line}\n" for line in ["request_id,bought", *(f"{one},true" for one in bought)]))
    return len(bought)


def test_what_makes_no_test_is_refused(modelmill: Command, project: Path) -> None:
    for words in (
        ["2"],
        ["2", "--outcome", "price"],
        ["2", "--outcome", "bought", "--share", "100%"],
        ["1", "--outcome", "bought"],
        ["--stop"],
    ):
        refused = modelmill("ab", *words, "--in", "prod", cwd=project)
        assert refused.code == 2, (words, refused.out + refused.err)
    assert modelmill("ab", "--in", "prod", "--json", cwd=project).json["ab"] is None


def test_the_version_with_which_more_is_bought_is_better(modelmill: Command, project: Path) -> None:
    words = ("--in", "prod", "--outcome", "bought", "--absent", "0", "--json")
    begun = modelmill("ab", "2", *words, cwd=project)
    assert (begun.code, begun.json["done"], begun.json["confirmed"]) == (0, "begun", 1), begun.out + begun.err
    assert begun.json["ab"]["verdict"] == "unknown"
    asked = ask(modelmill, project, CUSTOMERS)
    assert {one.version for one in asked} == {1, 2}
    assert ask(modelmill, project, CUSTOMERS[:50]) != []  # who asks again counts once, and is answered by the same side
    count = write_bought(project / "bought.csv", asked)
    given = modelmill("labels", "import", "bought.csv", "--outcome", "bought", "--json", cwd=project)
    assert (given.code, given.json["imported"]["rows"]) == (0, count), given.out + given.err
    assert [one["labelled"] for one in given.json["environments"]] == [count]
    found = modelmill("ab", "--in", "prod", "--json", cwd=project).json["ab"]
    sides = found["current"], found["candidate"]
    assert [side["version"] for side in sides] == [1, 2]
    assert sum(side["entities"] for side in sides) == len(CUSTOMERS)
    assert sum(side["answers"] for side in sides) == sum(side["measured"] for side in sides) == len(CUSTOMERS) + 50
    assert (found["verdict"], found["low"] > 0) == ("better", True), found
    assert "r2 is better" in modelmill("ab", "--in", "prod", cwd=project).out
    assert "50% of entities" in modelmill("status", cwd=project).out
    waits = modelmill("plan", "prod", cwd=project)
    assert (waits.code, "r2 takes traffic beside r1" in waits.out) == (3, True), waits.out
    other = modelmill("promote", "2", "--to", "prod", cwd=project)
    assert (other.code, "MM40" in other.err) == (3, True), other.out + other.err


def test_the_outcome_is_no_column_of_the_model(modelmill: Command, project: Path) -> None:
    for name in ("price", "day"):
        refused = modelmill("labels", "import", "bought.csv", "--outcome", name, cwd=project)
        assert (refused.code, f"`{name}` is a column" in refused.err) == (2, True), refused.err


def test_it_lasts_until_somebody_ends_it(modelmill: Command, project: Path) -> None:
    ended = modelmill("ab", "--in", "prod", "--stop", "--json", cwd=project)
    assert (ended.code, ended.json["done"], ended.json["ab"]["verdict"]) == (0, "ended", "better"), ended.err
    assert {one.version for one in ask(modelmill, project, CUSTOMERS[:60])} == {1}
    assert modelmill("ab", "--in", "prod", "--json", cwd=project).json["ab"]["state"] == "stopped"
    released = modelmill("promote", "2", "--to", "prod", cwd=project)
    assert released.code == 0, released.out + released.err
    assert {one.version for one in ask(modelmill, project, CUSTOMERS[:60])} == {2}
    assert modelmill("fsck", cwd=project).code == 0
