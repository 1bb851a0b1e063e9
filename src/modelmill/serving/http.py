"""Uvicorn's HTTP protocol with a hot path: a POST that this process can answer is answered where its last byte is parsed.

An ASGI application costs a scope, a task, two queues and four awaits for each request, three times what a small model
takes. Here the parser's callbacks collect a request in three attributes, and one `transport.write` answers it: at once, or
when the plane has awaited a model that runs in another process. What the hot path does not take - other methods, `Expect`,
upgrades, a client that does not read, a request that comes before the one ahead of it is answered - is replayed into
uvicorn's own callbacks, as if it had gone there from the beginning. Uvicorn goes on to own connections, workers' signals,
TLS and shutdown.

It relies on names of `HttpToolsProtocol` that are not documented; tests/unit/serving/test_http.py holds them down.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, NamedTuple

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from modelmill.errors import BodyUnreadable, ModelmillError
from modelmill.serving.calls import (
    CHANGING,
    JSON,
    MOST_BYTES,
    REQUEST_ID,
    TIMEOUTS,
    Call,
    Headers,
    Pairs,
    Reply,
    timeout_of,
    too_much_held,
    usable_id,
)
from modelmill.serving.plane import Plane
from modelmill.serving.waiting import now

_HEAD = b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
_IDLE_S = 75.0
"""How long a connection may be silent between requests."""
_SLOW_S = 30.0
"""How long a request may take to arrive."""
MOST_HEADERS = 128
_MOST_HEADS = 50_000
_MOST_KEPT_BYTES = 2048
_LENGTH_DIGITS = len(str(MOST_BYTES)) - 1
_TRACING = frozenset(
    {b"traceparent", b"tracestate", b"x-b3-traceid", b"b3", b"x-amzn-trace-id", b"x-cloud-trace-context"}
)
"""Headers that differ from request to request: there is no use in knowing a head that has one."""
_WATCHED = CHANGING | _TRACING | TIMEOUTS | {b"expect", REQUEST_ID}
_MOST_HEADER_BYTES = 64 << 10


class Head(NamedTuple):
    """What the parser made of the bytes before a body: the same bytes mean the same again, and are not parsed again."""

    path: bytes
    is_plain: bool
    keep_alive: bool
    length: int
    """Of the body."""
    waits_s: float
    """How long its caller waits; 0 where it does not say."""
    headers: Pairs
    """What of it says how the body is read."""


Heads = dict[bytes, Head]


class _Owed:
    """An answer that is awaited, in the place of uvicorn's own: until it is complete, what follows stands behind it."""

    __slots__ = ("disconnected", "keep_alive", "response_complete", "task")
    message_event = asyncio.Event()
    """Uvicorn sets it where a client has gone; nobody waits for it, since the request has come as a whole."""

    task: asyncio.Task[None]

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive, self.response_complete, self.disconnected = keep_alive, False, False


