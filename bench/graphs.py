"""Twenty thousand graphs on one node under a memory budget: ``python bench/graphs.py --models 20000 --memory 1GiB``.

Boosted trees are packed in this product, and mapped. What takes the way of a graph is a network: an MLPClassifier with two
hidden layers of 96, whose session takes about as much as that of a HistGradientBoosting would, is fitted once and converted as
a build does it; each of the many is that graph with other weights in its first layer, so no two share bytes. They are released
into a store, and served by one worker. Asked are models by Zipf's law, one request after the other over one connection, and
each is timed by whether it is the first to its model. Then 200 that are cold, all at once; then nothing is released any more.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sklearn.neural_network import MLPClassifier

from modelmill.artifact.converting import convert
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import ONNX
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.release.pointers import Pointer, Published, publish
from modelmill.serving.control import NodeInfo, describe_node, start_node, stop_node, wait_until_applied
from modelmill.serving.memory import share_of
from modelmill.settings import parse_memory
from modelmill.store.blobs import blobs_of, pointers_of
from modelmill.store.packs import PackWriter
from modelmill.store.signing import SigningKey

OUT = Path(__file__).parent / "out" / "graphs"
FEATURES, PER_PACK, HOT, COLD = 10, 500, 100, 200
SPEC = SchemaSpec(
    "Row",
    "",
    (
        Column("route", "key", "str"),
        *(Column(f"f{place}", "feature", "float") for place in range(FEATURES)),
        Column("y", "target", "bool"),
    ),
)


def graph(width: int) -> tuple[bytes, bytes]:
    """Return one graph as an artifact, and the bytes of its first layer's weights in it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, FEATURES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MLPClassifier((width, width), max_iter=20, random_state=0).fit(x, (x[:, 0] + x[:, 1] > 0).astype(int))
    _, content = convert(fitted, x, 2, Programs())
    weights = np.ascontiguousarray(fitted.coefs_[0]).tobytes()
    assert content.count(weights) == 1
    return content, weights


def release(store: Path, count: int, width: int) -> None:
    """Publish a fleet of graphs that differ."""
    blobs, key = blobs_of(store), SigningKey.create(store)
    blobs.put([b"makes the folders"])
    content, weights = graph(width)
    before, after = content.split(weights)
    first = np.frombuffer(weights)
    entries: list[Entry] = []
    for begin in range(0, count, PER_PACK):
        some = range(begin, min(begin + PER_PACK, count))
        contents = [before + (first * (1 + 1e-6 * number)).tobytes() + after for number in some]
        with PackWriter(blobs.scratch) as writer:
            places = writer.add_all(contents)
            pack = blobs.put_file(writer.finish())
        entries += [
            Entry((name(number),), 1, ONNX, "onnx", pack, *place, digest_of(one))
            for number, one, place in zip(some, contents, places, strict=True)
        ]
    put(store, 1, FleetMap.build(header(), entries), key)


def header() -> Header:
    return Header(
        model=ModelName("density"),
        spec=SPEC,
        by=("route",),
        task="classification",
        code=digest_of(b"code"),
        entry=("density.py", "density"),
        labels=("false", "true"),
        feature_names=tuple(f"f{place}" for place in range(FEATURES)),
        run=1,
    )


def put(store: Path, revision: int, fleet: FleetMap | None, key: SigningKey) -> None:
    """Publish a fleet, or nothing."""
    models = {}
    if fleet is not None:
        signed = sign(key, fleet)
        models[ModelName("density")] = Pointer(revision, blobs_of(store).put([signed.content])[0], signed.signature)
    publish(pointers_of(store), Published("dev", revision, models))


def name(number: int) -> str:
    return f"route-{number:05d}"


def memory_mb(info: NodeInfo) -> float:
    """Return the proportional set size of the parent and all its workers."""
    pids = [info.pid, *(worker["pid"] for worker in (describe_node(info) or {})["workers"])]
    return sum(share_of(pid) for pid in pids) / (1 << 20)


def own_mb(info: NodeInfo) -> float:
    """Return what of that is no file's: of mapped libraries the share falls and rises with whoever else maps them."""
    pids = [info.pid, *(worker["pid"] for worker in (describe_node(info) or {})["workers"])]
    rolled_up = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    lines = [line.split() for text in rolled_up for line in text.splitlines() if line.startswith("Pss_Anon:")]
    return sum(int(line[1]) for line in lines) / 1024


def graphs_of(info: NodeInfo) -> dict[str, int]:
    time.sleep(0.6)  # a worker reports four times a second
    found: dict[str, int] = (describe_node(info) or {})["graphs"]
    return found


class Asker:
    """One connection."""

    def __init__(self, info: NodeInfo) -> None:
        self.link = http.client.HTTPConnection("127.0.0.1", info.port)
        self.row = {f"f{place}": 0.25 * place - 1 for place in range(FEATURES)}

    def ask(self, number: int) -> float:
        """Return the seconds of one request."""
        body = json.dumps({"route": name(number), **self.row})
        began = time.perf_counter()
        self.link.request("POST", "/density", body)
        reply = self.link.getresponse()
        told = reply.read()
        took = time.perf_counter() - began
        assert reply.status == 200, told
        return took


