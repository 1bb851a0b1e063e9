"""The processes of a node: none outlives its parent, a stopped node ends well, the project's folder is no import path."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from modelmill.serving.control import NodeInfo, find_node, start_node, wait_until_applied

from .conftest import PATIENCE_S

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import stores5k  # type: ignore[import-not-found]

# A node is meant to outlive the process that starts it.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
Command = Callable[..., Any]
FIELDS = ["store", "price", "footfall", "weekday", "promo", "weather"]
HOSTILE = ("uvicorn.py", "select.py", "msgspec.py")
"""Names of modules that a node needs, as files of a project."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, modelmill: Command) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("processes") / "stores"
    stores5k.write_project(folder, stores=4, rows=60)
    done = modelmill("up", "--detach", "--port", "0", "--json", cwd=folder)
    assert done.code == 0, done.err
    modelmill("down", cwd=folder)
    yield folder
    modelmill("down", cwd=folder)


@pytest.fixture
def node(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeInfo]:
    """Return a node of two workers, started where files have the names of modules."""
    for name in HOSTILE:
        (trained / name).write_text("raise SystemExit('imported from the project')")
    monkeypatch.chdir(trained)
    info = start_node(trained / ".modelmill", "dev", host="127.0.0.1", port=0, workers=2)
    assert wait_until_applied(info, 1, timeout_s=30) == []
    yield info
    for name in HOSTILE:
        (trained / name).unlink()
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(info.pid, signal.SIGKILL)
        os.waitpid(info.pid, 0)


def family(pid: int) -> list[int]:
    """Return all descendants of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in path.read_text().split()] if path.exists() else []
    return children + [grandchild for child in children for grandchild in family(child)]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids: list[int]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(runs, pids))


def rows(project: Path) -> list[dict[str, Any]]:
    """Return the last ten rows of each store."""
    frame = pl.read_parquet(project / "rows.parquet").sort("store", "at")
    return frame.group_by("store", maintain_order=True).tail(10).select(FIELDS).to_dicts()


def test_a_node_has_two_workers_and_their_children(node: NodeInfo) -> None:
    assert len(family(node.pid)) == 4


def test_nothing_outlives_a_killed_parent(node: NodeInfo) -> None:
    pids = family(node.pid)
    os.kill(node.pid, signal.SIGKILL)
    os.waitpid(node.pid, 0)
    assert all_end(pids)


def test_nothing_outlives_a_killed_worker(node: NodeInfo) -> None:
    worker = httpx.get(f"{node.url}/-/node").json()["workers"][0]["pid"]
    children = family(worker)
    assert children
    os.kill(worker, signal.SIGKILL)
    assert all_end([worker, *children])


def test_a_terminated_node_ends_well_and_leaves_nothing(node: NodeInfo, trained: Path) -> None:
    pids = family(node.pid)
    os.kill(node.pid, signal.SIGTERM)
    _, status = os.waitpid(node.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert all_end(pids)
    assert find_node(trained / ".modelmill") is None


def test_a_request_in_flight_is_answered_before_the_end(node: NodeInfo, trained: Path) -> None:
    body = json.dumps(rows(trained)[0]).encode()
    head = b"POST /sales HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection((node.host, node.port), timeout=30) as client:
        client.sendall(head)
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")  # a worker holds the request now
        os.kill(node.pid, signal.SIGTERM)
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_online_answers_equal_the_archived_models_called_in_process(node: NodeInfo, trained: Path) -> None:
    asked = rows(trained)
    online = [answer["sales"] for answer in httpx.post(f"{node.url}/sales", json=asked, timeout=60).json()]
    done = subprocess.run([sys.executable, "-P", "-c", IN_PROCESS], input=json.dumps([str(trained), asked]),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [float.fromhex(word) for word in done.stdout.split()] == online


IN_PROCESS = """
import json, sys
from itertools import groupby
from pathlib import Path
from modelmill.artifact.saving import unpickle
from modelmill.model.fitted import answer, make_x
from modelmill.model.loading import load_model_file
from modelmill.model.request import parser_of
from modelmill.registry.facts import extract_code
from modelmill.release.pointers import find_published, open_map
from modelmill.store.blobs import blobs_of, pointers_of
from modelmill.store.packs import PackReader
from modelmill.store.signing import public_key

project, asked = json.load(sys.stdin)
store = Path(project, ".modelmill")
blobs = blobs_of(store)
fleet = open_map(blobs, find_published(pointers_of(store), "dev").models["sales"], public_key(store))
folder = extract_code(blobs, fleet.header.code, store / "cache" / "code")
model = load_model_file(folder / fleet.header.entry[0], folder).models["sales"]
parser = parser_of(fleet.header.spec, fleet.header.by, fleet.header.feature_names)
for name, group in groupby(asked, lambda row: row["store"]):
    entry, rows = fleet.find((name,)), parser.parse_rows(list(group))
    assert (entry.state, entry.format) == ("own", "pickle")
    fitted = unpickle(PackReader(blobs.open(entry.pack)).entry(entry.offset, entry.length, entry.artifact))
    x = make_x(model.role("features"), model.spec, rows)
    print(*(float(a).hex() for a in answer(fitted, model.role("predict"), 0, x, rows, (name,))))
"""
