"""How many requests a second the sender of `modelmill loadtest` can send: at rising rates, to a server that does nothing.

Run: ``python bench/sender.py``. The server is a process of its own that answers each request with the same 100 bytes. What
counts is the first rate at which the sender is late by more than a millisecond at its p99, or has no time of its core left.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection

import numpy as np
import uvloop

from modelmill.serving.load import Load, LoadOrder, Round

RATES = (1_000, 2_000, 4_000, 8_000, 12_000, 16_000, 20_000, 24_000)
SECONDS = 3.0
BODY = b'{"air_time": 38.2, "model": "air-time", "segment": "JFK,B6,BOS", "version": 1, "answered_by": "own"}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
REQUEST = b"POST /air-time HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Answering(asyncio.Protocol):
    """Answers whatever comes; a request of this size always comes whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        """Answer."""
        self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def serve(ready: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_server(ready: Connection) -> None:
    uvloop.run(serve(ready))


def main() -> None:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=run_server, args=(there,), daemon=True)
    server.start()
    print("rate/s   answered   late p99 ms   latency p50 ms   p99 ms   CPU us/request   core")
    with Load(LoadOrder("127.0.0.1", here.recv(), [[REQUEST]])) as load:
        load.send(Round(0, 500, 1.0, seed=0))
        for rate in RATES:
            sent = load.send(Round(0, rate, SECONDS, seed=1, connections=64))
            late, latency = (np.frombuffer(found) * 1000 for found in (sent.lateness, sent.latencies))
            cost = sent.busy * SECONDS * 1e6 / max(1, sent.answered)
            print(
                f"{rate:6,}   {sent.answered / sent.due:8.1%}   {np.quantile(late, 0.99):11.2f}   {np.median(latency):14.2f}"
                f"   {np.quantile(latency, 0.99):6.2f}   {cost:14.1f}   {sent.busy:.0%}"
            )
    server.kill()


if __name__ == "__main__":
    main()
