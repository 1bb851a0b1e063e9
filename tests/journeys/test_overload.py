"""More requests than a slow model can answer, all at once: each is answered, or told at once when to try again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.journeys.conftest import Command

BURST = 250
FILE = """
import os, time
from typing import Any
import numpy as np
from sklearn.linear_model import Ridge
import modelmill as mm

class Sale(mm.Schema):
    size: float = mm.col()
    sales: float = mm.target()

m = mm.Model("slow", Sale)

@m.data
def rows(window: mm.Window) -> Any:
    import polars as pl
    return pl.DataFrame({"size": [float(i % 17) for i in range(200)], "sales": [2.0 * (i % 17) for i in range(200)]})

@m.train
def train(x: np.ndarray, y: np.ndarray) -> Ridge:
    return Ridge().fit(x, y)

@m.predict
def predict(model: Any, x: np.ndarray) -> np.ndarray:
    if "CALLED" in os.environ:
        with open(os.environ["CALLED"], "a") as called:
            called.write(f"{len(x)}\\n")
        time.sleep(0.02 * len(x))
    return model.predict(x)
"""
Node = tuple[str, Path]


@pytest.fixture(scope="module")
def node(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Return the address of a node with one slow model, and where it notes each row that it was asked."""
    folder = tmp_path_factory.mktemp("overload")
    (folder / "models.py").write_text(FILE)
    (folder / "modelmill.toml").write_text('model = "models.py"\n')
    called = folder / "called"
    assert modelmill("up", "--detach", "--port", "0", cwd=folder, CALLED=str(called)).code == 0
    told = json.loads((folder / ".modelmill/run/dev/node.json").read_text())
    yield f"http://127.0.0.1:{told['port']}", called
    modelmill("down", cwd=folder)


def rows_asked(called: Path) -> int:
    return sum(map(int, called.read_text().split()))


def burst(url: str, headers: dict[str, str]) -> list[httpx.Response]:
    """Send all requests at once, each over a connection of its own."""

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=BURST)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            asked = [client.post(f"{url}/slow", json={"size": 3 + place}, headers=headers) for place in range(BURST)]
            return await asyncio.gather(*asked)

    return asyncio.run(run())


def warm(url: str) -> None:
    for _ in range(14):  # how long one takes is known then
        assert httpx.post(f"{url}/slow", json={"size": 3}, timeout=60).status_code == 200


def test_each_is_answered_or_told_when_to_try_again(node: Node) -> None:
    url, called = node
    warm(url)
    before = rows_asked(called)
    found = burst(url, {"x-request-timeout-ms": "1500"})
    counts = Counter(one.status_code for one in found)
    assert sum(counts.values()) == BURST  # no time-out, no connection that was lost
    assert counts[200]
    assert counts[503]
    assert set(counts) <= {200, 503, 504}
    refused = [one for one in found if one.status_code == 503]
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert {one.json()["code"] for one in refused} <= {"MM530", "MM541"}
    # Of whom was refused nobody was asked; that a model is proven to answer rows together alike asks some of them twice.
    assert rows_asked(called) - before <= 2 * (counts[200] + counts[504])
    for _ in range(5):
        assert httpx.post(f"{url}/slow", json={"size": 3}, timeout=60).status_code == 200


def test_the_node_tells_what_it_refused_and_why(node: Node) -> None:
    url, _ = node
    told: dict[str, Any] = httpx.get(f"{url}/-/node", timeout=60).json()["refused"]
    assert told["deadline"] > 0
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    assert 'modelmill_refused_early_total{reason="deadline"} ' in metrics


def test_tritons_timeout_is_a_deadline(node: Node) -> None:
    """As its clients send it: a parameter of the request, in microseconds."""
    url, called = node
    inputs = [{"name": "size", "shape": [1], "datatype": "FP64", "data": [3.0]}]
    before = rows_asked(called)
    late = httpx.post(f"{url}/v2/models/slow/infer", json={"inputs": inputs, "parameters": {"timeout": 1}}, timeout=60)
    assert late.status_code == 504
    assert late.json()["code"] == "MM542"
    assert rows_asked(called) == before
    asked = {"inputs": inputs, "parameters": {"timeout": 20_000_000}}
    assert httpx.post(f"{url}/v2/models/slow/infer", json=asked, timeout=60).status_code == 200
