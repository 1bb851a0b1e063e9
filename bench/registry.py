"""How quick the registry is at 10,000 and at 1,000,000 versions, through the Python API.

    python bench/registry.py [--segments 100000] [--runs 10] [--url sqlite:///...] [--json FILE]

Fills a registry with `runs` versions of every segment, in chunks of 1,000, then times what a console asks for: medians
of 200 questions about segments chosen by a seeded generator, after one that is not counted. The growth is against the
same questions to a registry with a hundredth of the segments.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelmill.names import Digest, ModelName, Segment, VersionId, digest_of
from modelmill.registry.records import ChunkRecord, Run, RunStart, RunState, VersionRecord
from modelmill.registry.runs import finish_run, list_runs, record_chunk, start_run
from modelmill.registry.search import search
from modelmill.registry.versions import current_version, get_version, heads, list_members, list_versions
from modelmill.store.database import Database

MODEL = ModelName("stores")
CHUNK = 1_000
QUESTIONS = 200
FACT = digest_of(b"a fact that all versions share")


def main() -> None:
    """Measure a small and a large registry, and print both with their ratio."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = measure(f"sqlite:///{folder}/small.db", max(1, arguments.segments // 100), arguments.runs)
        large = measure(arguments.url or f"sqlite:///{folder}/large.db", arguments.segments, arguments.runs)
    _print(small, large)
    if arguments.json:
        versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        arguments.json.write_text(json.dumps({"small": small, "large": large, **versions}, indent=2) + "\n")


def measure(url: str, segments: int, runs: int) -> dict[str, float]:
    """Fill a registry and return what each question takes, in milliseconds."""
    database = Database(url)
    database.migrate()
    keys: list[Segment] = [(f"store-{number:06d}",) for number in range(segments)]
    began = time.perf_counter()
    rates = [fill(database, keys, number) for number in range(runs)]
    took = time.perf_counter() - began
    found = {
        "versions": float(segments * runs),
        "inserted per second": segments * runs / took,
        "inserted per second, slowest run": min(rates),
        **ask(database, keys, runs),
    }
    if (path := database.engine.url.database) and Path(path).exists():
        found["bytes per version"] = Path(path).stat().st_size / (segments * runs)
    database.close()
    return found


def fill(database: Database, keys: list[Segment], number: int) -> float:
    """Record one run with a version of every segment; return versions a second."""
    began = time.perf_counter()
    run = start_run(database, _start())
    for chunk, first in enumerate(range(0, len(keys), CHUNK)):
        record_chunk(database, run, _chunk(run, chunk, keys[first : first + CHUNK], number))
    finish_run(database, run, RunState.DONE, {"built": len(keys)})
    return len(keys) / (time.perf_counter() - began)


def ask(database: Database, keys: list[Segment], runs: int) -> dict[str, float]:
    """Time every question; return medians in milliseconds."""
    chosen = random.Random(20260101).choices(keys, k=QUESTIONS)
    deep = search(database, MODEL, segment=f"{keys[len(keys) * 9 // 10][0][:-1]}*", limit=1).after
    questions: dict[str, Callable[[Segment], Any]] = {
        "current version of a segment": lambda key: current_version(database, MODEL, key),
        "one version": lambda key: get_version(database, VersionId(MODEL, key, 1)),
        "page: versions of a segment": lambda key: list_versions(database, MODEL, key),
        "page: members of a run": lambda _: list_members(database, MODEL, max(1, runs // 2)),
        "page: the fleet, first": lambda _: search(database, MODEL),
        "page: the fleet, at 90 %": lambda _: search(database, MODEL, after=deep),
        "page: best by score": lambda _: search(database, MODEL, metric="mae<5"),
        "page: worst by score": lambda _: search(database, MODEL, metric="mae>15"),
        "page: by another metric": lambda _: search(database, MODEL, metric="rmse<8"),
        "page: by tag": lambda _: search(database, MODEL, tag="team=north"),
        "page: newest runs": lambda _: list_runs(database, MODEL),
    }
    found = {name: _median(question, chosen) for name, question in questions.items()}
    began = time.perf_counter()
    heads(database, MODEL)
    return {**found, "the whole fleet's heads": 1000 * (time.perf_counter() - began)}


def _median(question: Callable[[Segment], Any], chosen: list[Segment]) -> float:
    question(chosen[0])
    taken = []
    for key in chosen:
        began = time.perf_counter()
        question(key)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def _start() -> RunStart:
    return RunStart(
        model=MODEL,
        idempotency_key=uuid.uuid4().hex,
        plan=FACT,
        snapshot=FACT,
        code=FACT,
        model_digest=FACT,
        lock=FACT,
        host=FACT,
        declaration=FACT,
        tags={"team": "north"},
    )


def _chunk(run: Run, chunk: int, keys: list[Segment], number: int) -> ChunkRecord:
    draw = random.Random(f"{number} {chunk}")
    pack = digest_of(f"pack {run.number} {chunk}".encode())
    return ChunkRecord(
        chunk=chunk,
        pack=pack,
        pack_bytes=960 * len(keys),
        versions=tuple(_version(key, place, draw) for place, key in enumerate(keys)),
    )


def _version(key: Segment, place: int, draw: random.Random) -> VersionRecord:
    artifact = Digest(f"{draw.getrandbits(256):064x}")
    mae = draw.uniform(2, 20)
    return VersionRecord(
        segment=key,
        artifact=artifact,
        offset=64 + 960 * place,
        length=896,
        identity=artifact,
        data=artifact,
        format="linear",
        runtime="packed",
        rows=200,
        test_rows=40,
        score=mae,
        metrics={"mae": mae, "rmse": 1.3 * mae, "r2": draw.random()},
    )


def _print(small: dict[str, float], large: dict[str, float]) -> None:
    print(f"{'':36}{'small':>14}{'large':>14}{'growth':>9}")
    for name, value in large.items():
        print(f"{name:36}{small[name]:14,.3f}{value:14,.3f}{value / small[name]:9.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--url", help="another database for the large registry, which must be empty")
    parser.add_argument("--folder", help="where the databases are made; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
