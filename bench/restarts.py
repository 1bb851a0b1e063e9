"""Rolling restarts under load: ``python bench/restarts.py --seconds 300 --rate 1000``.

A node of two workers is asked at a fixed rate over connections that stay, while its parent starts anew and replaces its
workers, again and again. One failed request is one too many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import foreign_clients
import polars as pl

from modelmill.serving.control import NodeInfo, find_node, restart_node

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


def measure(folder: Path, seconds: float, rate: float) -> dict[str, Any]:
    info = find_node(folder / ".modelmill")
    assert info is not None
    wanted = loadgen.Load(info.port, [request_of(folder)], 16, seconds, rate=rate)
    found: dict[str, Any] = {}
    load = threading.Thread(target=lambda: found.update(loadgen.run(loadgen.compile_loadgen(OUT), wanted)))
    load.start()
    took = restart_while(load, info)
    load.join()
    return {"restarts": len(took), "restart s": sorted(took)[len(took) // 2], **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stores"
        foreign_clients.write_project(folder)
        foreign_clients.modelmill(folder, "up", "--detach", "--port", "0")
        foreign_clients.modelmill(folder, "down")
        foreign_clients.modelmill(folder, "serve", "--detach", "--port", "0", "--workers", "2")
        try:
            print(json.dumps(measure(folder, options.seconds, options.rate), indent=1))
        finally:
            foreign_clients.modelmill(folder, "down")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
