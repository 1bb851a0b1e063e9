"""Faults of a node that serves: ``python bench/faults.py --rounds 10 --seed 1``; tests/journeys has the short version.

A node of two workers is asked all the time by clients that mean well, while releases change and workers are replaced at
once, a byte of a new pack is flipped, database and blobs are gone, and other clients do what no client should. What is
counted are the answers.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import clients
import foreign_clients
import polars as pl

from modelmill.errors import BlobBroken
from modelmill.names import ModelName
from modelmill.registry.runs import newest_map
from modelmill.release.releasing import release
from modelmill.serving.control import NodeInfo, describe_node, find_node, restart_node
from modelmill.settings import DEV, load_settings
from modelmill.store.opening import open_store

SALES = ModelName("sales")

PACK = b"modelmill pack"
PATIENCE_S = 60
HOARDERS = 50
"""Clients that each send 31 MB of a body, and then nothing: three times as much as two workers hold of such."""


def request_of(folder: Path) -> bytes:
    """Return the body of a request about the first store."""
    fields = ["store", *foreign_clients.FEATURES]
    return json.dumps(pl.read_parquet(folder / "rows.parquet").select(fields).row(0, named=True)).encode()


def run(folder: Path, *words: str) -> tuple[int, Any]:
    """Run a command and return its exit code and what it told."""
    command = [sys.executable, "-m", "modelmill", *words, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or done.stderr or "{}")


def node_of(folder: Path) -> NodeInfo:
    found = find_node(folder / ".modelmill")
    assert found is not None
    return found


def sell_more(folder: Path) -> None:
    """Change the rows of the first store: the next build gives it another version."""
    frame = pl.read_parquet(folder / "rows.parquet")
    hit = pl.col("store") == frame["store"][0]
    frame.with_columns(sales=pl.when(hit).then(pl.col("sales") + 5).otherwise(pl.col("sales"))).write_parquet(
        folder / "rows.parquet"
    )


def versions_of(answers: Counter[bytes]) -> list[int]:
    """Return the version of each answer that was given; the same version twice would be two answers of one version."""
    return sorted(json.loads(answer)["version"] for answer in answers)


# ---------------------------------------------------------------- faults


def upgrade(folder: Path, rounds: int) -> dict[str, Any]:
    """Release a new version in the very moment in which the workers are replaced, again and again."""
    with clients.Load(node_of(folder).port, request_of(folder)) as load:
        load.answer_more(20)
        for _ in range(rounds):
            sell_more(folder)
            restarting = threading.Thread(target=restart_node, args=(node_of(folder),))
            restarting.start()
            code, told = run(folder, "up", "--detach")
            restarting.join()
            assert code == 0, told
            load.answer_more(20)
    versions = versions_of(load.answers)
    # Each version has one answer, all have answered, and none came that was not released.
    wrong = versions != list(range(versions[0], versions[0] + rounds + 1))
    return {"releases": rounds, "answered": load.answered, "failed": len(load.failures) + wrong, "versions": versions}


def damage(folder: Path, rounds: int, rng: random.Random) -> dict[str, Any]:
    """Flip a byte of a new pack: the verb refuses it, and a node that is sent it all the same; then flip it back."""
    told_broken = 0
    with clients.Load(node_of(folder).port, request_of(folder)) as load:
        load.answer_more(20)
        for _ in range(rounds):
            before = packs(folder)
            sell_more(folder)
            assert run(folder, "train")[0] == 0
            pack = rng.choice(sorted(packs(folder) - before))  # the store's own, or the pooled model's
            place, known = rng.randrange(pack.stat().st_size), set(load.answers)
            flip(pack, place)
            code, told = run(folder, "up", "--detach")
            assert (code, told["code"]) == (BlobBroken.exit, BlobBroken.code), told
            publish_newest(folder)
            deadline = time.monotonic() + PATIENCE_S
            while not run(folder, "status")[1]["node"]["broken"] and time.monotonic() < deadline:
                time.sleep(0.1)
            node = run(folder, "status")[1]["node"]
            told_broken += "cannot be opened: pack" in node["broken"].get("sales", "") and not node["healthy"]
            load.answer_more(100)
            assert set(load.answers) == known, "a damaged release answered"
            flip(pack, place)
            code, told = run(folder, "up", "--detach")  # it waits until each worker has tried again
            assert code == 0, told
            deadline = time.monotonic() + PATIENCE_S
            while set(load.answers) == known and time.monotonic() < deadline:
                time.sleep(0.1)
            assert len(load.answers) == len(known) + 1, "the repaired release does not answer"
    return {"bytes": rounds, "answered": load.answered, "failed": len(load.failures) + rounds - told_broken}


def publish_newest(folder: Path) -> None:
    """Release what was built last without a look at its bytes, as where they break after it."""
    with open_store(load_settings(folder), create=False) as store:
        built = newest_map(store.database, SALES)
        assert built.map is not None
        release(store, DEV, SALES, built.map)


def packs(folder: Path) -> set[Path]:
    blobs = (folder / ".modelmill" / "blobs").glob("[0-9a-f][0-9a-f]/*")
    return {path for path in blobs if path.read_bytes()[: len(PACK)] == PACK}


def flip(file: Path, place: int) -> None:
    """Change one byte of a file, or change it back."""
    file.chmod(0o600)
    with file.open("r+b") as content:
        content.seek(place)
        byte = content.read(1)[0]
        content.seek(place)
        content.write(bytes([byte ^ 0x10]))


def lose_store(folder: Path, answers: int) -> dict[str, Any]:
    """Take the blobs and the database away while all is mapped."""
    store = folder / ".modelmill"
    with clients.Load(node_of(folder).port, request_of(folder)) as load:
        load.answer_more(100)
        for name in ("blobs", "mill.db"):
            (store / name).rename(store / f"lost-{name}")
        try:
            load.answer_more(answers)
        finally:
            for name in ("blobs", "mill.db"):
                (store / f"lost-{name}").rename(store / name)
    return {"answered": load.answered, "failed": len(load.failures)}


def be_rude(folder: Path, rounds: int, *, slow: int) -> dict[str, Any]:
    """Let clients do what no client should; return also by how many MB the largest worker grew at most."""
    info, body = node_of(folder), request_of(folder)
    unlike: Counter[str] = Counter()
    before = peaks(info)
    with clients.Load(info.port, body) as load, clients.Crowd(info.port, slow) as crowd, clients.Deaf(info.port, body):
        for _ in range(rounds):
            crowd.dribble()
            for do, expected in clients.RUDE.items():
                status = do(info.port)
                unlike[f"{do.__name__} {status}"] += status not in expected
                load.answer_more(20)
            with clients.Hoard(info.port, HOARDERS):
                load.answer_more(20)
            unlike["half_closed"] += clients.half_closed(info.port, body) != 200
    after = peaks(info)
    assert after.keys() == before.keys(), "a worker ended"
    return {
        "clients": rounds * (len(clients.RUDE) + HOARDERS + 1) + slow + 1,
        "answered": load.answered,
        "failed": len(load.failures) + sum(unlike.values()),
        "grew mb": max(after[pid] - before[pid] for pid in after),
        "told otherwise": [name for name, count in unlike.items() if count],
    }


def peaks(info: NodeInfo) -> dict[int, int]:
    """Return the memory of each worker at its peak, in MB; the next peak counts from now."""
    found = {}
    for worker in (describe_node(info) or {})["workers"]:
        lines = Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
        found[worker["pid"]] = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
        with suppress(OSError):
            Path(f"/proc/{worker['pid']}/clear_refs").write_text("5")
    return found


# ---------------------------------------------------------------- the campaign


def main() -> int:
    parser = ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stores"
        foreign_clients.write_project(folder)
        foreign_clients.modelmill(folder, "up", "--detach", "--port", "0")
        foreign_clients.modelmill(folder, "down")
        foreign_clients.modelmill(folder, "serve", "--detach", "--port", "0", "--workers", "2")
        try:
            found = {
                "seed": options.seed,
                "upgrade": upgrade(folder, options.rounds),
                "damage": damage(folder, options.rounds, random.Random(options.seed)),
                "lose store": lose_store(folder, 2_000),
                "rude": be_rude(folder, options.rounds, slow=1_000),
            }
        finally:
            foreign_clients.modelmill(folder, "down")
    print(json.dumps(found, indent=1))
    return 1 if any(part["failed"] for part in found.values() if isinstance(part, dict)) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
