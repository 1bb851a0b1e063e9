"""Clients of a node: some that ask well all the time, and some that do whatever a client should not."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Self

HALF = b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: 1000\r\n\r\n{"
_PIECE = bytes(1 << 18)
_PAUSE_S = 0.002


class Load:
    """Clients that ask all the time, over connections that they keep and, every other one, over new ones."""

    def __init__(self, port: int, body: bytes, *, clients: int = 4) -> None:
        self.answered = 0
        self.failures: list[tuple[int, object]] = []
        self.answers: Counter[bytes] = Counter()
        """The bodies of the answers."""
        self.clients = clients
        self.body, self._port, self._done = body, port, threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n % 2 == 0,)) for n in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(60)

    def answer_more(self, count: int) -> None:
        """Return once this many more requests were answered: however slow the machine, others are served meanwhile."""
        wanted, deadline = self.answered + count, time.monotonic() + 60
        while self.answered < wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.answered} of {wanted} requests were answered; failed: {self.failures[:5]}")
            time.sleep(0.01)

    def _ask(self, keep: bool) -> None:
        headers = {} if keep else {"connection": "close"}
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as link:
            while not self._done.is_set():
                self._ask_once(link, headers)
                time.sleep(_PAUSE_S)

    def _ask_once(self, link: http.client.HTTPConnection, headers: dict[str, str]) -> None:
        try:
            link.request("POST", "/sales", self.body, headers)
            reply = link.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append((0, repr(error)))
            link.close()
            return
        with self._lock:
            self.answered += reply.status == 200
            self.answers[content] += 1
        if reply.status != 200:
            self.failures.append((reply.status, content[:200]))


# ---------------------------------------------------------------- clients that nobody wants


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def status_of(link: socket.socket) -> int:
    """Return the status that comes, 0 where the connection ends without one."""
    with suppress(OSError):
        start = link.recv(1 << 16)
        return int(start.split(b" ", 2)[1]) if start.startswith(b"HTTP/1.1 ") else 0
    return 0


def pour(port: int, head: bytes, pieces: Iterator[bytes]) -> int:
    """Send a head and pieces until all is sent or the node no longer listens; return the status."""
    with connect(port) as link:
        with suppress(OSError):
            link.sendall(head)
            for piece in pieces:
                link.sendall(piece)
        return status_of(link)


def large_body(port: int, size: int = 1 << 30) -> int:
    """Send a body of a gigabyte, as its head says."""
    head = b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n" % size
    return pour(port, head, (_PIECE for _ in range(size // len(_PIECE))))


def large_chunks(port: int, size: int = 1 << 30) -> int:
    """Send a body of a gigabyte whose head says nothing of it."""
    chunk = b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE)
    head = b"POST /sales HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\n"
    return pour(port, head, (chunk for _ in range(size // len(_PIECE))))


def many_headers(port: int, count: int = 100_000) -> int:
    lines = [b"x-%d: y\r\n" % place for place in range(count)]
    pieces = (b"".join(lines[at : at + 1000]) for at in range(0, count, 1000))
    return pour(port, b"POST /sales HTTP/1.1\r\nhost: node\r\n", pieces)


def many_lines(port: int, size: int = 31 << 20) -> int:
    """Send a table of empty lines."""
    head = (
        b"POST /invocations/sales HTTP/1.1\r\nhost: node\r\ncontent-type: text/csv\r\ncontent-length: %d\r\n\r\n" % size
    )
    return pour(port, head, iter([b"\n" * size]))


def many_objects(port: int, size: int = 31 << 20) -> int:
    """Send a list of ten million objects."""
    body = b"[" + b"{}," * (size // 3) + b"{}]"
    head = b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n" % len(body)
    return pour(port, head, iter([body]))


def half_closed(port: int, body: bytes) -> int:
    """Send a request, say that nothing else will come, and wait for the answer."""
    with connect(port) as link:
        link.sendall(b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        link.shutdown(socket.SHUT_WR)
        return status_of(link)


def half_sent(port: int) -> int:
    """Send half of a request, and say that nothing else will come."""
    with connect(port) as link:
        link.sendall(HALF)
        link.shutdown(socket.SHUT_WR)
        return status_of(link)


def left(port: int) -> int:
    """Send half of a request, and go."""
    with connect(port) as link:
        link.sendall(HALF)
    return 0


class Crowd:
    """Connections that each send a byte of a request now and then, and never a whole one."""

    def __init__(self, port: int, count: int) -> None:
        self.links = [connect(port) for _ in range(count)]
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links:
            link.close()

    def dribble(self) -> None:
        """Send the next byte over each."""
        byte = (b"POST /sales HTTP/1.1\r\nx-slow: " + b"y" * 4096)[self._sent : self._sent + 1]
        self._sent += 1
        for link in self.links:
            with suppress(OSError):
                link.send(byte)


class Hoard:
    """Connections that each send most of a large body, and then wait."""

    def __init__(self, port: int, count: int, size: int = 31 << 20) -> None:
        self.links = [connect(port) for _ in range(count)]
        for link in self.links:
            with suppress(OSError):
                link.sendall(b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n" % (size + 1))
                for _ in range(size // len(_PIECE)):
                    link.sendall(_PIECE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links:
            link.close()


class Deaf:
    """A client that asks and never reads."""

    def __init__(self, port: int, body: bytes) -> None:
        request = b"POST /sales HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        self._link, self.sent = connect(port), 0
        self._link.settimeout(0)
        with suppress(BlockingIOError):
            while self.sent < 64 << 20:
                self.sent += self._link.send(request * 100)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()


Rude = Callable[[int], int]
RUDE: dict[Rude, set[int]] = {
    large_body: {413},
    large_chunks: {413},
    many_lines: {400},
    many_objects: {400},
    many_headers: {431, 0},  # it may still be sending when the node ends the connection: then no answer can reach it
    half_sent: {400, 0},
    left: {0},
}
"""What each may be told."""
