"""The node as its operator sees it: started, watched, restarted under load, killed, and never a failed request."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelmill.errors import PortInUse
from modelmill.serving.control import NodeInfo, check_port, describe_node, find_node

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import clients  # type: ignore[import-not-found]
import stores5k  # type: ignore[import-not-found]

from .conftest import PATIENCE_S

Command = Callable[..., Any]
WORKERS = 2


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, modelmill: Command) -> Iterator[Path]:
    """Return a project with a released fleet of packed models and a node of two workers."""
    folder = tmp_path_factory.mktemp("node") / "stores"
    stores5k.write_project(folder, stores=12, rows=60)
    file = folder / "stores.py"
    before, _, rest = file.read_text().partition("@sales.predict")
    file.write_text(before + rest.partition("else answers\n")[2])
    with (folder / "modelmill.toml").open("a") as settings:
        settings.write("[serve]\ngrpc_port = 0\n")
    assert modelmill("up", "--detach", "--port", "0", cwd=folder).code == 0
    assert modelmill("down", cwd=folder).code == 0
    done = modelmill("serve", "--detach", "--port", "0", "--workers", str(WORKERS), "--json", cwd=folder)
    assert done.code == 0, done.err
    yield folder
    modelmill("down", cwd=folder)
    assert find_node(folder / ".modelmill") is None


def node(project: Path) -> NodeInfo:
    found = find_node(project / ".modelmill")
    assert found is not None
    return found


def row(project: Path) -> dict[str, Any]:
    fields = ["store", "price", "footfall", "weekday", "promo", "weather"]
    return pl.read_parquet(project / "rows.parquet").select(fields).row(0, named=True)


@pytest.fixture
def load(project: Path) -> clients.Load:
    return clients.Load(node(project).port, json.dumps(row(project)).encode())


def test_both_workers_run_and_are_ready(project: Path, modelmill: Command) -> None:
    told = describe_node(node(project))
    assert told is not None
    assert len({worker["pid"] for worker in told["workers"]}) == WORKERS
    shown = json.loads(modelmill("status", "--json", cwd=project).out)["node"]
    assert (shown["workers"], shown["declared_workers"], shown["healthy"]) == (WORKERS, WORKERS, True)
    assert shown["releases"] == {"sales": 1}
    assert 0 < shown["memory_mb"] < 1000


def test_rolling_restarts_fail_no_request(project: Path, load: clients.Load, modelmill: Command) -> None:
    with load:
        for _ in range(3):
            load.answer_more(20)
            before = {worker["pid"] for worker in (describe_node(node(project)) or {})["workers"]}
            done = modelmill("serve", "--restart", "--json", cwd=project)
            assert done.code == 0, done.err
            assert json.loads(done.out)["restarted"] == WORKERS
            after = {worker["pid"] for worker in (describe_node(node(project)) or {})["workers"]}
            assert len(after) == WORKERS
            assert not after & before
    assert load.failures == []


def infer_request(project: Path) -> bytes:
    """Return a request over gRPC for the first row."""
    from modelmill.serving.messages import MESSAGES  # like generated stubs, it is no part of what a client imports

    store, *features = row(project).values()
    inputs = [
        {"name": "store", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [store.encode()]}},
        {"name": "x", "datatype": "FP64", "shape": [1, len(features)], "contents": {"fp64_contents": features}},
    ]
    found: bytes = MESSAGES["ModelInferRequest"](model_name="sales", inputs=inputs).SerializeToString()
    return found


RETRIED = {"maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
           "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}  # fmt: skip


class RemoteCalls(threading.Thread):
    """A client that asks over one channel, again and again, and asks again what reached a worker as it ended."""

    def __init__(self, address: str, content: bytes) -> None:
        super().__init__()
        self.answers: list[bytes] = []
        self.failures: list[str] = []
        self.ends = False
        self._address, self._content = address, content

    def run(self) -> None:
        config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRIED}]})
        with grpc.insecure_channel(self._address, options=[("grpc.service_config", config)]) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while not self.ends:
                try:
                    self.answers.append(infer(self._content, timeout=30))
                except grpc.RpcError as error:
                    self.failures.append(str(error))

    def answer_more(self, count: int) -> None:
        wanted = len(self.answers) + count
        assert eventually(lambda: len(self.answers) >= wanted)


def test_rolling_restarts_fail_no_remote_call(project: Path, modelmill: Command) -> None:
    client = RemoteCalls(node(project).grpc, infer_request(project))
    client.start()
    for _ in range(2):
        client.answer_more(20)
        assert modelmill("serve", "--restart", cwd=project).code == 0
    client.answer_more(20)
    client.ends = True
    client.join()
    assert client.failures == []
    assert len(set(client.answers)) == 1


def test_the_port_of_grpc_is_shown_and_kept(project: Path, modelmill: Command) -> None:
    shown = json.loads(modelmill("status", "--json", cwd=project).out)["node"]
    assert shown["grpc"] == node(project).grpc
    listens = [one["listens"] for one in json.loads(modelmill("infra", "--json", cwd=project).out)["processes"]]
    assert sum(shown["grpc"] in addresses for addresses in listens) == WORKERS
    with pytest.raises(PortInUse, match=f"port {node(project).grpc_port} of"):
        check_port("127.0.0.1", 0, node(project).grpc_port)


def test_a_killed_worker_costs_only_what_it_held(project: Path, load: clients.Load) -> None:
    with load:
        for _ in range(3):
            load.answer_more(20)
            victim = pids(project)[0]
            os.kill(victim, signal.SIGKILL)
            assert eventually(partial(is_replaced, project, victim))
        load.answer_more(20)
    assert len(load.failures) <= 3 * load.clients  # one request was in flight over each connection, at most


def is_replaced(project: Path, victim: int) -> bool:
    now = pids(project)
    return len(now) == WORKERS and victim not in now


def pids(project: Path) -> list[int]:
    """Return the workers that have applied what is released."""
    workers = (describe_node(node(project)) or {}).get("workers", [])
    return [worker["pid"] for worker in workers if worker["revision"] >= 0]


def test_models_answer_on_without_their_store(project: Path, load: clients.Load) -> None:
    blobs, hidden = project / ".modelmill" / "blobs", project / ".modelmill" / "hidden"
    base = node(project).url
    for _ in range(20):  # both workers have opened the model
        assert httpx.post(f"{base}/sales", content=load.body).status_code == 200
    blobs.rename(hidden)
    (project / ".modelmill" / "mill.db").rename(project / ".modelmill" / "gone.db")
    try:
        time.sleep(0.6)
        for _ in range(20):
            assert httpx.post(f"{base}/sales", content=load.body).status_code == 200
    finally:
        hidden.rename(blobs)
        (project / ".modelmill" / "gone.db").rename(project / ".modelmill" / "mill.db")


def test_prometheus_sees_all_workers_together(project: Path, load: clients.Load) -> None:
    base = node(project).url
    before = _settled(base)
    for _ in range(30):
        httpx.post(f"{base}/sales", content=load.body)
    httpx.post(f"{base}/sales", content=b"{")
    assert eventually(lambda: _requests(base)["answered"] - before["answered"] >= 30)
    after = _settled(base)
    assert after["answered"] - before["answered"] == 30
    assert after["refused"] - before["refused"] == 1


def _settled(base: str) -> dict[str, float]:
    """Return what was counted when nothing new comes: a worker tells the others four times a second."""
    found = [_requests(base)]
    while len(found) < 4 or found[-4:] != found[-1:] * 4:
        time.sleep(0.3)
        found.append(_requests(base))
    return found[-1]


@pytest.fixture
def prometheus(project: Path, tmp_path: Path) -> Iterator[str]:
    """Return the address of a real Prometheus that scrapes the node each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("optional component missing: prometheus")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    target = node(project).url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "modelmill", "static_configs": [{"targets": [target]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    command += [f"--web.listen-address={address}", "--log.level=error"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    yield f"http://{address}"
    server.terminate()
    server.wait(20)


def test_a_real_prometheus_reads_the_page(project: Path, load: clients.Load, prometheus: str) -> None:
    httpx.post(f"{node(project).url}/sales", content=load.body).raise_for_status()
    assert eventually(lambda: query(prometheus, 'modelmill_requests_total{outcome="answered"}') > 0)
    assert query(prometheus, "modelmill_workers") == WORKERS
    assert query(prometheus, "up") == 1
    assert query(prometheus, "histogram_quantile(0.99, modelmill_request_seconds_bucket)") > 0
    assert query(prometheus, "count({job='modelmill'})") < 2_000


def query(prometheus: str, expression: str) -> float:
    """Return the one number of an expression; 0 while there is none."""
    try:
        reply = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=5)
    except httpx.TransportError:
        return 0.0
    found = reply.json()["data"]["result"] if reply.is_success else []
    return float(found[0]["value"][1]) if found else 0.0


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)
    return holds()


def _requests(base: str) -> dict[str, float]:
    reply = httpx.get(f"{base}/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    assert families["modelmill_workers"].samples[0].value == WORKERS
    return {sample.labels["outcome"]: sample.value for sample in families["modelmill_requests"].samples}


def test_the_history_of_a_segment_is_a_query(project: Path, load: clients.Load) -> None:
    base, store = node(project).url, row(project)["store"]
    for _ in range(10):
        httpx.post(f"{base}/sales", content=load.body)
    deadline = time.monotonic() + PATIENCE_S
    asked = 0
    while asked < 10 and time.monotonic() < deadline:
        told = httpx.get(f"{base}/-/history/sales[{store}]", params={"minutes": 5}).json()
        asked = sum(minute[1] for minute in told["minutes"])
        time.sleep(0.3)
    assert asked >= 10
    assert told["segment"] == store
    assert httpx.get(f"{base}/-/history/sales", params={"minutes": "soon"}).status_code == 422


def test_a_second_serve_says_who_serves(project: Path, modelmill: Command) -> None:
    done = modelmill("serve", "--detach", cwd=project)
    assert done.code == 2
    assert f"port {node(project).port}" in done.err
    assert "modelmill serve --restart" in done.err


def test_without_a_node_nothing_is_restarted(tmp_path: Path, modelmill: Command, project: Path) -> None:
    stores5k.write_project(tmp_path / "other", stores=2, rows=30)
    done = modelmill("serve", cwd=tmp_path / "other")
    assert (done.code, "nothing is released" in done.err) == (70, True)


def test_yesterdays_version_answers_the_same_bytes_after_a_retrain(project: Path, modelmill: Command) -> None:
    base, body = node(project).url, json.dumps(row(project)).encode()
    inputs = [{"name": "store", "datatype": "BYTES", "shape": [1], "data": [row(project)["store"]]}]
    numbers = [value for name, value in row(project).items() if name != "store"]
    inputs.append({"name": "x", "datatype": "FP64", "shape": [1, len(numbers)], "data": numbers})
    v2 = json.dumps({"inputs": inputs}).encode()
    before = (
        httpx.post(f"{base}/sales", content=body).content,
        httpx.post(f"{base}/v2/models/sales/infer", content=v2).content,
    )
    file = project / "families.py"
    file.write_text(file.read_text().replace("Ridge(alpha=1.0)", "Ridge(alpha=50.0)"))
    done = modelmill("up", "--detach", "--json", cwd=project)
    assert done.code == 0, done.err
    assert json.loads(httpx.post(f"{base}/sales", content=body).content)["version"] == 2
    for _ in range(5):
        assert httpx.post(f"{base}/sales@1", content=body).content == before[0]
        assert httpx.post(f"{base}/v2/models/sales/versions/1/infer", content=v2).content == before[1]
        current = httpx.post(f"{base}/sales@2", content=body).content
        assert current == httpx.post(f"{base}/sales", content=body).content != before[0]
    assert httpx.get(f"{base}/v2/models/sales/versions/1").json()["versions"] == ["1"]
    refused = httpx.post(f"{base}/sales@7", content=body)
    assert (refused.status_code, refused.json()["expected"]) == (404, "2, 1")
    assert httpx.post(f"{base}/v2/repository/index").json()[0]["version"] == "2"
