"""Ten thousand boosted models on one node: ``python bench/density.py --models 10000``.

A few HistGradientBoosting classifiers (100 iterations of 15 leaves, 2,900 nodes) are fitted and packed; each of the many is
one of them with other leaf values, so no two share bytes. They are released into a store as a build would do it, and
served by one worker and by two. Measured: when the node is ready, the CPU of a request to one model and to a random one
of all, the first request to a model, the memory of the node beside that of the scikit-learn objects, what one new
version costs a live node, and what a thousand new versions cost the requests meanwhile. With ``--mlserver`` a thousand of
them are served by MLServer, too, in the environment that ``bench/serving`` makes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pickle
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from modelmill.artifact.packed import Packed
from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PACKED
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.release.pointers import Pointer, Published, publish
from modelmill.serving.control import NodeInfo, describe_node, start_node, stop_node, wait_until_applied
from modelmill.store.blobs import blobs_of, pointers_of
from modelmill.store.packs import PackWriter
from modelmill.store.signing import SigningKey

sys.path.insert(0, str(Path(__file__).parent / "serving"))

import loadgen
import processes

OUT = Path(__file__).parent / "out" / "density"
MLSERVER = Path(__file__).parent / "out" / "serving" / "envs" / "mlserver" / "bin" / "mlserver"
FEATURES, DISTINCT, PER_PACK = 10, 8, 500
REPLACED, ASKED_A_SECOND = 1_000, 500
NATIVE = 60
"""How many scikit-learn objects are opened to find what one takes."""
SPEC = SchemaSpec(
    "Row",
    "",
    (
        Column("route", "key", "str"),
        *(Column(f"f{place}", "feature", "float") for place in range(FEATURES)),
        Column("y", "target", "bool"),
    ),
)


def fit(seed: int) -> HistGradientBoostingClassifier:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3000, FEATURES))
    y = (x[:, 0] + np.sin(3 * x[:, 1]) + rng.normal(size=3000) > 0).astype(int)
    return HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=15, early_stopping=False).fit(x, y)


class Fleet:
    """Many models in a store, and their releases."""

    def __init__(self, store: Path, count: int, bases: Sequence[Packed]) -> None:
        self.store, self.bases = store, bases
        self.blobs, self.key = blobs_of(store), SigningKey.create(store)
        self.blobs.put([b"makes the folders"])
        self.names = [f"route-{place:05d}" for place in range(count)]
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.replace(self.names)

    def replace(self, names: Sequence[str]) -> None:
        """Give these routes new versions."""
        for begin in range(0, len(names), PER_PACK):
            some = names[begin : begin + PER_PACK]
            contents = [self._content(name) for name in some]
            with PackWriter(self.blobs.scratch) as writer:
                places = [writer.add(content) for content in contents]
                packed = self.blobs.put_file(writer.finish())
            for name, content, place in zip(some, contents, places, strict=True):
                number = self.revision + 1
                told = (PACKED, "packed", packed, place.offset, place.length, digest_of(content))
                self.entries[name] = Entry((name,), number, *told)

    def _content(self, name: str) -> bytes:
        number = int(name.rpartition("-")[2])
        base = self.bases[number % len(self.bases)]
        nodes = base.body.nodes.copy()  # type: ignore[union-attr]
        leaves = nodes["flags"] & 1 == 1
        nodes["value"][leaves] *= 1 + 1e-6 * number + 1e-9 * self.revision
        return Packed(base.body._replace(nodes=nodes), FEATURES, None, base.classes).encode()  # type: ignore[union-attr]

    def release(self) -> int:
        """Publish what the routes have now; return the revision."""
        self.revision += 1
        header = Header(
            model=ModelName("density"),
            spec=SPEC,
            by=("route",),
            task="classification",
            code=digest_of(b"code"),
            entry=("density.py", "density"),
            labels=("false", "true"),
            feature_names=tuple(f"f{place}" for place in range(FEATURES)),
            run=self.revision,
        )
        signed = sign(self.key, FleetMap.build(header, self.entries.values()))
        pointer = Pointer(self.revision, self.blobs.put([signed.content])[0], signed.signature)
        publish(pointers_of(self.store), Published("dev", self.revision, {ModelName("density"): pointer}))
        return self.revision


@contextmanager
def node(store: Path, workers: int) -> Iterator[tuple[NodeInfo, float]]:
    began = time.perf_counter()
    info = start_node(store, "dev", host="127.0.0.1", port=0, workers=workers)
    wait_until_applied(info, 1)
    ready = time.perf_counter() - began
    try:
        yield info, ready
    finally:
        stop_node(store, info)


def request(name: str, row: Sequence[float]) -> bytes:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP64", "data": list(row)}]})
    head = f"POST /v2/models/density%5B{name}%5D/infer HTTP/1.1\r\nhost: node\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def worker_of(info: NodeInfo) -> int:
    pid: int = (describe_node(info) or {})["workers"][0]["pid"]
    return pid


def cpu_ns(pid: int) -> int:
    """Return the CPU of a process, all threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def measure_requests(info: NodeInfo, program: Path, requests: Sequence[bytes], seconds: float) -> dict[str, float]:
    pid = worker_of(info)
    processes.pin(info.pid, 0)
    before = cpu_ns(pid)
    found = loadgen.run(program, loadgen.Load(info.port, requests, 32, seconds, core=1))
    return found | {"cpu_us": (cpu_ns(pid) - before) / 1000 / found["requests"]}


