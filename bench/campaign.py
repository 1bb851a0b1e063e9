"""The kill campaign: ``kill -9`` of workers and of the builder at random moments, then a comparison digest by digest.

After each kill the build is run again until it ends; the registry must then equal that of a build which nothing
disturbed, `fsck` must find nothing lost, and nothing that was recorded may have been fitted again.
``python bench/campaign.py --kills 100 --seed 1``
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stores5k

from modelmill.names import ModelName
from modelmill.registry.versions import current_entries, heads
from modelmill.settings import load_settings
from modelmill.store.opening import open_store

NAME = ModelName("sales")
COMMAND = [sys.executable, "-m", "modelmill"]


def main() -> int:
    """Run the campaign and print what it found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stores", type=int, default=400)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelmill-campaign-"))
    try:
        return campaign(folder, options.kills, options.stores, random.Random(options.seed), options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def campaign(folder: Path, kills: int, stores: int, rng: random.Random, seed: int) -> int:
    """Kill `kills` times, in as many builds as that takes; return the exit code."""
    stores5k.write_project(folder, stores=stores, rows=60)
    began = time.monotonic()
    train(folder)
    undisturbed, length = state(folder), time.monotonic() - began
    found: Counter[str] = Counter()
    while found["kills"] < kills:
        shutil.rmtree(folder / ".modelmill")
        while not disturb(folder, rng, length, found, kills, stores):
            pass
        found["builds"] += 1
        found["different"] += state(folder) != undisturbed
        found["lost"] += len(json.loads(run(folder, "fsck", "--json").stdout)["problems"])
        found["leftovers"] += len(list((folder / ".modelmill").rglob(".tmp-*")))
    print(json.dumps({"seed": seed, "stores": stores, "seconds": round(time.monotonic() - began), **found}))
    return 1 if found["different"] or found["lost"] or found["leftovers"] or found["fitted again"] else 0


def disturb(folder: Path, rng: random.Random, length: float, found: Counter[str], kills: int, stores: int) -> bool:
    """Run one build and kill something of it; return whether it ended by itself, with all built."""
    before = len(state(folder)) if (folder / ".modelmill" / "keys").exists() else 0
    builder = subprocess.Popen(
        [*COMMAND, "train", "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if found["kills"] < kills:
        wait_for_a_moment(builder, rng, length)
        if rng.random() < 0.5:
            killed = kill_a_worker(builder.pid, rng)
            found["kills"] += killed
            found["worker killed"] += killed
        elif builder.poll() is None:
            builder.kill()
            found["kills"] += 1
            found["builder killed"] += 1
    out, _ = builder.communicate()
    if builder.returncode not in (0, 1):
        return False
    done = json.loads(out)
    if done["run"] is not None and before:
        found["fitted again"] += done["counts"]["built"] + len(done["failures"]) > max(stores + 1 - before, 0)
    return builder.returncode == 0


def wait_for_a_moment(builder: subprocess.Popen[str], rng: random.Random, length: float) -> None:
    """Wait for any moment of a build, or, every other time, for one at which there are workers."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.2, length))
        return
    while builder.poll() is None and not workers_of(builder.pid):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, length / 3))


def kill_a_worker(builder: int, rng: random.Random) -> int:
    """Kill one worker of a builder; return how many were killed."""
    workers = workers_of(builder)
    if not workers:
        return 0
    try:
        os.kill(rng.choice(workers), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def workers_of(builder: int) -> list[int]:
    """Return the workers of a builder: the children of its template."""
    return [pid for template in children(builder) for pid in children(template)]


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def train(folder: Path) -> None:
    """Build to the end."""
    done = run(folder, "train")
    if done.returncode:
        sys.exit(done.stderr)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True, check=False)


def state(folder: Path) -> dict[Any, tuple[Any, ...]]:
    """Return what each segment was built from, and what its bytes hash to."""
    with open_store(load_settings(folder)) as store:
        known = heads(store.database, NAME)
        return {
            e.segment: (known[e.segment].identity, e.artifact, e.state) for e in current_entries(store.database, NAME)
        }


if __name__ == "__main__":
    sys.exit(main())