class HttpProtocol(HttpToolsProtocol):
    """Speaks HTTP/1.1 on one connection."""

    def __init__(self, plane: Plane, heads: Heads, *, hot: bool, **options: Any) -> None:
        """Take what answers, the heads that all connections know, and whether the hot path is taken; uvicorn gives the rest.

        Clients send the same head again and again: a request whose head is known, and that came as a whole, costs no
        callback of the parser's.
        """
        super().__init__(**options)
        self._plane, self._heads, self._is_hot = plane, heads, hot
        self._taken: list[Head] = []
        """What was answered of the bytes that are being parsed."""
        self._collected: list[bytes] | None = None
        """The body of the request that the hot path has taken; None while it has none."""
        self._size = 0
        self._is_plain = True
        """Whether no header changes what the body means."""
        self._is_too_long = False
        self._held = 0
        """How much of the body that is arriving has come."""
        self._is_unique = False
        """Whether the head is unlike all others."""
        self._request = b""
        """The id that the caller gave its request."""
        self._waits_s = self._until = 0.0
        """How long its caller waits, and until when."""
        self._refused: Reply | None = None
        """What is sent when the body has come, which nobody reads."""
        self._in_headers = False
        self._read = 0
        """How much was read at once."""
        self._since = 0.0
        """When the request that is arriving began, or the last one was answered."""
        self._arriving = False
        self._watch: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- one connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and look at the clock now and then: one timer a connection, not one a request."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch = self.loop.call_later(_SLOW_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and what had come of a body."""
        if self._watch is not None:
            self._watch.cancel()
        self._let_go()
        super().connection_lost(exc)

    def _look(self) -> None:
        """End a connection whose client is silent, or takes too long to send a request."""
        busy = self.cycle is not None and not self.cycle.response_complete and not self._arriving
        allowed = _SLOW_S if self._arriving else _IDLE_S
        left = self._since + allowed - self.loop.time()
        if not busy and left <= 0 and (self._arriving or not _has_unread(self.transport)):
            self.transport.close()
            return
        self._watch = self.loop.call_later(_SLOW_S if busy else max(left, 0.1), self._look)

    # ---------------------------------------------------------------- one request, as the parser calls

    def on_message_begin(self) -> None:
        """Begin a request; the scope that ASGI needs is made only when it gets there."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._collected, self._size = None, 0
        self._is_plain, self._is_too_long, self._is_unique, self._request = True, False, False, b""
        self._waits_s, self._refused = 0.0, None
        self._since, self._arriving, self._in_headers = self.loop.time(), True, True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header."""
        name = name.lower()
        if name in _WATCHED or (name == b"content-length" and len(value) > _LENGTH_DIGITS):
            self._watch_header(name, value)
        self.headers.append((name, value))

    def _watch_header(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"content-length":
            self._is_too_long = value.isdigit() and int(value) > MOST_BYTES
        elif name in CHANGING:
            self._is_plain = False
        elif name in TIMEOUTS:
            self._waits_s = max(self._waits_s, timeout_of(value))
        else:
            self._is_unique = True
            self._request = usable_id(value) if name == REQUEST_ID else self._request

    def on_headers_complete(self) -> None:
        """Take the request, if it is one for the hot path."""
        self._in_headers = False
        if len(self.headers) > MOST_HEADERS or self._size + self._read > _MOST_HEADER_BYTES:
            self._check_headers()
        if self._is_hot and self._may_take():
            self._collected, self._size = [], 0
            self._until = now() + self._waits_s if self._waits_s else 0.0
            self._refused = self._plane.refused(_path_of(self.url), _length_of(self.headers), self._until)
        else:
            self._hand_over()

    def _check_headers(self) -> None:
        """Refuse too many headers; looked at only where there are many, or much was read at once."""
        self._size = sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) > MOST_HEADERS or self._size > _MOST_HEADER_BYTES:
            raise _TooManyHeaders
        self._size = 0

    def _may_take(self) -> bool:
        return (
            self.parser.get_method() == b"POST"
            and not self.expect_100_continue
            and not self._is_too_long
            and not self.parser.should_upgrade()
            # Answers go out in order: while uvicorn owes one, what follows waits behind it in its queue.
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body."""
        self._held += len(body)
        self._plane.held += len(body)
        if too_much_held(self._plane.held, self._held) is not None:
            raise _TooMuchHeld
        if self._collected is None:
            super().on_body(body)
            return
        if self._refused is None:
            self._collected.append(body)
        self._size += len(body)
        if self._size > MOST_BYTES and self._refused is None:
            self._hand_over()

    def on_message_complete(self) -> None:
        """Answer, or let uvicorn do so."""
        self._arriving = False
        self._let_go()
        if self._collected is None:
            super().on_message_complete()
            return
        body = self._collected[0] if len(self._collected) == 1 else b"".join(self._collected)
        path = _path_of(self.url)
        self._collected = None
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        call = Call("POST", path, self.headers, body, request=self._request, until=self._until)
        reply = self._refused or self._plane.now(call, is_plain=self._is_plain)
        if reply is None or reply.status < 400:  # what was refused may have been so for its head
            headers = tuple(pair for pair in self.headers if pair[0] == b"content-type")
            self._taken.append(Head(path, self._is_plain, keep_alive, len(body), self._waits_s, headers))
        self._answer(call, reply, keep_alive=keep_alive)

    def _let_go(self) -> None:
        self._plane.held -= self._held
        self._held = 0

    def _hand_over(self) -> None:
        """Give uvicorn the request as far as it has come."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        collected, self._collected = self._collected, None
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()
        for piece in collected or ():
            super().on_body(piece)

    def _answer(self, call: Call, reply: Reply | None, *, keep_alive: bool) -> None:
        """Send a reply, or await it."""
        if reply is not None:
            self._send(reply.status, reply.headers, reply.body, reply.request, keep_alive=keep_alive)
            return
        self.cycle = owed = _Owed(keep_alive=keep_alive)  # type: ignore[assignment]  # what uvicorn asks of its own
        owed.task = self.loop.create_task(self._answer_later(call, owed))
        self.tasks.add(owed.task)

    async def _answer_later(self, call: Call, owed: _Owed) -> None:
        try:
            reply = await self._plane.respond(call)
        finally:
            owed.response_complete = True
            self.tasks.discard(owed.task)
        if owed.disconnected or self.transport.is_closing():
            return
        self._send(reply.status, reply.headers, reply.body, reply.request, keep_alive=owed.keep_alive)
        self.flow.resume_reading()
        if self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())

    def _send(self, status: int, headers: Pairs, body: bytes, request: bytes, *, keep_alive: bool) -> None:
        start = _start_of(status, headers, self.server_state.default_headers)
        if request:
            start = b"%bx-request-id: %b\r\n" % (start, request)
        if keep_alive and not self._plane.draining:
            self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (start, len(body), body))
        else:
            self.transport.write(b"%bcontent-length: %d\r\nconnection: close\r\n\r\n%b" % (start, len(body), body))
            self.transport.close()
        self.server_state.total_requests += 1
        self._since = self.loop.time()

    # ---------------------------------------------------------------- refusals and the end

    def shutdown(self) -> None:
        """End with the process - unless a request has come, if only in part: its answer ends the connection then.

        A client may send at any moment over a connection that has been idle; closing behind what it sent would fail it.
        """
        if not self._arriving and not _has_unread(self.transport):
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that has been idle for long, as uvicorn does, unless a request has just come."""
        if not _has_unread(self.transport):
            super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; what is no HTTP, or has too many headers, ends the connection."""
        if self._answer_known(data):
            return
        self._read = len(data)
        whole, self._taken = not self._arriving, []
        super().data_received(data)
        if self._in_headers:
            self._size += self._read
            if self._size > _MOST_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("too many headers")
        elif whole and len(self._taken) == 1 and not self._arriving and not self._is_unique:
            self._remember(data, self._taken[0])

    def _answer_known(self, data: bytes) -> bool:
        """Answer one whole request whose head is known; return whether that was one."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(data[:end])
        if head is None or len(data) != end + head.length or self._arriving or self.flow.write_paused:
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        body = data[end:]
        found = self._plane.quick(head.path, body) if head.is_plain else None
        if found is None:
            return self._ask_known(head, body)
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._send(200, JSON, *found, keep_alive=head.keep_alive)
        return True

    def _ask_known(self, head: Head, body: bytes) -> bool:
        """Answer a request whose head is known where the quick way did not; return whether it needs no parser."""
        if not (head.is_plain and self._plane.knows(head.path)):
            return False
        until = now() + head.waits_s if head.waits_s else 0.0
        reply = self._plane.refused(head.path, head.length, until)
        call = Call("POST", head.path, head.headers, body, until=until, is_let_in=True)
        reply = reply or self._plane.now(call, is_plain=True)
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._answer(call, reply, keep_alive=head.keep_alive)
        return True

    def _remember(self, data: bytes, head: Head) -> None:
        """Keep the head of a request that came as a whole and alone: nothing but head and body, so nothing in chunks."""
        end = data.find(b"\r\n\r\n") + 4
        if end <= _MOST_KEPT_BYTES and len(data) == end + head.length:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            self._heads[data[:end]] = head

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, such as an impossible content-length, or more than there is room for, and close."""
        status, error = self._wrong(msg)
        body = msgspec.json.encode(error.as_dict())
        self.transport.write(_HEAD % (STATUS_LINE[status], len(body), body))
        self.transport.close()

    def _wrong(self, msg: str) -> tuple[int, ModelmillError]:
        full = too_much_held(self._plane.held, self._held)
        if full is not None:
            return full.status, full
        if len(self.headers or ()) > MOST_HEADERS or self._size > _MOST_HEADER_BYTES:
            return 431, BodyUnreadable("the request has too many headers", got=msg)
        return 400, BodyUnreadable("this is not a valid HTTP request", got=msg)


