"""HTTP on real sockets: the hot path and plain ASGI send the same bytes, whatever way a request arrives.

These tests also hold down what the hot path takes from uvicorn's protocol class.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

import modelmill as mm
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.warming import warm
from modelmill.model.schema import schema_of
from modelmill.serving import calls, http
from modelmill.serving.app import App
from modelmill.serving.http import MOST_HEADERS, HttpProtocol
from modelmill.serving.plane import Plane
from modelmill.serving.waiting import MOST_WAITING, Pace

Talk = Callable[..., bytes]


class Sale(mm.Schema):
    """One number."""

    size: float = mm.col()
    sales: float = mm.target()


class Server:
    """Uvicorn in a thread, over one plane, on two ports: with and without the hot path."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.ports = {}
        self._servers = []
        for hot in (True, False):
            listening = socket.create_server(("127.0.0.1", 0))
            self.ports[hot] = listening.getsockname()[1]
            protocol: Any = partial(HttpProtocol, plane, {}, hot=hot)
            config = uvicorn.Config(
                App(plane),
                http=protocol,
                ws="none",
                lifespan="off",
                log_level="critical",
                proxy_headers=False,
                server_header=False,
            )
            server: Any = uvicorn.Server(config)
            thread = threading.Thread(target=self._run, args=(server, listening), daemon=True)
            thread.start()
            self._servers.append((server, thread))

    @staticmethod
    def _run(server: Any, listening: socket.socket) -> None:
        async def serve() -> None:
            server.loop = asyncio.get_running_loop()
            await server.serve([listening])

        asyncio.run(serve())

    def close(self) -> None:
        for server, thread in self._servers:
            server.should_exit = True
            thread.join(10)

    def talk(self, *pieces: bytes, hot: bool = True, pause: float = 0.0, end: bool = False) -> bytes:
        """Send pieces, return all that comes back until the server is silent or closes."""
        with socket.create_connection(("127.0.0.1", self.ports[hot])) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                link.sendall(piece)
                time.sleep(pause)
            if end:
                link.shutdown(socket.SHUT_WR)
            link.settimeout(0.4)
            found = b""
            try:
                while part := link.recv(1 << 16):
                    found += part
            except TimeoutError:
                return found
            return found + b"<closed>"


