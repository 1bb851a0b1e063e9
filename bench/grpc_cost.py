"""What a request costs over gRPC and over HTTP: processor time of the worker, and how much memory it has.

``python bench/grpc_cost.py`` builds twelve stores and serves them twice, without gRPC and with it. One client asks for one
row at a time over one kept connection; of five rounds the cheapest counts. Processor time is that of all the worker's threads.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_clients
import grpc
import polars as pl

from modelmill.serving.control import NodeInfo, describe_node, find_node
from modelmill.serving.messages import MESSAGES, SERVICE

REQUESTS, ROUNDS = 1_000, 5
KEYS = ["store", *foreign_clients.FEATURES]


def processor_us(pid: int) -> float:
    """Return how much processor time the threads of a process have used."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e3


def memory_mb(pid: int) -> float:
    """Return a process's share of memory (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("Pss:"))


def cost_us(pid: int, ask: Callable[[], Any]) -> float:
    """Return the processor time of the worker for one request."""
    rounds = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        before = processor_us(pid)
        for _ in range(REQUESTS):
            ask()
        rounds.append((processor_us(pid) - before) / REQUESTS)
    return round(min(rounds[1:]), 1)


def over_http(node: NodeInfo, row: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    link = socket.create_connection((node.host, node.port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    store, *features = row.values()
    key = {"name": "store", "datatype": "BYTES", "shape": [1], "data": [store]}
    fields = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [row[name]]} for name in foreign_clients.FEATURES
    ]
    matrix = {"name": "x", "datatype": "FP64", "shape": [1, len(features)], "data": features}

    def ask_with(path: str, body: dict[str, Any]) -> Callable[[], Any]:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n\r\n".encode()

        def ask() -> None:
            link.sendall(head + content)
            assert link.recv(1 << 16).startswith(b"HTTP/1.1 200")

        return ask

    infer = "/v2/models/sales/infer"
    return {
        "HTTP, a row": ask_with("/sales", row),
        "HTTP, V2 JSON": ask_with(infer, {"inputs": [key, *fields]}),
        "HTTP, V2 JSON, matrix": ask_with(infer, {"inputs": [key, matrix]}),
    }


def over_grpc(node: NodeInfo, row: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    channel = grpc.insecure_channel(node.grpc)
    infer, live = (channel.unary_unary(f"/{SERVICE}/{method}") for method in ("ModelInfer", "ServerLive"))
    store, *features = row.values()
    key = {"name": "store", "datatype": "BYTES", "shape": [1]}
    matrix = {"name": "x", "datatype": "FP64", "shape": [1, len(features)]}
    contents = [struct.pack("<I", len(store)) + store.encode(), struct.pack(f"<{len(features)}d", *features)]
    typed = [
        key | {"contents": {"bytes_contents": [store.encode()]}},
        matrix | {"contents": {"fp64_contents": features}},
    ]
    request = MESSAGES["ModelInferRequest"]
    raw = request(model_name="sales", inputs=[key, matrix], raw_input_contents=contents).SerializeToString()
    one_by_one = request(model_name="sales", inputs=typed).SerializeToString()
    return {
        "gRPC, bytes, matrix": lambda: infer(raw),
        "gRPC, typed, matrix": lambda: infer(one_by_one),
        "gRPC, ServerLive": lambda: live(b""),
    }


def measure(folder: Path) -> None:
    """Serve what is released and print what each way of asking costs."""
    foreign_clients.modelmill(folder, "serve", "--detach", "--port", "0", "--workers", "1")
    try:
        node = find_node(folder / ".modelmill")
        assert node is not None
        pid = (describe_node(node) or {})["workers"][0]["pid"]
        row = pl.read_parquet(folder / "rows.parquet").select(KEYS).row(0, named=True)
        ways = over_http(node, row) | (over_grpc(node, row) if node.grpc else {})
        figures = {name: cost_us(pid, ask) for name, ask in ways.items()}
        load = round(os.getloadavg()[0], 1)
        print(json.dumps({"grpc": bool(node.grpc), "load": load, "us": figures, "memory_mb": memory_mb(pid)}))
    finally:
        foreign_clients.modelmill(folder, "down")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stores"
        foreign_clients.write_project(folder)
        settings = folder / "modelmill.toml"
        with_grpc = settings.read_text()
        foreign_clients.modelmill(folder, "up", "--detach", "--port", "0")
        foreign_clients.modelmill(folder, "down")
        for text in (with_grpc.replace("grpc_port = 0", ""), with_grpc):
            settings.write_text(text)
            measure(folder)


if __name__ == "__main__":
    main()
