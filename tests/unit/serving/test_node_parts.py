"""The parts of a node without its processes: not ready, no usable answer, shared state, whose port it is."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

import modelmill as mm
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PACKED
from modelmill.artifact.tracing import Constant, Program, Reference, Step
from modelmill.data.journal import Journal
from modelmill.errors import AnswerInvalid, BlobBroken, ModelBusy, NodeNotReady, PortInUse
from modelmill.model.request import Batch, RequestParser
from modelmill.model.schema import schema_of
from modelmill.names import Digest, ModelName, digest_of
from modelmill.registry.fleet import Entry
from modelmill.serving import control
from modelmill.serving.app import App
from modelmill.serving.calls import refusal
from modelmill.serving.control import (
    NodeInfo,
    NodeOrder,
    _bind,
    _is_local,
    check_port,
    find_node,
    node_file,
    who_listens,
)
from modelmill.serving.door import Door
from modelmill.serving.log import LogPlan
from modelmill.serving.meters import CLASSES
from modelmill.serving.node import Node
from modelmill.serving.packed import PackedRuntime, answer_of
from modelmill.serving.plane import Plane
from modelmill.serving.state import NodeState, WorkerState, make_state
from modelmill.store.blobs import FolderBlobs
from modelmill.store.files import started_at
from modelmill.store.packs import PackWriter
from modelmill.store.tokens import make_token, read_token


class Row(mm.Schema):
    """One row."""

    hour: float = mm.col()
    y: float = mm.target()


def ask(app: App, method: str, path: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/health/ready"), ("POST", "/sales"), ("GET", "/sales/schema")]
)
def test_before_a_release_a_node_is_not_ready(method: str, path: str, no_host: Any, no_log: Any) -> None:
    reply = ask(App(Plane(no_host(), no_log, Door())), method, path, json={})
    assert (reply.status_code, reply.json()["code"]) == (503, "MM508")


def test_a_node_lives_before_it_is_ready(no_host: Any, no_log: Any) -> None:
    assert ask(App(Plane(no_host(), no_log, Door())), "GET", "/v2/health/live").json() == {"live": True}


def test_what_we_did_not_foresee_is_a_500_without_a_traceback(no_host: Any, no_log: Any) -> None:
    class Broken(type(no_host())):  # type: ignore[misc]
        def describe(self, *, memory: bool) -> dict[str, Any]:  # noqa: ARG002 - as its callers ask
            raise RuntimeError("unforeseen")

    reply = ask(App(Plane(Broken(), no_log, Door())), "GET", "/-/node")
    assert (reply.status_code, reply.json()["code"]) == (500, "MM500")
    assert "Traceback" not in reply.text


PARSER = RequestParser(schema_of(Row), ["hour"])


def packed(
    folder: Path,
    *coefs: float,
    programs: Programs = Programs(),  # noqa: B008 - a constant
) -> tuple[PackedRuntime, Entry]:
    """Return a runtime over one linear model, and its entry."""
    blobs = FolderBlobs(folder)
    blobs.put([b"makes the folders"])
    content = Packed(Linear(np.array([coefs]), np.ones(1)), len(coefs), programs=programs).encode()
    with PackWriter(blobs.scratch) as writer:
        place = writer.add(content)
        pack = blobs.put_file(writer.finish())
    entry = Entry((), 1, PACKED, "packed", pack, place.offset, place.length, digest_of(content))
    return PackedRuntime(blobs), entry


def hours(*values: float) -> Batch:
    return PARSER.batch([{"hour": value} for value in values])


def test_a_packed_model_answers_from_its_pack(tmp_path: Path) -> None:
    runtime, entry = packed(tmp_path, 2.0)
    assert answer_of(runtime.open(entry), hours(3, 4)).tolist() == [7, 9]


def test_what_the_users_functions_do_is_done_without_them(tmp_path: Path) -> None:
    squared = Program(("hour",), (Step("multiply", (Reference(0), Reference(0))),), 1).encode()
    clipped = Program(("answers",), (Step("clip", (Reference(0), Constant(0), Constant(20))),), 1).encode()
    runtime, entry = packed(tmp_path, 2.0, programs=Programs(squared, clipped))
    assert answer_of(runtime.open(entry), hours(3, 4)).tolist() == [19, 20]


def test_a_row_at_which_a_program_raises_has_no_answer(tmp_path: Path) -> None:
    days = Program(("hour",), (Step("astype", (Reference(0), Constant("no type"))),), 1).encode()
    runtime, entry = packed(tmp_path, 2.0, programs=Programs(before=days))
    with pytest.raises(AnswerInvalid, match="TypeError"):
        answer_of(runtime.open(entry), hours(3))


def test_no_usable_answer_is_told(tmp_path: Path) -> None:
    runtime, entry = packed(tmp_path, float("inf"))
    with pytest.raises(AnswerInvalid):
        answer_of(runtime.open(entry), hours(3))


def test_what_stays_the_same_stays_open(tmp_path: Path) -> None:
    runtime, entry = packed(tmp_path, 2.0)
    opened = runtime.open(entry)
    after = PackedRuntime(FolderBlobs(tmp_path), runtime)
    assert after.open(entry) is opened
    assert after.opened == 1


def test_an_entry_with_another_digest_is_refused(tmp_path: Path) -> None:
    runtime, entry = packed(tmp_path, 2.0)
    with pytest.raises(BlobBroken):
        runtime.open(entry._replace(artifact=Digest("0" * 64)))


def test_workers_share_their_state() -> None:
    descriptor = make_state()
    one, other = NodeState(descriptor), NodeState(descriptor)
    state = WorkerState(7, 3, 10, 1, 0, 1, recent=(1,) * CLASSES)
    one.write(5, state)
    assert other.read() == [state]
    one.write_broken(5, 2)
    assert other.broken() == {7: 2}
    one.retire(5)
    one.write(5, state)
    assert other.broken() == {7: 0}
    one.retire(5)
    assert other.read() == []
    assert (other.retired().answered, other.retired().latencies) == (20, state.latencies)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([((0, 0), {})], ""),
        ([((1, 0), {}), ((1, 0), {"sales": "damaged"}), ((0, 0), {})], ""),  # the other worker tried again
        ([((1, 1), {"sales": "damaged"})], "damaged"),
        ([((1, 0), {"sales": "damaged"}), ((1, 0), {})], "damaged"),
        ([((1, 1), {"another": "damaged"})], ""),
    ],
)
def test_every_worker_is_asked_whether_it_serves_a_release(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[tuple[int, int], dict[str, str]]], found: str
) -> None:
    answers = [
        {
            "workers": [{"pid": 1, "revision": 3, "broken": one}, {"pid": 2, "revision": 3, "broken": two}],
            "broken": names,
        }
        for (one, two), names in told
    ]
    each = chain([answers[0]], answers, repeat(answers[-1]))  # the first one is asked for the revision
    monkeypatch.setattr(control, "describe_node", lambda _: next(each))
    monkeypatch.setattr(control, "RETRY_S", 0.1)
    node = NodeInfo(1, "127.0.0.1", 1, "dev", 2, datetime.now(UTC))
    assert control.wait_until_served(node, 3, ModelName("sales")) == ([], found)


def test_a_busy_port_names_its_process() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert f"pid {os.getpid()}" in who_listens(port)
        with pytest.raises(PortInUse, match=f"pid {os.getpid()}"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.1.2.3", False), ("node", False)],  # noqa: S104 - a value
)
def test_only_an_address_of_this_machine_needs_no_token(host: str, local: bool) -> None:
    assert _is_local(host) is local


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    file = make_token(tmp_path)
    first = read_token(file)
    assert read_token(make_token(tmp_path)) == first
    assert (len(first) > 30, file.stat().st_mode & 0o777) == (True, 0o600)
    info = NodeInfo(1, "10.1.2.3", 1, "dev", 1, datetime.now(UTC), token_file=str(file))
    assert info.headers == {"authorization": f"Bearer {first.decode()}"}


def test_accepted_connections_send_small_answers_at_once() -> None:
    """asyncio does not set it on sockets that were inherited; Nagle's algorithm then costs 40 ms a request."""
    with _bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as _:
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_no_node_runs_in_an_empty_store(tmp_path: Path) -> None:
    assert find_node(tmp_path) is None