def _path_of(url: bytes) -> bytes:
    return url if b"?" not in url else url.partition(b"?")[0]


def _length_of(headers: Headers) -> int:
    return next((int(value) for name, value in headers if name == b"content-length" and value.isdigit()), 0)


def _has_unread(transport: asyncio.Transport) -> bool:
    """Return whether something has come over a connection that nobody has read."""
    try:
        # The transport's own socket does not let us look.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as link:
            return bool(link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:  # nothing is there, or it is no longer a connection
        return False


def _start_of(status: int, headers: Pairs, defaults: list[tuple[bytes, bytes]]) -> bytes:
    """Return an answer's first lines; uvicorn makes a new list of its own headers, such as the date, each second."""
    if headers is JSON and status == 200 and _usual.of is defaults:
        return _usual.start
    lines = [name + b": " + value + b"\r\n" for name, value in (*defaults, *headers)]
    start = b"".join([STATUS_LINE[status], *lines])
    if headers is JSON and status == 200:
        _usual.of, _usual.start = defaults, start
    return start


class _Usual:
    """The first lines of most answers, and the list of headers that they were made of."""

    of: Any = None
    start = b""


_usual = _Usual()


class _TooManyHeaders(Exception):
    """A request has more headers than any client needs; httptools makes its own error of it."""


class _TooMuchHeld(Exception):
    """There is no room for a body that is arriving; httptools makes its own error of it."""
