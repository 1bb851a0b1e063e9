"""How quick a release of thousands of models is: planned, made, taken back; and how exact the share of a canary.

    python bench/release.py [--stores 5000] [--large 100000] [--json FILE]

A fleet of linear models is built twice, so that every model changes; a node serves it. Whole commands are told apart from
the *control plane*: what it takes until the pointer is moved, without starting Python and waiting for the node. "On the
node" is the time from there until every worker has confirmed. The large fleet is no build: its maps are written through
the registry's own functions, and planned only. Figures are medians of three, in seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import stores5k

from modelmill.names import Digest, ModelName
from modelmill.registry.fleet import FleetMap, decode, sign
from modelmill.registry.records import RunStart, RunState
from modelmill.registry.runs import finish_run, get_run, start_run
from modelmill.release.releasing import release
from modelmill.serving.control import find_node
from modelmill.settings import load_settings
from modelmill.store.opening import Store, open_store

MODEL = ModelName("sales")
TIMES = 3
FEATURES = ("price", "footfall", "weekday", "promo", "weather")
OWNER = 'owner="stores@example.com"'
CANARY = 'canary=mm.Canary(steps=["10%", "100%"], of="requests", hold="1d", abort=[mm.error_rate > 0.01])'
SHADOW = "not measured here"
"""Shadowing at 100 %: what it costs the client, and the node's peak."""