@pytest.fixture(scope="module")
def server(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("http")
    plane = served(folder / "store", schema_of(Sale), {(): Packed(Linear(np.array([[2.0]]), np.ones(1)), 1)})
    warm()
    server = Server(plane)
    yield server
    server.close()


def post(body: bytes, path: bytes = b"/fleet", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST %b HTTP/%b" % (path, version), b"host: node", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def alike(server: Server, *pieces: bytes, pause: float = 0.0, end: bool = False) -> bytes:
    """Return what the hot path answers, once it is what plain ASGI answers but for the date and the request's id."""
    found = [server.talk(*pieces, hot=hot, pause=pause, end=end) for hot in (True, False)]
    hot, plain = (re.sub(rb"(date|x-request-id): [^\r]*", rb"\1: now", some) for some in found)
    assert hot == plain
    return hot


ONE = post(b'{"size": 3}')
ANSWER = b'{"sales":7.0,"model":"fleet","segment":"pooled","version":2,"answered_by":"pooled"}'


def test_a_request_is_answered(server: Server) -> None:
    found = alike(server, ONE)
    start = (
        b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: application/json\r\nx-request-id: now\r\ncontent-length: 83\r\n"
    )
    assert found.startswith(start)
    assert found.endswith(b"\r\n\r\n" + ANSWER)


def test_a_foreign_name_is_refused_on_both_ways_and_again(server: Server) -> None:
    foreign = ONE.replace(b"host: node", b"host: evil.example.com:80")
    for hot in (True, False):
        for _ in range(2):  # the second time the head might be known
            found = server.talk(foreign, hot=hot)
            assert found.startswith(b"HTTP/1.1 421 ")
            assert b"MM210" in found


def test_the_hot_path_is_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over = []
    plain = HttpProtocol._hand_over

    def noted(protocol: HttpProtocol) -> None:
        handed_over.append(protocol)
        plain(protocol)

    monkeypatch.setattr(HttpProtocol, "_hand_over", noted)
    assert ANSWER in server.talk(ONE)
    assert not handed_over
    assert ANSWER in server.talk(ONE, hot=False)
    assert handed_over


def test_a_head_that_is_known_is_not_parsed_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    plain = HttpProtocol.on_headers_complete

    def noted(protocol: HttpProtocol) -> None:
        parsed.append(protocol.url)
        plain(protocol)

    monkeypatch.setattr(HttpProtocol, "on_headers_complete", noted)
    head = b"/fleet?%d" % time.monotonic_ns()
    assert ANSWER in server.talk(post(b'{"size": 3}', head))
    assert len(parsed) == 1
    assert ANSWER in server.talk(post(b'{"size": 3}', head))
    assert b'"sales":9.0' in server.talk(post(b'{"size": 4}', head), post(b'{"size": 4}', head), pause=0.05)
    assert len(parsed) == 1
    longer = post(b'{"size": 3}', head) + b"GET /v2/health/live HTTP/1.1\r\nhost: node\r\n\r\n"
    assert b'{"live":true}' in server.talk(longer)
    assert len(parsed) == 3


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize(
    "request_",
    [
        post(b'{"size": 3}', b"/fleet", b"connection: close"),
        post(b'{"size": 3}', version=b"1.0"),
        post(b"{", b"/fleet"),
        post(b'{"size": 3}', b"/flet"),
    ],
    ids=str,
)
def test_a_known_head_is_answered_as_the_first_time(server: Server, request_: bytes, twice: bool) -> None:
    first = alike(server, request_)
    assert alike(server, request_) == first
    if twice and not first.endswith(b"<closed>"):
        assert alike(server, request_, request_, pause=0.05) == first + first


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """No answer is there at once, as where a model runs in another process; return the bodies that were awaited."""
    seen: list[bytes] = []
    respond = Plane.respond

    async def later(plane: Plane, call: calls.Call) -> calls.Reply:
        seen.append(call.body)
        await asyncio.sleep(0.1 if b"slow" in call.path or b"3" in call.body else 0)
        return await respond(plane, call)

    monkeypatch.setattr(Plane, "respond", later)
    monkeypatch.setattr(Plane, "quick", lambda *_: None)
    monkeypatch.setattr(Plane, "now", lambda *_, **__: None)
    return seen


TWO = post(b'{"size": 4}')


@pytest.mark.parametrize(
    "pieces",
    [
        [ONE],
        [TWO, ONE, TWO],
        [ONE + TWO],
        [ONE + TWO + TWO + ONE],
        [ONE[:90], ONE[90:] + TWO[:80], TWO[80:]],
        [TWO + b"GET /v2/health/live HTTP/1.1\r\nhost: node\r\n\r\n" + ONE],
        [post(b'{"size": 3}', b"/fleet", b"connection: close")],
        [post(b'{"size": 3}', version=b"1.0")],
        [post(b"{")],
        [post(b'{"size": 3}', b"/flet")],
        [post(b'{"size": 3}', b"/fleet", b"x-request-id: mine")],
        [b'POST /fleet HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\nb\r\n{"size": 3}\r\n0\r\n\r\n', TWO],
    ],
    ids=str,
)
def test_an_answer_that_is_awaited_is_the_same_and_keeps_its_turn(
    server: Server, awaited: list[bytes], pieces: list[bytes]
) -> None:
    for _ in range(2):  # the second time the head is known
        found = alike(server, *pieces, pause=0.05)
    asked = b"".join(pieces).count(b"POST") + b"".join(pieces).count(b"GET")
    assert found.count(b"HTTP/1.1 ") == asked
    if asked > 1 and b"GET" not in pieces[0]:
        expected = [b"7.0" if b"3" in body else b"9.0" for body in awaited[-asked:]]
        assert re.findall(rb'"sales":([0-9.]+)', found) == expected


def test_a_known_head_whose_answer_is_awaited_is_not_parsed_again(
    server: Server, awaited: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"/fleet?%d" % time.monotonic_ns()
    assert ANSWER in server.talk(post(b'{"size": 3}', head))
    monkeypatch.setattr(HttpProtocol, "on_headers_complete", lambda _: pytest.fail("it was parsed"))
    assert ANSWER in server.talk(post(b'{"size": 3}', head))
    assert len(awaited) == 2


def test_a_client_that_has_gone_is_not_answered_and_the_next_one_is(server: Server, awaited: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", server.ports[True])) as link:
        link.sendall(ONE)
        while not awaited:
            time.sleep(0.01)
    assert ANSWER in server.talk(ONE)


def test_a_request_may_come_byte_by_byte(server: Server) -> None:
    assert alike(server, *[ONE[place : place + 1] for place in range(len(ONE))]).endswith(ANSWER)


@pytest.mark.parametrize("place", [1, 20, len(ONE) - 12, len(ONE) - 11, len(ONE) - 1])
def test_a_request_may_come_in_two(server: Server, place: int) -> None:
    assert alike(server, ONE[:place], ONE[place:], pause=0.03).endswith(ANSWER)


def test_requests_may_follow_without_waiting(server: Server) -> None:
    get = b"GET /v2/health/live HTTP/1.1\r\nhost: node\r\n\r\n"
    found = alike(server, ONE + get + ONE + ONE + get + post(b"{") + ONE)
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200"] * 5 + [b"400", b"200"]
    assert [part[:10] for part in found.split(b"\r\n\r\n")[1:]] == [
        b'{"sales":7', b'{"live":tr', b'{"sales":7', b'{"sales":7', b'{"live":tr', b'{"error":"', b'{"sales":7'
    ]  # fmt: skip


def test_a_body_may_come_in_chunks(server: Server) -> None:
    head = b"POST /fleet HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\n"
    assert alike(server, head, b'5\r\n{"siz\r\n', b'6\r\ne": 3}\r\n0\r\n\r\n', pause=0.02).endswith(ANSWER)


def test_a_client_may_ask_whether_to_go_on(server: Server) -> None:
    head, body = post(b'{"size": 3}', b"/fleet", b"expect: 100-continue").split(b"\r\n\r\n")
    found = alike(server, head + b"\r\n\r\n", body, pause=0.1)
    assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


@pytest.mark.parametrize("headers", [[b"connection: close"], [b"Connection: CLOSE"]])
def test_a_client_may_have_the_connection_closed(server: Server, headers: list[bytes]) -> None:
    found = alike(server, post(b'{"size": 3}', b"/fleet", *headers))
    assert b"connection: close\r\n" in found
    assert found.endswith(ANSWER + b"<closed>")


def test_the_old_version_of_http_closes(server: Server) -> None:
    assert alike(server, post(b'{"size": 3}', version=b"1.0")).endswith(ANSWER + b"<closed>")


def test_a_client_may_stop_sending_and_still_be_answered(server: Server) -> None:
    assert ANSWER in alike(server, ONE, end=True)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"{"), 400),
        (post(b'{"size": "3"}'), 422),
        (post(b'{"size": 3}', b"/flet"), 404),
        (post(b'{"size": 3}', b"/fleet?verbose=1"), 200),
        (post(b'{"size": 3}', b"/a/b/c"), 404),
        (b"GET /fleet HTTP/1.1\r\nhost: node\r\n\r\n", 405),
        (b"HEAD /v2/health/ready HTTP/1.1\r\nhost: node\r\n\r\n", 200),
        (b"DELETE /fleet HTTP/1.1\r\nhost: node\r\n\r\n", 405),
        (b"no http at all\r\n\r\n", 400),
        (post(b"").replace(b"content-length: 0", b"content-length: -5"), 400),
        (post(b"").replace(b"content-length: 0", b"content-length: 0\r\ncontent-length: 9"), 400),
        (post(b"x").replace(b"content-length: 1", b"content-length: 1\r\ntransfer-encoding: chunked"), 400),
        (post(b"").replace(b"content-length: 0", b"content-length: 99999999"), 413),
        (post(b"").replace(b"content-length: 0", b"content-length: 1e9"), 400),
        (post(b'{"size": 3}', b"/fleet", b"upgrade: websocket", b"connection: upgrade"), 400),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_refused_is_refused_in_json(server: Server, request_: bytes, status: int) -> None:
    found = alike(server, request_)
    assert found.startswith(b"HTTP/1.1 %d" % status)
    assert b"content-type: application/json\r\n" in found
    body = found.partition(b"\r\n\r\n")[2].removesuffix(b"<closed>")
    if status != 200:
        assert {"error", "code"} <= json.loads(body).keys()


def test_a_body_that_grows_too_large_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr("modelmill.serving.app.MOST_BYTES", 1 << 20)
    head = b"POST /fleet HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"80000\r\n" + b" " * 0x80000 + b"\r\n"
    assert server.talk(head, chunk, chunk, chunk).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("hot", [True, False])
def test_large_bodies_that_do_not_all_fit_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, hot: bool
) -> None:
    monkeypatch.setattr(calls, "MOST_HELD_BYTES", 1 << 20)
    monkeypatch.setattr(calls, "LARGE_BYTES", 1 << 18)
    head = b"POST /fleet HTTP/1.1\r\nhost: node\r\ncontent-length: 700000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.ports[hot])) as first:
        first.sendall(head + b" " * 600_000)
        while server.plane.held < 600_000:
            time.sleep(0.001)
        # Its last byte is too much: what is left unread when a connection is closed may undo the answer before it.
        found = server.talk(head, b" " * ((1 << 20) - 600_000 + 1), hot=hot)
        assert found.startswith(b"HTTP/1.1 503 ")
        assert b"MM544" in found
        assert found.endswith(b"<closed>")
        assert ANSWER in server.talk(ONE, hot=hot)  # what is small is answered all the time
        first.sendall(b" " * 99_989 + b'{"size": 3}')
        answer = b""
        while ANSWER not in answer:
            part = first.recv(1 << 16)
            assert part, answer
            answer += part
    assert server.plane.held == 0


@pytest.mark.parametrize("count", [MOST_HEADERS + 1, 20_000])
def test_too_many_headers_are_refused(server: Server, count: int) -> None:
    flood = b"".join(b"x-%d: y\r\n" % place for place in range(count))
    found = alike(server, b"POST /fleet HTTP/1.1\r\n" + flood[:60_000] + b"\r\n")
    assert found.startswith(b"HTTP/1.1 431")
    assert found.endswith(b"<closed>")


def test_a_header_that_is_too_long_is_refused(server: Server) -> None:
    assert alike(server, post(b"", b"/fleet", b"x: " + b"y" * 70_000)).startswith(b"HTTP/1.1 431")


def test_a_slow_sender_is_sent_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_SLOW_S", 0.2)
    assert server.talk(ONE[:30], pause=0.6) == b"<closed>"


def test_an_idle_connection_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_SLOW_S", 0.1)
    monkeypatch.setattr(http, "_IDLE_S", 0.2)
    assert server.talk(ONE, pause=0.6).endswith(ANSWER + b"<closed>")


@pytest.fixture
def kept(server: Server) -> Iterator[tuple[socket.socket, HttpProtocol]]:
    """Return a connection that was answered once and stays, and the protocol at its other end."""
    running, _ = server._servers[0]
    with socket.create_connection(("127.0.0.1", server.ports[True])) as link:
        link.settimeout(5)
        link.sendall(ONE)
        while ANSWER not in link.recv(1 << 16):
            pass
        (protocol,) = [one for one in running.server_state.connections if one.client == link.getsockname()]
        yield link, protocol
    server.plane.draining = False


def in_loop(server: Server, step: Callable[[], Any]) -> Any:
    """Take a step in the server's loop, between two of its looks at its sockets."""

    async def taken() -> Any:
        return step()

    return asyncio.run_coroutine_threadsafe(taken(), server._servers[0][0].loop).result(5)


def rest_of(link: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    found = b""
    while part := link.recv(1 << 16):
        found += part
    return found


def begin_drain(server: Server, protocol: HttpProtocol) -> None:
    """Do what a worker does when its time to drain is over."""
    server.plane.draining = True
    protocol.shutdown()


def test_a_request_that_nobody_has_read_is_answered_at_the_end(server: Server, kept: Any) -> None:
    """A request arrives over an idle connection in the very moment in which the worker closes those."""
    link, protocol = kept

    def end() -> None:
        link.sendall(ONE)  # it is there, and the loop has not looked since
        begin_drain(server, protocol)

    in_loop(server, end)
    found = rest_of(link)
    assert ANSWER in found
    assert b"connection: close" in found


@pytest.mark.parametrize("there", [1, 40, ONE.index(b"\r\n\r\n") + 4, len(ONE) - 1])
@pytest.mark.parametrize("path", [b"/fleet", b"/flet?"], ids=["hot", "refused"])
def test_a_request_that_is_arriving_is_answered_at_the_end(server: Server, kept: Any, path: bytes, there: int) -> None:
    """Many clients send head and body apart: a part of a request is no idle connection."""
    link, protocol = kept
    asked = ONE.replace(b"/fleet", path)
    link.sendall(asked[:there])
    while not in_loop(server, lambda: protocol._arriving):
        time.sleep(0.001)
    in_loop(server, lambda: begin_drain(server, protocol))
    link.sendall(asked[there:])
    found = rest_of(link)
    assert found.startswith(b"HTTP/1.1 200 " if path == b"/fleet" else b"HTTP/1.1 404 ")
    assert b"connection: close" in found


@pytest.mark.parametrize("timer", ["_look", "timeout_keep_alive_handler"])
def test_a_timer_closes_no_connection_on_which_a_request_has_come(server: Server, kept: Any, timer: str) -> None:
    link, protocol = kept

    def fire() -> None:
        protocol._since = -1e9  # silent for ever
        link.sendall(ONE)
        getattr(protocol, timer)()

    in_loop(server, fire)
    assert ANSWER in link.recv(1 << 16)


@pytest.fixture
def full(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Have more requests wait for the model than may; yield the bodies that are parsed all the same."""
    assert ANSWER in server.talk(ONE)  # the address is known
    (lines,) = server.plane._lines.values()
    parsed: list[bytes] = []
    parser = next(iter(server.plane.applied.models.values())).parser  # type: ignore[union-attr]
    for name in ("read", "read_one"):
        monkeypatch.setattr(parser, name, partial(noted, parsed, getattr(parser, name)))
    lines.few.waiting = MOST_WAITING
    server.plane.turns.until = 0.0
    yield parsed
    lines.few.waiting = 0


def noted(parsed: list[bytes], plain: Callable[..., Any], body: bytes, address: Any) -> Any:
    parsed.append(body)
    return plain(body, address)


def hold_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each request for the model wait for its turn."""
    monkeypatch.setattr(server.plane.turns, "holds", lambda line, moment: True)
    monkeypatch.setattr(server.plane.turns, "until", 0.0)


@pytest.mark.parametrize("known", [True, False])
def test_who_waits_in_vain_is_refused_before_its_body_is_read(
    server: Server, full: list[bytes], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_all(server, monkeypatch)
    one = ONE if known else post(b'{"size": 3}', b"/fleet", b"x-request-timeout-ms: 60000")
    found = alike(server, one, one, pause=0.05)
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"503", b"503"]  # over one connection, which is kept
    assert b"retry-after: " in found
    assert b"MM530" in found
    assert not full


def test_whoever_asks_whether_to_go_on_is_refused_without_sending_its_body(server: Server, full: list[bytes]) -> None:
    head, _ = post(b'{"size": 3}', b"/fleet", b"expect: 100-continue").split(b"\r\n\r\n")
    found = alike(server, head + b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 503 ")
    assert not full


@pytest.mark.parametrize("header", [b"x-request-timeout-ms", b"X-Envoy-Expected-Rq-Timeout-Ms"])
def test_a_caller_that_does_not_wait_for_so_long_is_refused(server: Server, header: bytes, full: list[bytes]) -> None:
    (lines,) = server.plane._lines.values()
    lines.few.pace = Pace()
    for _ in range(20):
        lines.few.pace.add(0.01)
    lines.few.waiting = 3
    assert b"MM541" in alike(server, post(b'{"size": 3}', b"/fleet", header + b": 50"))
    assert not full
    assert ANSWER in server.talk(post(b'{"size": 3}', b"/fleet", header + b": 500"))
    assert ANSWER in server.talk(post(b'{"size": 3}', b"/fleet", header + b": soon"))
    assert full  # which is how one that is read is noticed
    lines.few.pace = Pace()


def test_a_connection_without_a_request_is_closed_at_the_end(server: Server, kept: Any) -> None:
    link, protocol = kept
    in_loop(server, lambda: begin_drain(server, protocol))
    assert rest_of(link) == b""


def test_a_draining_worker_answers_and_closes(server: Server) -> None:
    server.plane.draining = True
    try:
        found = alike(server, ONE)
        ready = alike(server, b"GET /v2/health/ready HTTP/1.1\r\nhost: node\r\n\r\n")
    finally:
        server.plane.draining = False
    assert b"connection: close\r\n" in found
    assert found.endswith(ANSWER + b"<closed>")
    assert ready.startswith(b"HTTP/1.1 503")


def test_a_client_that_does_not_read_holds_nobody_up(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.ports[True])) as deaf:
        deaf.setblocking(False)  # noqa: FBT003 - the name says it
        sent = 0
        try:
            while sent < 64 << 20:
                sent += deaf.send(ONE * 1000)
        except BlockingIOError:
            pass
        assert sent < 64 << 20  # its answers fill the buffers, then nothing more is read from it
        assert ANSWER in server.talk(ONE)
