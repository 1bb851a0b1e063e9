"""``kill -9`` between every pair of steps of a deploy, a canary and a roll-back: what is released is never half.

    python bench/release_faults.py [--every 1] [--seed 1]

A *step* is whatever another process could see half of: a statement, a commit, a file that is opened for writing, renamed or
removed. Each is counted where Python and SQLAlchemy announce it, so nothing of this is in the product. For n = 1, 2, ... a
fork of this process does the command and ends itself with SIGKILL before its n-th step, until it comes to its end. After
each kill the node answers as one of the two releases does; after the next command the rows, what is published and what the
node serves are the same, and doing the command again leads to where it would have led.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Engine, event

from modelmill.api.mill import Mill
from modelmill.errors import Conflict, ModelmillError, NotFound
from modelmill.names import ModelName
from modelmill.orchestrator.rolling import Deployer
from modelmill.release.moving import find_hold, list_moves
from modelmill.release.pointers import Published, find_published
from modelmill.release.releasing import current_release
from modelmill.release.rollouts import open_rollout
from modelmill.serving.control import NodeInfo, describe_node, find_node, run_folder, stop_node
from modelmill.serving.history import History
from modelmill.serving.meters import Counted
from modelmill.settings import load_settings
from modelmill.store.blobs import pointers_of
from modelmill.store.opening import open_store

ENV, MODEL = "prod", ModelName("sales")
PATIENCE_S = 60.0
_FILE_STEPS = {"os.rename", "os.remove", "os.link", "os.mkdir"}
SOURCE = """
import numpy as np
import polars as pl
from sklearn.linear_model import LinearRegression

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    day: int = mm.col()
    sales: float = mm.target()


sales = mm.Model(
    "sales", Sale, by=[Sale.store], min_rows=10,
    canary=mm.Canary(steps=["10%", "50%", "100%"], of="requests", hold="0s", abort=[mm.error_rate > 0.2]),
)


@sales.data
def rows(window):
    day = np.arange(600) // 20
    return pl.DataFrame({"store": [f"s{i % 20:02d}" for i in range(600)], "day": day, "sales": 3.0 * day + np.arange(600) % 20})


@sales.train
def train(x, y, slope: float = 1.0):
    return LinearRegression().fit(x, slope * y)
"""


# ------------------------------------------------------------------ dying between steps


class Steps:
    """Counts the steps of this process, and ends it before the one that was asked for."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def __call__(self, *_: Any, **__: Any) -> None:
        """Count a step."""
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Hear of every step from now on."""
        event.listen(Engine, "before_cursor_execute", self)
        event.listen(Engine, "commit", self)
        sys.addaudithook(self._hear)

    def _hear(self, name: str, arguments: tuple[Any, ...]) -> None:
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if name in _FILE_STEPS or writes:
            self()


def die_at(last: int, command: Callable[[], Any]) -> int | None:
    """Do a command in a fork that is killed before a step; return how many steps it had, None where it was killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        _do(last, command, writing)
    os.close(writing)
    with os.fdopen(reading) as told:
        steps = told.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if not steps.isdecimal():
        raise AssertionError(f"the command failed: {steps}")
    return int(steps)


def _do(last: int, command: Callable[[], Any], writing: int) -> NoReturn:
    try:
        steps = Steps(last)
        steps.watch()
        command()
        told = str(steps.count)
    except BaseException as error:  # noqa: BLE001 - told to the parent, which fails
        told = f"{type(error).__name__}: {error}"
    os.write(writing, told.encode())
    os._exit(0)


# ------------------------------------------------------------------ what must agree


