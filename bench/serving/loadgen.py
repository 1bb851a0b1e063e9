"""Compiling and running ``loadgen.c``."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("loadgen.c")
MOST = 5_000_000
"""A bound that a run of seconds does not reach; latencies of so many are kept in 40 MB."""


class Load(NamedTuple):
    """What to ask, and for how long."""

    port: int
    requests: Sequence[bytes]
    """Whole HTTP requests; each one sent is one of them, drawn evenly."""
    connections: int
    seconds: float
    rate: float = 0
    """Requests a second of an open loop; 0 for a closed one."""
    most: int = MOST
    seed: int = 1
    core: int = -1
    """Where the generator runs; -1 for anywhere."""


def compile_loadgen(folder: Path) -> Path:
    """Return the program, compiled again where the source is newer."""
    program = folder / "loadgen"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, SOURCE], check=True)
    return program


def run(program: Path, load: Load) -> dict[str, float]:
    """Run a load and return its figures, in requests, seconds and microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{place:05d}" for place in range(len(load.requests))]
        for file, request in zip(files, load.requests, strict=True):
            file.write_bytes(request)
        numbers = (load.port, load.connections, load.seconds, load.most, load.rate, load.seed, load.core)
        done = subprocess.run(
            [program, *map(str, numbers), *files],
            capture_output=True,
            text=True,
            check=False,
            timeout=load.seconds + 30,
        )
    if not done.stdout:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found