def first_hits(info: NodeInfo, requests: Sequence[bytes]) -> list[float]:
    """Return the seconds of the first request to each model, over one connection."""
    took = []
    with closing(http.client.HTTPConnection("127.0.0.1", info.port)) as link:
        link.connect()
        for one in requests:
            began = time.perf_counter()
            link.sock.sendall(one)
            assert link.sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
            took.append(time.perf_counter() - began)
    return took


def activations(fleet: Fleet, info: NodeInfo, times: int) -> list[float]:
    """Return the worker's CPU seconds for each release of one new version, less what it uses meanwhile anyway."""
    pid, found = worker_of(info), []
    for _ in range(times):
        fleet.replace(fleet.names[:1])
        idle, began = cpu_ns(pid), time.perf_counter()
        time.sleep(1.0)
        idle_rate = (cpu_ns(pid) - idle) / (time.perf_counter() - began)
        before, began = cpu_ns(pid), time.perf_counter()
        fleet.release()
        time.sleep(1.5)  # a worker looks four times a second; asking it whether it has would cost it more than doing it
        found.append((cpu_ns(pid) - before - idle_rate * (time.perf_counter() - began)) / 1e9)
    return found


def replaced_under_load(fleet: Fleet, info: NodeInfo, requests: Sequence[bytes]) -> dict[str, Any]:
    """Replace a thousand models under load; no request may fail, and no old answer may come once they are confirmed."""
    done, failures, asked, late = threading.Event(), [], [0], [0]
    confirmed = threading.Event()
    old = str(fleet.revision)

    def ask(offset: int) -> None:
        with httpx.Client(base_url=info.url) as client:
            place = offset
            while not done.is_set():
                name = fleet.names[place % REPLACED]
                already = confirmed.is_set()
                body = json.dumps({"route": name} | {f"f{n}": 0.5 for n in range(FEATURES)})
                reply = client.post("/density", content=body)
                asked[0] += 1
                if reply.status_code != 200:
                    failures.append(reply.text[:200])
                elif already and str(reply.json()["version"]) == old:
                    late[0] += 1
                place += 4
                time.sleep(4 / ASKED_A_SECOND)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    fleet.replace(fleet.names[:REPLACED])
    began = time.perf_counter()
    laggards = wait_until_applied(info, fleet.release())
    took = time.perf_counter() - began
    confirmed.set()
    time.sleep(2)
    done.set()
    for thread in threads:
        thread.join()
    return {"asked": asked[0], "failed": failures[:3], "old answers after": late[0], "s": took, "laggards": laggards}


@contextmanager
def mlserver(
    folder: Path, names: Sequence[str], fitted: Sequence[HistGradientBoostingClassifier]
) -> Iterator[tuple[int, int]]:
    """Serve a scikit-learn object a name by MLServer with its default settings; yield its pid and port."""
    port = 18_900
    places = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    settings = {"debug": False, "host": "127.0.0.1", "environments_dir": str(folder / ".envs"), **places}
    (folder / "settings.json").write_text(json.dumps(settings | {"metrics_dir": str(folder / ".metrics")}))
    for place, one in enumerate(fitted):
        (folder / f"{place}.pickle").write_bytes(pickle.dumps(one))
    for place, name in enumerate(names):
        told = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel"}
        told["parameters"] = {"uri": str(folder / f"{place % len(fitted)}.pickle")}  # type: ignore[assignment]
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(told))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["taskset", "-c", "0", MLSERVER, "start", folder], stdout=log, stderr=log, start_new_session=True
        )
    try:
        while not all_ready(port, names):
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(1)
        yield server.pid, port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def all_ready(port: int, names: Sequence[str]) -> bool:
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            return all(client.get(f"/v2/models/{name}/ready").status_code == 200 for name in names)
    except httpx.HTTPError:
        return False