class Place:
    """A project with two versions, of which the first is released, and a node; nobody else watches its canaries."""

    def __init__(self, folder: Path, *, canary: bool) -> None:
        folder.mkdir(parents=True)
        (folder / "m.py").write_text(SOURCE if canary else SOURCE.replace("    canary=", "    # canary="))
        (folder / "modelmill.toml").write_text('model = "m.py"\n[environments.prod]\n')
        self.folder, self.settings = folder, load_settings(folder)
        self.store = self.settings.store_folder
        for slope in ("1.0", "2.0"):  # apart: a fork of this process must not have begun any threads
            words = [sys.executable, "-m", "modelmill", "train", "--set", f"slope={slope}"]
            subprocess.run(words, cwd=folder, check=True, capture_output=True)
        Mill(folder).releases.deploy(ENV, version=1)
        self.start()
        self.answers = {self.ask("s03", 7)}

    def start(self) -> None:
        """Start a node as `serve` does, but that it watches no canary."""
        code = "import sys; from pathlib import Path; from modelmill.serving.control import start_node; "
        code += "start_node(Path(sys.argv[1]), sys.argv[2], host='127.0.0.1', port=0, workers=1)"
        subprocess.run([sys.executable, "-c", code, self.store, ENV], check=True)
        found = find_node(self.store, ENV)
        assert found is not None
        self.node: NodeInfo = found

    def close(self) -> None:
        """Stop the node."""
        stop_node(self.store, self.node)

    def ask(self, store: str, day: int) -> bytes:
        """Return the node's answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.node.port, timeout=30)) as connection:
            connection.request(
                "POST", "/sales", json.dumps({"store": store, "day": day}), {"content-type": "application/json"}
            )
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, content
        return content

    def published(self) -> Published:
        """Return what nodes find."""
        found = find_published(pointers_of(self.store), ENV)
        assert found is not None
        return found

    def agree(self) -> dict[str, Any]:
        """Read the declared state as any next command does, and wait until the node is there; return what all say."""
        Mill(self.folder).status()
        published = self.published()
        pointer = published.models[MODEL]
        with open_store(self.settings, create=False) as store:
            current = current_release(store.database, ENV, MODEL)
            with store.database.read() as c:
                rollout, hold = open_rollout(c, ENV, MODEL), find_hold(c, ENV, MODEL)
            newest = list_moves(store.database, ENV, MODEL, 1)[0]
        assert current is not None
        assert (pointer.release, pointer.map) == (current.number, current.map), (
            "what is published is not what the rows say"
        )
        beside = (pointer.beside.release, pointer.beside.share) if pointer.beside else None
        assert beside == ((rollout.candidate, rollout.share) if rollout else None), "the canary is half"
        self.await_node(published)
        return {"current": current.number, "beside": beside, "held": hold is not None, "move": newest.kind}

    def await_node(self, published: Published) -> None:
        """Wait until the node serves what is published."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            told = describe_node(self.node) or {"workers": [], "models": {}}
            serves = {name: model["release"] for name, model in told["models"].items()}
            workers = [worker["revision"] for worker in told["workers"]]
            if workers == [published.revision] and serves == {MODEL: published.models[MODEL].release}:
                return
            assert time.monotonic() < deadline, (told, published)
            time.sleep(0.02)


# ------------------------------------------------------------------ the three commands


def deploy(place: Place, version: int = 2) -> None:
    """Release a version at once or, as the model declares it, as a canary; what was done already is well."""
    try:
        Mill(place.folder).releases.deploy(ENV, version=version, detach=True)
    except Conflict as error:
        assert "takes traffic" in error.what, error  # noqa: PT017 - the canary that it wanted runs


def go_back(place: Place) -> None:
    """Take back what is current, or the canary that runs; where that was done before the kill, there may be nothing left."""
    try:
        Mill(place.folder).releases.rollback(ENV, reason="a fault")
    except NotFound as error:
        assert "no release before" in error.what, error  # noqa: PT017


def lift(place: Place) -> None:
    """Let releases through again."""
    try:
        Mill(place.folder).releases.resume(ENV)
    except NotFound as error:
        assert "nothing holds" in error.what, error  # noqa: PT017


def look(place: Place) -> None:
    """Look once at the canary, as its deployer does every two seconds."""
    with open_store(place.settings, create=False) as store:
        with store.database.read() as c:
            rollout = open_rollout(c, ENV, MODEL)
        if rollout is not None:
            Deployer(store, History(run_folder(place.store, ENV)), rollout).look()


def feed(place: Place, *, failed: int = 0) -> None:
    """Write down, as workers do, that both sides were asked enough to say something of the candidate."""
    taken = {
        (MODEL, "s03", 2): Counted(100, failed, {40: 100}),
        (MODEL, "s03", 1): Counted(400, 0, {40: 400}),
    }
    History(run_folder(place.store, ENV)).add(os.getpid(), taken)


def race(place: Place, versions: tuple[int, int]) -> list[str]:
    """Deploy two versions that were planned beside each other at once; return what became of each: ``moved``, or a code."""
    ready, go, children = os.pipe(), os.pipe(), []
    for version in versions:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(writing, _deploy_at(place, version, ready[1], go[0]).encode())
            os._exit(0)
        os.close(writing)
        children.append((pid, reading))
    for _ in versions:
        os.read(ready[0], 1)
    os.write(go[1], b"go")
    told = []
    for pid, reading in children:
        with os.fdopen(reading) as said:
            told.append(said.read())
        os.waitpid(pid, 0)
    for descriptor in (*ready, *go):
        os.close(descriptor)
    return told


def _deploy_at(place: Place, version: int, ready: int, go: int) -> str:
    """Plan, say so, and deploy what was planned when told to."""
    releases = Mill(place.folder).releases
    try:
        plan = releases.plan(ENV, version=version)
        os.write(ready, b"1")
        os.read(go, 1)
        return "moved" if releases.deploy(ENV, version=version, plan=plan.id).moved else "as before"
    except ModelmillError as error:
        return error.code


# ------------------------------------------------------------------ the campaign


