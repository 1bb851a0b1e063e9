"""The same models behind modelmill and behind other servers, a core each: ``python bench/serving --models lr --rounds 3``.

All servers of a model are started, pinned to one core, asked 64 rows over connections that stay and over connections
that close, and compared with the native model; one wrong answer ends the bench. Then all but one are stopped, one after
the other in an order that turns each round. Each first works as fast as it can (closed loop): requests a second a core,
and CPU of its whole process tree a request. Then it is asked half as often (open loop): latencies, from the planned
moment of each request. The generator has a core of its own. Requests a second move with whatever else the machine does,
the CPU of a request much less.

The ratios are of medians, against `modelmill`. Raw output goes to ``bench/out/serving/``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import loadgen
import processes
from make_models import FEATURES, make_models
from peers import PEERS, Ask, Peer, ask_v2_bytes, make_environment, read_v2_bytes, variables

OUT = Path(__file__).parent.parent / "out" / "serving"
OWN = "modelmill"
READY_S = 120
TOLERANCE = 1e-6
FIRST_PORT, PORTS_EACH = 18100, 10
COLUMNS = {
    "requests/s": "requests_s",
    "CPU us": "cpu_us",
    "p50 us": "p50_us",
    "p99 us": "p99_us",
    "RSS MB": "rss_mb",
    "PSS MB": "pss_mb",
}


class Server(NamedTuple):
    """A peer that runs."""

    peer: Peer
    root: int
    port: int
    requests: Sequence[bytes]
    start_s: float


class Cores(NamedTuple):
    """Who runs where."""

    server: int
    generator: int


def main() -> None:
    """Measure and print."""
    options = read_options()
    # Ended from outside it still ends its servers: some of them are stopped, and would stay so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [peer for peer in PEERS if peer.name in options.peers and (options.batch == 1 or peer.takes_bytes)]
    for peer in chosen:
        make_environment(peer, OUT / "envs")
    program = loadgen.compile_loadgen(OUT)
    asked = make_models(OUT / "models")
    for model in options.models:
        with ExitStack() as running:
            servers = [start(peer, model, asked[model], options, running) for peer in chosen]
            rounds = list(measure(servers, program, options))
            report(model, servers, rounds, options)


def read_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python bench/serving")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="*", default=names, choices=names)
    parser.add_argument("--models", nargs="*", default=list(FEATURES), choices=list(FEATURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each load; a server has two a round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument(
        "--batch", type=int, default=1, help="rows a request: more than 1 are sent as one tensor in bytes"
    )
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="the servers', the generator's")
    options = parser.parse_args()
    options.cores = Cores(*options.cores)
    return options


# ------------------------------------------------------------------ starting


def start(peer: Peer, model: str, asked: dict[str, Any], options: argparse.Namespace, running: ExitStack) -> Server:
    """Start a peer, compare its answers with the native model's, and stop it until its turn."""
    cores = options.cores
    port = FIRST_PORT + PORTS_EACH * [known.name for known in PEERS].index(peer.name)
    log = OUT / f"{peer.name}-{model}.log"
    refuse_stranger(port)
    began = time.perf_counter()
    process = processes.start(peer.argv(OUT / "envs", OUT / "models", model, port), variables(), log)
    running.callback(processes.end, processes.get_stat(process.pid))
    root = root_of(peer, process, log)
    if root != process.pid:
        running.callback(processes.end, processes.get_stat(root))
    await_ready(port, peer.ask(model, asked["rows"][0]), process, log)
    took = time.perf_counter() - began
    for keep in (True, False):
        check(peer, model, asked, port, keep=keep)
    asks = [peer.ask(model, row) for row in asked["rows"]]
    if options.batch > 1:
        asks = [check_batch(peer, model, asked, port, options.batch)]
    processes.pin(root, cores.server)
    processes.halt(processes.tree(root))
    print(f"{model}: {peer.name} answers as it should, {took:.1f} s after its start", flush=True)
    return Server(peer, root, port, [ask.encode(port) for ask in asks], took)


def refuse_stranger(port: int) -> None:
    """End the bench where something listens already: it would be measured instead."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SystemExit(f"port {port} is taken")


def root_of(peer: Peer, process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the pid of a server: of what was started, or what that said when it left a server behind."""
    if not peer.detaches:
        return process.pid
    if process.wait(READY_S):
        raise SystemExit(log.read_text())
    told: int = json.loads(log.read_text().splitlines()[-1])["pid"]
    return told


def await_ready(port: int, request: Ask, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers a request; give up with its log."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and not process.poll():
        try:
            answer_to(connect(port), request, keep=False)
        except (OSError, http.client.HTTPException, RefusedError):
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"{log.stem} did not answer:\n{log.read_text()[-4000:]}")


# ------------------------------------------------------------------ right answers