def main() -> int:
    """Measure, and print each figure beside its goal; the exit code says whether all are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=5_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modelmill-release-") as scratch:
        folder = Path(scratch) / "stores"
        build(folder, options.stores)
        figures = measure(folder, options.stores, options.large)
    missed = [name for name, (found, least, most) in figures.items() if not least <= found <= most]
    print(f"{'':58}{'found':>10}{'goal':>16}")
    for name, (found, least, most) in figures.items():
        goal = "" if most == float("inf") else f"{least:g} to {most:g}" if least else f"at most {most:g}"
        print(f"{name:58}{found:10.3f}{goal:>16}{'   missed' if name in missed else ''}")
    print(f"{'shadow':58}{SHADOW:>26}")
    if options.json:
        told = {"at": f"{datetime.now(UTC):%Y-%m-%d}", "stores": options.stores, "large": options.large}
        options.json.write_text(
            json.dumps(told | {name: found for name, (found, *_) in figures.items()}, indent=1) + "\n"
        )
    return 1 if missed else 0


Figures = dict[str, tuple[float, float, float]]
"""What was found, and between which bounds it should be."""
UNBOUNDED = float("inf")


def build(folder: Path, stores: int) -> None:
    """Build two versions of a fleet, in which every model differs."""
    stores5k.write_project(folder, stores=stores, rows=60, family="linear")
    toml = folder / "modelmill.toml"
    toml.write_text(toml.read_text() + "\n[environments.prod]\n")
    run(folder, "train")
    rows = pl.read_parquet(folder / "rows.parquet")
    rows.with_columns(sales=pl.col("sales") * 1.5).write_parquet(folder / "rows.parquet")
    run(folder, "train")


def measure(folder: Path, stores: int, large: int) -> Figures:
    """Return every figure by its name."""
    run(folder, "deploy", "prod", "--version", "1", "--yes")
    run(folder, "serve", "--env", "prod", "--detach", "--port", "0", "--workers", "2")
    try:
        found = plans(folder, f"{stores:,}")
        found |= moves(folder, f"{stores:,}")
        found |= shares(folder)
        found |= plans_of_many(folder, large)
    finally:
        run(folder, "down", "--env", "prod")
    return found


def plans(folder: Path, many: str, most: float = 1.0) -> Figures:
    """Time `plan`."""
    told, wholes = zip(*(timed(folder, "plan", "prod", "--all") for _ in range(TIMES)), strict=True)
    return {
        f"plan of {many}: control plane": (statistics.median(one["seconds"] for one in told), 0, most),
        f"plan of {many}: whole command": (statistics.median(wholes), 0, UNBOUNDED),
    }


def moves(folder: Path, many: str) -> Figures:
    """Time `deploy` and `rollback` to and fro; the answers have to be those of before, byte for byte."""
    times: dict[str, list[float]] = {}
    before, different = answers(folder), 0
    for _ in range(TIMES):
        for verb, words in (("deploy", ("prod", "--yes")), ("rollback", ("prod",))):
            told, whole = timed(folder, verb, *words)
            assert told["confirmed"] == 2, told
            times.setdefault(f"{verb} of {many}: control plane", []).append(told["control_s"])
            times.setdefault(f"{verb} of {many}: on the node", []).append(told["seconds"] - told["control_s"])
            times.setdefault(f"{verb} of {many}: whole command", []).append(whole)
            now = answers(folder)
            different += (now == before) if verb == "deploy" else (now != before)
        run(folder, "resume", "prod")
    most = {"deploy": {"on the node": 2.0}, "rollback": {"control plane": 1.0, "on the node": 3.0}}
    found: Figures = {
        name: (statistics.median(some), 0, most[name.split()[0]].get(name.rpartition(": ")[2], UNBOUNDED))
        for name, some in times.items()
    }
    return found | {"rounds whose answers were not the bytes that they should be": (different, 0, 0)}


def shares(folder: Path, requests: int = 20_000) -> Figures:
    """Return which share of requests a canary of 10 % answers."""
    source = folder / "stores.py"
    source.write_text(source.read_text().replace(OWNER, f"{OWNER}, {CANARY}"))
    run(folder, "train")
    run(folder, "deploy", "prod", "--yes", "--detach")
    rows = bodies(folder, requests)
    versions = Counter(json.loads(content)["version"] for content in asked(folder, rows))
    run(folder, "rollback", "prod")
    run(folder, "resume", "prod")
    assert len(versions) == 2, versions
    return {f"canary at 10 %: share of {requests:,} requests, in %": (100 * versions[max(versions)] / requests, 9, 11)}


# ------------------------------------------------------------------ a fleet of which only the maps are made


def plans_of_many(folder: Path, segments: int) -> Figures:
    """Record two maps of as many segments, release the first, and time the plan of the second."""
    with open_store(load_settings(folder), create=False) as store:
        numbers = [record(store, segments, salt) for salt in (1, 2)]
        first = get_run(store.database, MODEL, numbers[0]).map
        assert first is not None
        release(store, "large", MODEL, first)
    toml = folder / "modelmill.toml"
    toml.write_text(toml.read_text() + "\n[environments.large]\n")
    told, wholes = zip(*(timed(folder, "plan", "large", "--all") for _ in range(TIMES)), strict=True)
    assert len(told[0]["changed"]) == segments, told[0]
    return {
        f"plan of {segments:,}: control plane": (statistics.median(one["seconds"] for one in told), 0, 10.0),
        f"plan of {segments:,}: whole command": (statistics.median(wholes), 0, UNBOUNDED),
    }


def record(store: Store, segments: int, salt: int) -> int:
    """Record a run with a map of as many segments, which is otherwise as the newest run; return its number."""
    like = get_run(store.database, MODEL)
    assert like.map is not None
    fleet = decode(store.blobs.get(like.map))
    entry = next(iter(fleet))
    facts = {name: getattr(like, name) for name in RunStart.__struct_fields__ if hasattr(like, name)}
    begun = start_run(store.database, RunStart(**{**facts, "idempotency_key": f"large {salt}"}))
    entries = (
        entry._replace(segment=(f"store-{n:06d}",), number=begun.number, artifact=Digest(f"{salt:032x}{n:032x}"))
        for n in range(segments)
    )
    header = msgspec.structs.replace(fleet.header, run=begun.number)
    signed = sign(store.key, FleetMap.build(header, entries))
    (digest,) = store.blobs.put([signed.content])
    finish_run(store.database, begun, RunState.DONE, {"built": segments}, (digest, signed.signature))
    return begun.number


# ------------------------------------------------------------------ commands and requests


def run(folder: Path, *words: str) -> str:
    """Run a command to its end."""
    command = [sys.executable, "-m", "modelmill", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def timed(folder: Path, *words: str) -> tuple[Any, float]:
    """Run a command; return what it told, and how long it took as a whole."""
    began = time.perf_counter()
    told = json.loads(run(folder, *words, "--json"))
    return told, time.perf_counter() - began


def bodies(folder: Path, count: int) -> list[bytes]:
    """Return requests, each with other values."""
    rows = pl.read_parquet(folder / "rows.parquet").select("store", *FEATURES).sample(count, seed=1)
    return [json.dumps(row).encode() for row in rows.to_dicts()]


def asked(folder: Path, rows: list[bytes]) -> list[bytes]:
    """Return the node's answers."""
    node = find_node(folder / ".modelmill", "prod")
    assert node is not None
    found = []
    with closing(http.client.HTTPConnection(node.host, node.port)) as connection:
        for row in rows:
            connection.request("POST", "/sales", row, {"content-type": "application/json"})
            answer = connection.getresponse()
            found.append(answer.read())
            assert answer.status == 200, found[-1]
    return found


def answers(folder: Path, count: int = 1_000) -> list[bytes]:
    """Return the answers to the same requests every time."""
    return asked(folder, bodies(folder, count))


if __name__ == "__main__":
    sys.exit(main())