class Campaign:
    """Kills at every n-th step, and counts what it did."""

    def __init__(self, place: Place, steps: Iterator[int]) -> None:
        self.place, self.steps = place, steps
        self.kills: dict[str, int] = {}

    def run(self, cycle: Callable[[int], bool]) -> None:
        """Do a cycle with each step, until nothing of it is killed any more."""
        for last in self.steps:
            if not cycle(last):
                return

    def kill(self, name: str, last: int, command: Callable[[Place], None]) -> bool:
        """Do a command that is killed before a step; then the node answers, and all agree."""
        killed = die_at(last, lambda: command(self.place)) is None
        self.kills[name] = self.kills.get(name, 0) + killed
        self.place.answers.add(self.place.ask("s03", 7))
        assert len(self.place.answers) <= 2, "an answer of neither release"
        return killed

    # ---------------------------------------------------------------- at once

    def at_once(self, last: int) -> bool:
        """Deploy and roll back; return whether anything was killed."""
        place = self.place
        deploying = self.kill("deploy", last, deploy)
        seen = place.agree()
        assert seen["current"] in (1, 2), seen
        assert not seen["held"], seen
        deploy(place)
        assert place.agree() == {"current": 2, "beside": None, "held": False, "move": "release"}
        going_back = self.kill("rollback", last, go_back)
        self._gone_back(place.agree())
        lift(place)
        return deploying or going_back

    def _gone_back(self, seen: dict[str, Any]) -> None:
        """It went back and is held, or neither; then it does."""
        assert (seen["current"], seen["held"]) in ((2, False), (1, True)), seen
        if not seen["held"]:
            go_back(self.place)
        assert self.place.agree() == {"current": 1, "beside": None, "held": True, "move": "rollback"}

    # ---------------------------------------------------------------- canaries

    def canary(self, last: int) -> bool:
        """Begin a canary and take its steps; then go back."""
        place = self.place
        beginning = self.kill("canary begins", last, deploy)
        assert place.agree()["beside"] in (None, (2, 0.1))
        deploy(place)
        assert place.agree()["beside"] == (2, 0.1)
        feed(place)
        stepping = self.kill("canary steps", last, look)
        assert place.agree()["beside"] in ((2, 0.1), (2, 0.5))
        while place.agree()["beside"] != (2, 0.5):
            feed(place)
            look(place)
        feed(place)
        ending = self.kill("canary ends", last, look)
        assert (place.agree()["current"], place.agree()["beside"]) in ((1, (2, 0.5)), (2, None))
        while place.agree()["current"] != 2:
            feed(place)
            look(place)
        assert place.agree() == {"current": 2, "beside": None, "held": False, "move": "release"}
        go_back(place)
        lift(place)
        return beginning or stepping or ending

    def taken_back(self, last: int) -> bool:
        """Begin a canary that somebody takes back, and one that its deployer does."""
        place = self.place
        deploy(place)
        going = self.kill("canary rolled back", last, go_back)
        seen = place.agree()
        assert (seen["beside"], seen["held"]) in (((2, 0.1), False), (None, True)), seen
        if not seen["held"]:
            go_back(place)
        assert place.agree() == {"current": 1, "beside": None, "held": True, "move": "rollback"}
        lift(place)
        deploy(place)
        feed(place, failed=60)
        stopping = self.kill("canary stopped", last, look)
        assert place.agree()["beside"] in ((2, 0.1), None)
        while place.agree()["beside"]:
            feed(place, failed=60)
            look(place)
        assert place.agree() == {"current": 1, "beside": None, "held": False, "move": "stop"}
        return going or stopping


def steps_of(every: int, seed: int) -> Iterator[int]:
    """Yield the steps before which is killed: every n-th, from a seeded one on."""
    first = random.Random(seed).randint(1, every)
    while True:
        yield first
        first += every


@contextmanager
def placed(folder: Path, *, canary: bool) -> Iterator[Place]:
    """Lend a project, and stop its node."""
    place = Place(folder, canary=canary)
    try:
        yield place
    finally:
        place.close()


def kills_at_once(folder: Path, every: int, seed: int) -> dict[str, int]:
    """Kill deploys and roll-backs; return how often each was."""
    with placed(folder, canary=False) as place:
        campaign = Campaign(place, steps_of(every, seed))
        campaign.run(campaign.at_once)
        return campaign.kills


def kills_of_canaries(folder: Path, every: int, seed: int) -> dict[str, int]:
    """Kill whatever moves a canary; return how often each was."""
    with placed(folder, canary=True) as place:
        campaign = Campaign(place, steps_of(every, seed))
        campaign.run(campaign.canary)
        campaign.steps = steps_of(every, seed + 1)
        campaign.run(campaign.taken_back)
        return campaign.kills


def main() -> int:
    """Run the campaign; it ends at the first state that is half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="modelmill-release-faults-")), time.monotonic()
    try:
        kills = kills_at_once(folder / "a", options.every, options.seed)
        kills |= kills_of_canaries(folder / "b", options.every, options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"seed": options.seed, "kills": kills, "half": 0, "seconds": round(time.monotonic() - began)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