class RefusedError(Exception):
    """An answer with another status than 200."""


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection; it is opened with the first request."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def answer_to(connection: http.client.HTTPConnection, request: Ask, *, keep: bool) -> Any:
    """Return the answer to a request; raises `RefusedError`."""
    headers = request.headers() | ({} if keep else {"Connection": "close"})
    connection.request("POST", request.path, request.content(), headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != http.client.OK:
        raise RefusedError(f"{answer.status}: {content[:500]!r}")
    return content if request.behind else json.loads(content)


def check_batch(peer: Peer, model: str, asked: dict[str, Any], port: int, rows: int) -> Ask:
    """Return a request for many rows in bytes; end the bench where its answers are not the native model's."""
    times = -(-rows // len(asked["rows"]))
    request = ask_v2_bytes(model, (asked["rows"] * times)[:rows])
    found = read_v2_bytes(answer_to(connect(port), request, keep=False), rows)
    right = [number for chances in (asked["probabilities"] * times)[:rows] for number in chances]
    if max(abs(a - b) for a, b in zip(found, right, strict=True)) > TOLERANCE:
        raise SystemExit(f"{peer.name} answered a batch otherwise than the native model")
    return request


def check(peer: Peer, model: str, asked: dict[str, Any], port: int, *, keep: bool) -> None:
    """Ask every row over one connection, or over one each; end the bench where an answer is not the native model's."""
    connection = connect(port)
    for row, right in zip(asked["rows"], asked["probabilities"], strict=True):
        found = answer_to(connection, peer.ask(model, row), keep=keep)
        if peer.read is None:
            continue
        numbers = peer.read(found)
        if len(numbers) != len(right) or max(abs(a - b) for a, b in zip(numbers, right, strict=True)) > TOLERANCE:
            raise SystemExit(f"{peer.name} answered {numbers}, which should be {right}")
    connection.close()


# ------------------------------------------------------------------ measuring


def measure(servers: Sequence[Server], program: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of every server in every round; the order turns each round."""
    for number in range(options.rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            processes.go_on(processes.tree(server.root))
            time.sleep(0.2)  # what waited for its timers meanwhile is done first
            found = one_turn(server, program, options)
            processes.halt(processes.tree(server.root))
            yield {"round": number, "peer": server.peer.name, **found}


def one_turn(server: Server, program: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Load one server: warm up, closed loop, open loop at half of its rate."""
    closed = loadgen.Load(
        server.port, server.requests, options.connections, options.seconds, core=options.cores.generator
    )
    run(server, program, closed._replace(seconds=min(options.seconds / 4, 1)))
    processes.pin(server.root, options.cores.server)  # threads that came with the first requests, too
    before = processes.cpu_seconds(server.root)
    full = run(server, program, closed)
    cpu = processes.cpu_seconds(server.root) - before
    half = run(server, program, closed._replace(rate=max(full["requests_s"] / 2, 1)))
    memory = processes.memory(server.root)
    return {
        "requests_s": full["requests_s"],
        "cpu_us": 1e6 * cpu / full["requests"],
        "p50_us": half["p50_us"],
        "p99_us": half["p99_us"],
        "rss_mb": memory.rss,
        "pss_mb": memory.pss,
        "full": full,
        "half": half,
    }


def run(server: Server, program: Path, load: loadgen.Load) -> dict[str, float]:
    """Run a load; one failed request makes the whole run void."""
    found = loadgen.run(program, load)
    if found["failed"]:
        raise SystemExit(f"{server.peer.name} failed: {found}")
    return found


# ------------------------------------------------------------------ telling


def report(
    model: str, servers: Sequence[Server], rounds: Sequence[dict[str, Any]], options: argparse.Namespace
) -> None:
    """Print a table of medians and ratios, and keep everything as JSON."""
    medians = {
        server.peer.name: {
            key: statistics.median(found[key] for found in rounds if found["peer"] == server.peer.name)
            for key in COLUMNS.values()
        }
        for server in servers
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    facts = {
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("modelmill", "numpy", "scikit-learn", "uvicorn", "uvloop")},
        "peers": {server.peer.name: server.peer.requirements for server in servers},
        "options": {**vars(options), "cores": options.cores._asdict()},
        "start_s": {server.peer.name: server.start_s for server in servers},
        "median": medians,
        "ratio": ratios(medians),
        "rounds": rounds,
    }
    name = model if options.batch == 1 else f"{model}-{options.batch}-rows"
    (OUT / f"{name}.json").write_text(json.dumps(facts, indent=1))
    print_table(model, medians, rounds)
    print(f"raw figures: {OUT / name}.json", flush=True)


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return how many times as many requests a second modelmill answers, and how many times less CPU one costs it."""
    own = medians.get(OWN)
    if own is None:
        return {}
    return {
        name: {"requests_s": own["requests_s"] / found["requests_s"], "cpu_us": found["cpu_us"] / own["cpu_us"]}
        for name, found in medians.items()
    }


def print_table(model: str, medians: dict[str, dict[str, float]], rounds: Sequence[dict[str, Any]]) -> None:
    """Print medians, least and most requests a second, and ratios against modelmill."""
    compared = ratios(medians)
    print(
        f"\n{model:<12}"
        + "".join(f"{name:>12}" for name in COLUMNS)
        + f"{'least-most/s':>18}{'x req/s':>9}{'x CPU':>9}"
    )
    for name, found in medians.items():
        speeds = [turn["requests_s"] for turn in rounds if turn["peer"] == name]
        spread = f"{min(speeds):.0f}-{max(speeds):.0f}"
        ratio = compared.get(name, {})
        against = "".join(f"{ratio[key]:9.1f}" for key in ("requests_s", "cpu_us") if ratio)
        print(f"{name:<12}" + "".join(f"{found[key]:12.1f}" for key in COLUMNS.values()) + f"{spread:>18}{against}")


if __name__ == "__main__":
    main()