def test_a_node_that_has_died_is_not_found(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    info = NodeInfo(dead.pid, "127.0.0.1", 1, "dev", 1, datetime.now(UTC), started_at(dead.pid))
    node_file(tmp_path).parent.mkdir(parents=True)
    node_file(tmp_path).write_bytes(msgspec.json.encode(info))
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    assert find_node(tmp_path) is None
    dead.wait()


def test_a_node_has_closed_journals_settled_now_and_then(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = (sys.executable, "-c", f"open({str(told)!r}, 'a').write('x')")
    log = LogPlan(folder=str(tmp_path / "predictions"), level="memory", settle=command)
    info = NodeInfo(1, "127.0.0.1", 1, "dev", 1, datetime.now(UTC), log=log)
    node = Node(NodeOrder(info, str(tmp_path), listening=0))
    open_journal = Journal(Path(log.folder), "w", 1)

    def look(*, due: bool) -> str:
        node.settles_at = 0.0 if due else time.monotonic() + 60
        node._settle_log()
        if node.settler is not None:
            node.settler.wait(10)
        return told.read_text() if told.exists() else ""

    assert look(due=True) == ""  # a worker still writes to it
    open_journal.write(b"\x01", 0, 1)
    open_journal.close()
    assert look(due=False) == ""
    assert look(due=True) == "x"
    assert look(due=True) == "xx"


def test_a_refusal_that_passes_says_when_to_try_again() -> None:
    assert (b"retry-after", b"1") in refusal(NodeNotReady("the node is not ready")).headers
    busy = ModelBusy("many wait")
    busy.after_s = 2.2
    assert (b"retry-after", b"3") in refusal(busy).headers
    assert b"retry-after" not in dict(refusal(AnswerInvalid("no answer")).headers)
