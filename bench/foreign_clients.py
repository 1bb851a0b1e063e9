"""Known clients of the Open Inference Protocol against a node, unmodified, each in its own environment.

``python bench/foreign_clients.py`` makes the environments under bench/out/clients, builds twelve stores, serves them, and
runs bench/foreign/*.py, over HTTP and over gRPC: JSON, typed and binary tensors, gzip and deflate, a segment in the name,
versions, refusals.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import polars as pl
import stores5k

CLIENTS = {"triton": "tritonclient[http,grpc]==2.73.0", "kserve": "kserve==0.21.0"}
FEATURES = ["price", "footfall", "weekday", "promo", "weather"]
ENVIRONMENTS = Path(__file__).parent / "out" / "clients"


def python_of(client: str) -> Path:
    """Return the Python of a client's environment, made now if it is not there."""
    folder = ENVIRONMENTS / client
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, CLIENTS[client]], check=True)
    return python


def modelmill(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "modelmill", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def write_project(folder: Path) -> None:
    """Write twelve stores whose models are packed."""
    stores5k.write_project(folder, stores=12, rows=60)
    file = folder / "stores.py"
    before, _, rest = file.read_text().partition("@sales.predict")
    file.write_text(before + rest.partition("else answers\n")[2])
    with (folder / "modelmill.toml").open("a") as settings:
        settings.write("[serve]\ngrpc_port = 0\n")


def write_rows(folder: Path, url: str) -> tuple[Path, str]:
    """Write rows with the answers that named fields get; return the file and the segment of the first row."""
    rows = pl.read_parquet(folder / "rows.parquet").sample(8, seed=1)
    asked = rows.select(["store", *FEATURES]).to_dicts()
    answers = [httpx.post(f"{url}/sales", json=row).json()["sales"] for row in asked]
    features = {name: rows[name].to_list() for name in FEATURES}
    file = folder / "asked.json"
    file.write_text(json.dumps({"keys": {"store": rows["store"].to_list()}, "features": features, "answers": answers}))
    return file, asked[0]["store"]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stores"
        write_project(folder)
        node = json.loads(modelmill(folder, "up", "--detach", "--port", "0", "--json"))["node"]
        try:
            file, segment = write_rows(folder, node["url"])
            addresses = {"client": node["url"].removeprefix("http://"), "grpc_client": node["grpc"]}
            for client, package in CLIENTS.items():
                for kind, address in addresses.items():
                    script = Path(__file__).parent / "foreign" / f"{client}_{kind}.py"
                    command = [python_of(client), script, address, "sales", segment, file]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    print(json.dumps({"client": package, "script": script.name, **json.loads(done.stdout)}))
        finally:
            modelmill(folder, "down")


if __name__ == "__main__":
    main()