def mixed(info: NodeInfo, count: int, requests: int) -> dict[str, Any]:
    """Ask by Zipf's law; tell the latencies, the memory on the way, and what became of the hottest models."""
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, count + 1) ** 0.9
    wanted = rng.choice(count, size=requests, p=weights / weights.sum())
    took, memory = [], []
    asker = Asker(info)
    with closing(asker.link):
        for place, number in enumerate(wanted.tolist()):
            took.append(asker.ask(number))
            if place % (requests // 40) == 0:
                memory.append(memory_mb(info))
        before = graphs_of(info)
        hot = [asker.ask(number) for number in range(HOT)]
        after = graphs_of(info)
    first_seen = np.zeros(requests, dtype=bool)
    first_seen[np.unique(wanted, return_index=True)[1]] = True
    cold = np.sort(np.array(took)[first_seen]) * 1e3
    rest = np.sort(np.array(took)[~first_seen]) * 1e3
    return {
        "requests": requests,
        "models asked": int(first_seen.sum()),
        "first hit ms": _quantiles(cold),
        "later hit ms": _quantiles(rest),
        "PSS MB, most": max(memory),
        "PSS MB, last": memory[-1],
        "graphs": before,
        f"loads of the {HOT} hottest, asked again at the end": after["loads"] - before["loads"],
        "their ms": _quantiles(np.sort(np.array(hot)) * 1e3),
    }


def _quantiles(ms: np.ndarray) -> dict[str, float]:
    return {f"p{part}": round(float(ms[min(len(ms) - 1, int(part / 100 * len(ms)))]), 3) for part in (50, 99)} | {
        "max": round(float(ms[-1]), 3)
    }


async def at_once(info: NodeInfo, numbers: Sequence[int]) -> dict[str, float]:
    """Ask cold models all at once."""
    row = {f"f{place}": 0.5 for place in range(FEATURES)}
    limits = httpx.Limits(max_connections=len(numbers))
    async with httpx.AsyncClient(base_url=info.url, limits=limits, timeout=30) as client:
        began = time.perf_counter()
        replies = await asyncio.gather(*(client.post("/density", json={"route": name(n), **row}) for n in numbers))
        took = time.perf_counter() - began
        again = time.perf_counter()
        await asyncio.gather(*(client.post("/density", json={"route": name(n), **row}) for n in numbers))
    return {
        "models": len(numbers),
        "failed": sum(reply.status_code != 200 for reply in replies),
        "s": took,
        "s, open": time.perf_counter() - again,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=20_000)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=96)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store, budget = Path(scratch), parse_memory(options.memory)
        release(store, options.models, options.width)
        info = start_node(store, "dev", host="127.0.0.1", port=0, workers=1, memory=budget)
        try:
            result = measure(store, info, options)
        finally:
            stop_node(store, info)
    result |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    result |= {one: version(one) for one in ("numpy", "onnxruntime", "skl2onnx", "scikit-learn")}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"graphs-{int(time.time())}.json").write_text(json.dumps(result, indent=1))
    json.dump(result, sys.stdout, indent=1)


def settled(info: NodeInfo) -> tuple[float, float]:
    """Return after how many seconds the memory fell no more, and how much it was then."""
    began, last = time.monotonic(), memory_mb(info)
    since = began
    while time.monotonic() < since + 8:  # what was replaced is closed after five seconds
        time.sleep(0.5)
        now = memory_mb(info)
        if now < last - 1:
            last, since = now, time.monotonic()
    return since - began, last


def measure(store: Path, info: NodeInfo, options: argparse.Namespace) -> dict[str, Any]:
    wait_until_applied(info, 1)
    begun = memory_mb(info)
    result: dict[str, Any] = {"models": options.models, "memory": options.memory, "PSS MB before": begun}
    result["of that no file's"] = own = own_mb(info)
    result["mix"] = mixed(info, options.models, options.requests)
    loads = graphs_of(info)["loads"]
    result["all at once"] = asyncio.run(at_once(info, range(options.models - COLD, options.models)))
    result["all at once"]["loads"] = graphs_of(info)["loads"] - loads
    result["PSS MB of that"] = memory_mb(info)
    put(store, 2, None, SigningKey.load(store))
    wait_until_applied(info, 2)
    result["s until it was unloaded"], result["PSS MB, all unloaded"] = settled(info)
    result["unloaded beyond the start"] = result["PSS MB, all unloaded"] / begun - 1
    result["no file's MB, all unloaded"] = own_mb(info)
    result["no file's, beyond the start"] = result["no file's MB, all unloaded"] / own - 1
    return result


if __name__ == "__main__":
    main()
