"""A zoo of bad models beside a good one on one node: ``python bench/bad_models.py``; tests/journeys has the short version.

Each round asks a model to do something that no model should: NaN, the wrong shape, raise one time in twenty, take fifty
times as long, print, leak, segfault, end its process. What is counted are the answers of the good model, which clients ask
all the time, and what became of the bad one's own requests.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import clients

from modelmill.serving.control import NodeInfo, describe_node, find_node
from modelmill.serving.processes import Process, descendants, list_processes

MEMORY_MB = 1024
LEAK_MB = 64
PATIENCE_S = 60
MODEL = """
import os, signal, sys, time

import numpy as np
import polars as pl

import modelmill as mm


class Row(mm.Schema):
    store: str = mm.key()
    a: float = mm.col()
    y: float = mm.target()


m = mm.Model("{name}", Row, by=[Row.store], min_rows=10)
kept, asked = [], [0]


@m.data
def rows(window: mm.Window) -> pl.DataFrame:
    place, a = np.arange(200) % 2, np.random.default_rng(0).normal(size=200)
    return pl.DataFrame({{"store": [f"s{{i}}" for i in place], "a": a, "y": (2 + 50 * place) * a}})


@m.train
def train(x: np.ndarray, y: np.ndarray) -> dict:
    return {{"slope": float(x[:, 0] @ y / (x[:, 0] @ x[:, 0]))}}


