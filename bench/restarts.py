"""Rolling restarts under load, or kills: ``python bench/restarts.py --seconds 300 --rate 1000 [--kill]``.

A node of two workers is asked at a fixed rate over connections that stay, while its parent starts anew and replaces its
workers, again and again: one failed request is one too many. With ``--kill`` a worker is killed (SIGKILL) each second: then
what it held fails, at most one request a connection, and its successor answers within a second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import foreign_clients
import polars as pl

from modelmill.serving.control import NodeInfo, describe_node, find_node, restart_node

sys.path.insert(0, str(Path(__file__).parent / "serving"))

import loadgen

OUT = Path(__file__).parent / "out" / "restarts"


def request_of(folder: Path) -> bytes:
    """Return a whole request for the first row."""
    fields = ["store", *foreign_clients.FEATURES]
    body = json.dumps(pl.read_parquet(folder / "rows.parquet").select(fields).row(0, named=True)).encode()
    return b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def restart_while(load: threading.Thread, info: NodeInfo) -> list[float]:
    """Restart as long as the load lasts; return how long each took."""
    took = []
    while load.is_alive():
        began = time.monotonic()
        restart_node(info)
        took.append(time.monotonic() - began)
    return took


def kill_while(load: threading.Thread, info: NodeInfo) -> list[float]:
    """Kill a worker each second as long as the load lasts; return how long each time it took until all were there."""
    took = []
    while load.is_alive():
        began = time.monotonic()
        before = pids_of(info)
        os.kill(before[0], signal.SIGKILL)
        while len(now := pids_of(info)) < len(before) or before[0] in now:
            time.sleep(0.01)
        took.append(time.monotonic() - began)
        time.sleep(max(0.0, 1 - took[-1]))
    return took


def pids_of(info: NodeInfo) -> list[int]:
    """Return the workers that have applied what is released."""
    workers = (describe_node(info) or {}).get("workers", [])
    return [worker["pid"] for worker in workers if worker["revision"] >= 0]


def measure(folder: Path, seconds: float, rate: float, *, kill: bool) -> dict[str, Any]:
    info = find_node(folder / ".modelmill")
    assert info is not None
    wanted = loadgen.Load(info.port, [request_of(folder)], 16, seconds, rate=rate)
    found: dict[str, Any] = {}
    load = threading.Thread(target=lambda: found.update(loadgen.run(loadgen.compile_loadgen(OUT), wanted)))
    load.start()
    took = sorted((kill_while if kill else restart_while)(load, info))
    load.join()
    return {
        "kills" if kill else "restarts": len(took),
        "median s": took[len(took) // 2],
        "longest s": took[-1],
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--kill", action="store_true", help="kill a worker each second instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stores"
        foreign_clients.write_project(folder)
        foreign_clients.modelmill(folder, "up", "--detach", "--port", "0")
        foreign_clients.modelmill(folder, "down")
        foreign_clients.modelmill(folder, "serve", "--detach", "--port", "0", "--workers", "2")
        try:
            print(json.dumps(measure(folder, options.seconds, options.rate, kill=options.kill), indent=1))
        finally:
            foreign_clients.modelmill(folder, "down")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