def beside_mlserver(
    small: Fleet, program: Path, row: Sequence[float], fitted: Sequence[HistGradientBoostingClassifier], seconds: float
) -> dict[str, Any]:
    """Return both servers' requests a second on one core, a thousand models asked at random, in turns."""
    ours = [request(name, row) for name in small.names]
    theirs = [one.replace(b"density%5B", b"").replace(b"%5D", b"") for one in ours]
    found: dict[str, Any] = {"modelmill": [], "MLServer": []}
    with tempfile.TemporaryDirectory() as folder, node(small.store, 1) as (info, _):
        began = time.perf_counter()
        with mlserver(Path(folder), small.names, fitted) as (pid, port):
            found["MLServer ready s"] = time.perf_counter() - began
            for _ in range(3):
                found["modelmill"].append(measure_requests(info, program, ours, seconds)["requests_s"])
                found["MLServer"].append(
                    loadgen.run(program, loadgen.Load(port, theirs, 32, seconds, core=1))["requests_s"]
                )
            found["MLServer PSS MB"] = processes.memory(pid).pss
    found["ratio"] = statistics.median(found["modelmill"]) / statistics.median(found["MLServer"])
    return found


def native_mb(bases: Sequence[HistGradientBoostingClassifier]) -> float:
    """Return the megabytes that one scikit-learn object takes once it is opened, read off this process."""
    contents = [pickle.dumps(bases[n % len(bases)]) for n in range(NATIVE)]
    pickle.loads(contents[0]).predict_proba(np.zeros((1, FEATURES)))
    before = processes.memory(os.getpid()).pss
    kept = [pickle.loads(content) for content in contents]
    for one in kept:
        one.predict_proba(np.zeros((1, FEATURES)))
    return (processes.memory(os.getpid()).pss - before) / NATIVE


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mlserver", action="store_true", help="a thousand models behind MLServer as well")
    options = parser.parse_args()
    program = loadgen.compile_loadgen(OUT)
    fitted = [fit(seed) for seed in range(DISTINCT)]
    native = native_mb(fitted)
    bases = [pack(one, FEATURES, 2, Programs()) for one in fitted]
    row = np.random.default_rng(0).normal(size=FEATURES).round(4).tolist()
    with tempfile.TemporaryDirectory() as scratch:
        fleet = Fleet(Path(scratch), options.models, bases)
        result = measure(fleet, program, row, native, options)
        if options.mlserver:
            small = Fleet(Path(tempfile.mkdtemp(dir=scratch)), 1_000, bases)
            small.release()
            result["1,000 models beside MLServer"] = beside_mlserver(small, program, row, fitted, options.seconds)
    result |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    result |= {name: version(name) for name in ("numpy", "numba", "scikit-learn", "uvicorn")}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"density-{int(time.time())}.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def measure(
    fleet: Fleet, program: Path, row: Sequence[float], native: float, options: argparse.Namespace
) -> dict[str, Any]:
    requests = [request(name, row) for name in fleet.names]
    fleet.release()
    result: dict[str, Any] = {"models": len(fleet.names), "nodes each": len(fleet.bases[0].body.nodes)}  # type: ignore[union-attr]
    with node(fleet.store, 1) as (info, ready):
        result["ready s"] = ready
        hits = sorted(first_hits(info, requests))
        result["first hit ms"] = {"p50": 1e3 * hits[len(hits) // 2], "p99": 1e3 * hits[int(0.99 * len(hits))]}
        rounds = [
            {
                "one": measure_requests(info, program, requests[:1], options.seconds),
                "all": measure_requests(info, program, requests, options.seconds),
            }
            for _ in range(options.rounds)
        ]
        result["rounds"] = rounds
        extra = [one["all"]["cpu_us"] - one["one"]["cpu_us"] for one in rounds]
        result["CPU us of a random model beyond one model"] = {"median": statistics.median(extra), "all": extra}
        result["PSS MB, 1 worker"] = processes.memory(info.pid).pss
    with node(fleet.store, 2) as (info, _):
        for _ in range(2):
            loadgen.run(program, loadgen.Load(info.port, requests, 32, options.seconds))
        result["PSS MB, 2 workers"] = processes.memory(info.pid).pss
        result["1,000 replaced"] = replaced_under_load(fleet, info, requests)
    result["scikit-learn MB"] = native * len(fleet.names)
    small = Fleet(Path(tempfile.mkdtemp(dir=fleet.store)), 1_000, fleet.bases)
    small.release()
    with node(small.store, 1) as (info, _):
        first_hits(info, requests[:1000])
        result["activation CPU ms, 1,000 models"] = [1e3 * one for one in activations(small, info, 5)]
    return result


if __name__ == "__main__":
    main()