@m.predict
def predict(model: dict, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    what = int(x[0, 0]) if segment and x[0, 0] >= 1000 else 0  # nothing in the data is: it was built like any other
    if what == 1001:
        return np.full(len(x), np.nan)
    if what == 1002:
        return np.zeros((len(x) + 1, 3))
    if what == 1003:
        asked[0] += 1
        if asked[0] % 20 == 0:
            raise RuntimeError("one in twenty")
    if what == 1004:
        time.sleep(0.05)
    if what == 1005:
        print("hello", "x" * 10_000, flush=True)
    if what == 1006:
        kept.append(np.ones({leak_mb} << 17))
    if what == 1007:
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == 1008:
        os._exit(3)
    return model["slope"] * x[:, 0]
"""
NAN, SHAPE, RAISES, SLOW, PRINTS, LEAKS, SEGFAULTS, EXITS = range(1001, 1009)


def write_project(folder: Path) -> None:
    """Write a project with a good fleet, `sales`, and a bad one, `zoo`; a process of either has little memory."""
    folder.mkdir(parents=True)
    for name in ("sales", "zoo"):
        (folder / f"{name}.py").write_text(MODEL.format(name=name, leak_mb=LEAK_MB))
    (folder / "modelmill.toml").write_text(f'model = "sales.py"\n[serve]\nchild_memory_mb = {MEMORY_MB}\n')


def modelmill(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelmill", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def start(folder: Path) -> None:
    """Build both fleets and serve them from one node of one worker."""
    modelmill(folder, "up", "--detach", "--port", "0")
    modelmill(folder, "up", "zoo.py", "--detach", "--port", "0")


def node_of(folder: Path) -> NodeInfo:
    found = find_node(folder / ".modelmill")
    assert found is not None
    return found


def sent(info: NodeInfo, method: str, path: str, body: bytes | None = None) -> bytes:
    """Send one request and return what comes."""
    with closing(http.client.HTTPConnection("127.0.0.1", info.port, timeout=60)) as link:
        link.request(method, path, body)
        return link.getresponse().read()


def ask(info: NodeInfo, what: int, store: str = "s0", model: str = "zoo") -> str:
    """Ask a model and return who answered, or the code of the refusal."""
    told = json.loads(sent(info, "POST", f"/{model}", json.dumps({"store": store, "a": float(what)}).encode()))
    return str(told.get("answered_by") or told["code"])


def told(info: NodeInfo, name: str) -> float:
    """Return a number that the node tells Prometheus."""
    lines = sent(info, "GET", "/metrics").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def misbehave(folder: Path, rounds: int) -> dict[str, Any]:
    """Have the zoo do its worst while the good model is asked, and count what came of it."""
    info, found = node_of(folder), {}
    body = json.dumps({"store": "s1", "a": 0.5}).encode()
    with clients.Load(info.port, body) as load:
        load.answer_more(20)
        for name, what in (("NaN", NAN), ("shape", SHAPE), ("raises", RAISES), ("slow", SLOW), ("prints", PRINTS)):
            found[name] = dict(Counter(ask(info, what) for _ in range(rounds)))
            load.answer_more(20)
        leaks = 3 * MEMORY_MB // LEAK_MB // 2  # enough for one end: three in a row would be a loop
        found["leaks"] = dict(Counter(ask(info, LEAKS) for _ in range(leaks)))
        load.answer_more(20)
        found["loop"] = crash_loop(info, load)
    found |= {
        "ended by memory": told(info, 'modelmill_children_ended_total{by="memory"}'),
        "ended otherwise": told(info, 'modelmill_children_ended_total{by="other"}'),
        "good answered": load.answered,
        "good failed": len(load.failures),
        "good answers": len(load.answers),
    }
    return found


def crash_loop(info: NodeInfo, load: clients.Load) -> dict[str, Any]:
    """End the zoo's process until the node leaves it alone, and wait until it is tried again."""
    seen: list[str] = []
    for store, what in (("s0", SEGFAULTS), ("s1", EXITS), ("s0", SEGFAULTS), ("s1", EXITS)):
        seen.append(ask(info, what, store))
        if seen[-1] == "MM538":
            break
    at_once = Counter(ask(info, 1, "s1") for _ in range(20))
    broken = (describe_node(info) or {})["broken"].get("zoo", "")
    load.answer_more(20)
    quarantined = told(info, "modelmill_children_quarantined")
    deadline = time.monotonic() + PATIENCE_S
    while ask(info, 1, "s1") != "own" and time.monotonic() < deadline:
        time.sleep(0.2)
    return {
        "asked": seen,
        "refused at once": dict(at_once),
        "told": broken,
        "quarantined": quarantined,
        "again": ask(info, 1, "s1"),
    }


def lose_store(folder: Path) -> dict[str, Any]:
    """Take database and blobs away: what is loaded answers, what has to be loaded anew does not, until they are back."""
    info, store = node_of(folder), folder / ".modelmill"
    found = {"before": ask(info, 1, model="sales")}
    for name in ("blobs", "mill.db"):
        (store / name).rename(store / f"lost-{name}")
    try:
        found["loaded"] = dict(Counter(ask(info, 1, model="sales") for _ in range(50)))
        for process in children(info):
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.5)  # the node notices
        found["not loaded"] = ask(info, 1, model="sales")
    finally:
        for name in ("blobs", "mill.db"):
            (store / f"lost-{name}").rename(store / name)
    deadline = time.monotonic() + PATIENCE_S
    while ask(info, 1, model="sales") != "own" and time.monotonic() < deadline:
        time.sleep(0.2)
    return found | {"after": ask(info, 1, model="sales")}


def children(info: NodeInfo) -> list[Process]:
    """Return the processes of models that a node has."""
    every = {one.pid: one for one in list_processes()}
    return [every[pid] for pid in descendants(every, {info.pid}) if "modelmill.serving.child" in every[pid].words]


def main() -> int:
    parser = ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "zoo"
        write_project(folder)
        try:
            start(folder)
            found = misbehave(folder, options.rounds) | {"store lost": lose_store(folder)}
        finally:
            modelmill(folder, "down")
    print(json.dumps(found, indent=1))
    return 1 if found["good failed"] or found["good answers"] != 1 or found["loop"]["again"] != "own" else 0


if __name__ == "__main__":
    sys.exit(main())
