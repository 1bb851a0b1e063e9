# ruff: noqa: SLF001, D102, ARG002 - it looks inside on purpose, and stands in for what it leaves out
"""What validation, metrics and the prediction log add to a request: ``python bench/hot_path.py``.

The hot path without sockets: the bytes of a request go into the protocol's `data_received`, those of its answer come out at
a transport that keeps nothing. A logistic regression of 30 features; four variants, turn by turn, the least of many repeats
of each, in microseconds. What the log's flush costs is in it: it is called each 10,000 requests, as a node of 40,000
requests a second does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn
from uvicorn.server import ServerState

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "serving"))

from conftest import log_in, serve  # type: ignore[import-not-found]

import modelmill as mm
from modelmill.artifact.layout import Link
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.saved import Classes
from modelmill.artifact.warming import warm
from modelmill.model.schema import schema_of
from modelmill.serving.app import App
from modelmill.serving.http import HttpProtocol
from modelmill.serving.meters import Meters
from modelmill.serving.plane import Plane
from modelmill.serving.quick import Found, Quick

FEATURES, TURN = 30, 10_000


class Sink:
    """A transport that keeps nothing."""

    def write(self, data: bytes) -> None:
        self.last = data

    def get_extra_info(self, *_: Any) -> None:
        return None

    def is_closing(self) -> bool:
        return False


class NoMeters(Meters):
    """Counts nothing."""

    def count_answer(self, seconds: float, meter: Any) -> None: ...


class Trusting(Quick):
    """Believes whatever it is sent."""

    def infer(self, body: bytes, address: Any, here: Any) -> Found | None:
        x = np.array((msgspec.json.decode(body)["inputs"][0]["data"],), dtype=np.float64)
        found = here.model.one(x)
        return Found(self._tell_v2(here, found), here, b"", found)


def make_plane(folder: Path, level: str) -> Plane:
    """Return a plane that serves the model."""
    fields = {f"f{place}": mm.col() for place in range(FEATURES)}
    types = {**dict.fromkeys(fields, "float"), "y": "bool"}
    row = type(mm.Schema)(
        "Row", (mm.Schema,), {"__annotations__": types, "__module__": __name__, **fields, "y": mm.target()}
    )
    coef = np.random.default_rng(0).normal(size=(1, FEATURES))
    model = Packed(Linear(coef, np.ones(1), Link.SIGMOID, 2), FEATURES, classes=Classes(2, (0, 1)))
    plane: Plane = serve(folder, schema_of(row), {(): model}, labels=("false", "true"))
    plane._log = log_in(folder, level=level)
    return plane


def requests() -> list[bytes]:
    """Return requests for one row each."""
    asked = []
    for row in np.random.default_rng(1).normal(size=(64, FEATURES)).tolist():
        tensor = {"name": "x", "shape": [1, FEATURES], "datatype": "FP64", "data": row}
        body = json.dumps({"inputs": [tensor]}).encode()
        asked.append(
            b"POST /v2/models/fleet/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
    return asked


def protocol_of(plane: Plane) -> HttpProtocol:
    """Return a connection to a plane."""
    config = uvicorn.Config(App(plane), ws="none", lifespan="off", log_level="critical", proxy_headers=False)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"now")]
    protocol = HttpProtocol(plane, {}, hot=True, config=config, server_state=state, app_state={})
    protocol.connection_made(Sink())  # type: ignore[arg-type]  # all of a transport that is asked for
    return protocol


def turn_of(plane: Plane, asked: list[bytes]) -> Callable[[], float]:
    """Return what asks many requests, and says how long one took."""
    protocol = protocol_of(plane)
    for request in asked:
        protocol.data_received(request)

    def turn() -> float:
        began = time.perf_counter()
        for place in range(TURN):
            protocol.data_received(asked[place & 63])
        if plane._log.is_on:
            plane._log._write(*plane._log._taken())
        return 1e6 * (time.perf_counter() - began) / TURN

    return turn


async def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Return the least time of each variant."""
    planes = {name: make_plane(folder / name.replace(" ", "-"), "off") for name in ("no log", "no metrics", "nothing")}
    planes = {"all": make_plane(folder / "all", "memory"), "log at `os`": make_plane(folder / "os", "os"), **planes}
    planes["no metrics"].meters = planes["nothing"].meters = NoMeters()
    served = planes["nothing"].applied.models["fleet"]  # type: ignore[union-attr, index]
    planes["nothing"]._quick[served] = Trusting(served, planes["nothing"].meters, 0.0)
    asked = requests()
    turns = {name: turn_of(plane, asked) for name, plane in planes.items()}
    gc.collect()
    gc.freeze()
    found = {name: [turn() for _ in range(1)] for name, turn in turns.items()}
    for _ in range(rounds):
        for name, turn in turns.items():
            found[name].append(turn())
    return {name: round(min(values), 2) for name, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    warm()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), parser.parse_args().rounds))
    found["validation, metrics and log"] = round(found["all"] - found["nothing"], 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
