"""Load on a node, from a process of its own: requests leave when they are due, whatever became of those before.

An open loop. The moments at which requests are due are drawn beforehand, and a latency is counted from there: a server that
stalls makes later requests wait, and their waiting counts (G. Tene, "How NOT to Measure Latency", 2015, calls leaving it out
coordinated omission). What the sender itself is late by - behind a due moment for which a connection was free - is told
apart: where that is much, nothing was measured but the sender.

Run as ``python -P -m modelmill.serving.load``: a `LoadOrder` in the first line of its standard input, a `Round` in each
further one; each round is answered by a line with what was `Sent`. Latencies are kept one by one, not in a histogram: a round
is bounded, eight bytes a request are little, and their quantiles are exact.
"""

from __future__ import annotations

import gc
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from typing import Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.errors import LoadInterrupted

CONNECTIONS = 256
"""How many requests can be under way at most; those that are due wait for one of them, and their waiting counts."""
_PATIENCE_S = 60.0
_DRAIN_S = 15.0
_READ = 1 << 16
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LEAD_S = 0.01
"""Between the order of a round and its first moment."""
T = TypeVar("T")


class LoadOrder(msgspec.Struct, frozen=True):
    """Whom to ask, and what."""

    host: str
    port: int
    sides: list[list[bytes]]
    """Whole HTTP requests. Each side is one that answers: the version that is tested, and what it is compared with."""


class Round(msgspec.Struct, frozen=True):
    """Some seconds at one rate."""

    side: int
    rate: float
    """Requests a second."""
    seconds: float
    seed: int
    """Of the moments: the same seed gives the same."""
    connections: int = CONNECTIONS
    patience_s: float = 1.0
    """How late a request that waits for a connection may be before no more are sent; so long the last ones are waited for."""


class Sent(msgspec.Struct, frozen=True):
    """What became of one round."""

    planned: int
    due: int
    """How many of these became due before the round was given up."""
    latencies: bytes
    """Seconds from the due moment to the answer, as float64; for those that were not answered until the wait for them ended."""
    lateness: bytes
    """Seconds by which the sender was behind, one for each request that left, as float64."""
    answered: int
    """In time, rightly or not."""
    failed: int
    """Of which with another status than 200, or with a connection that was lost."""
    kept_up: int
    """Answered in the last three quarters of the round."""
    to_keep_up: int
    """Due in the last three quarters of the round."""
    busy: float
    """The share of one core that the sender used."""
    said: str = ""
    """The beginning of the first answer that was an error."""


# ------------------------------------------------------------------ the process that sends


def moments(planned: Round) -> NDArray[np.float64]:
    """Return when each request of a round is due, in seconds from its beginning: arrivals of people who do not know each other.

    A Poisson process of which the number of arrivals is given: as many moments, uniform and in order.
    """
    count = max(1, round(planned.rate * planned.seconds))
    found: NDArray[np.float64] = np.sort(np.random.default_rng(planned.seed).uniform(0, planned.seconds, count))
    return found


class _Link:
    """One connection, and the request that is under way on it."""

    __slots__ = ("due", "free_at", "received", "socket")

    def __init__(self, found: socket.socket) -> None:
        self.socket = found
        self.received = b""
        self.due = -1.0
        self.free_at = 0.0


class _Sender:
    """Sends rounds over connections that are kept."""

    def __init__(self, order: LoadOrder) -> None:
        self._order = order
        self._poll = select.epoll()
        self._links: dict[int, _Link] = {}
        self._places = [0] * len(order.sides)
        """How far each side has come in its requests: it asks them in turn."""

    def play(self, planned: Round) -> Sent:
        """Send one round and return what became of it, once all that was sent is answered or given up."""
        self._connect(planned.connections)
        playing = _Playing(self, planned)
        busy, began = time.process_time(), time.perf_counter()
        playing.run()
        share = (time.process_time() - busy) / (time.perf_counter() - began)
        sent = playing.told(share)
        self._drain()
        return sent

    def _connect(self, count: int) -> None:
        while len(self._links) < count:
            found = socket.create_connection((self._order.host, self._order.port), timeout=_PATIENCE_S)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.settimeout(0)
            self._links[found.fileno()] = _Link(found)
            self._poll.register(found.fileno(), select.EPOLLIN)

    def drop(self, link: _Link) -> None:
        """Close a connection; the next round opens another."""
        self._poll.unregister(link.socket.fileno())
        del self._links[link.socket.fileno()]
        link.socket.close()

    def _drain(self) -> None:
        """Wait for the answers that nobody counts any more: the next round begins with a node that owes none."""
        until = time.perf_counter() + _DRAIN_S
        while (owed := [link for link in self._links.values() if link.due >= 0]) and time.perf_counter() < until:
            for link in self.wait(0.1):
                self.take(link)
        for link in owed:
            self.drop(link)

    def wait(self, seconds: float) -> list[_Link]:
        """Return the connections on which something has come, after so many seconds at most."""
        # An epoll's own time-out is in milliseconds, that of select in microseconds; an epoll can be waited for as any file.
        select.select([self._poll], [], [], max(seconds, 0.0))
        return [self._links[fileno] for fileno, _ in self._poll.poll(0) if fileno in self._links]

    def send(self, link: _Link, side: int) -> None:
        """Send the next request of a side."""
        requests = self._order.sides[side]
        request = requests[self._places[side] % len(requests)]
        self._places[side] += 1
        sent = 0
        with suppress(BlockingIOError, ConnectionError):  # a connection that is lost is told of when it is read
            sent = link.socket.send(request)
        if 0 < sent < len(request):
            link.socket.settimeout(_PATIENCE_S)
            link.socket.sendall(request[sent:])
            link.socket.settimeout(0)

    def take(self, link: _Link) -> bytes | None:
        """Read what has come; return the answer once it is whole, an empty one for a connection that was lost."""
        try:
            data = link.socket.recv(_READ)
        except BlockingIOError:
            return None
        except ConnectionError:
            data = b""
        if not data:
            self.drop(link)
            return b""
        link.received += data
        end = link.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = _LENGTH.search(link.received, 0, end)
        if len(link.received) < end + 4 + (int(length[1]) if length else 0):
            return None
        answer, link.received, link.due = link.received, b"", -1.0
        if b"\r\nconnection: close" in answer[: end + 4].lower():
            self.drop(link)
        return answer

    def free(self, count: int) -> deque[_Link]:
        """Return connections on which nothing is under way, as free from the beginning of a round on."""
        found = list(self._links.values())[:count]
        for link in found:
            link.free_at = 0.0
        return deque(found)


class _Playing:
    """One round that is being sent."""

    def __init__(self, sender: _Sender, planned: Round) -> None:
        self.sender, self.planned = sender, planned
        self.due: list[float] = moments(planned).tolist()
        self.free = sender.free(planned.connections)
        self.begin = time.perf_counter() + _LEAD_S
        self.next = 0
        self.owed: set[_Link] = set()
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.statuses: Counter[bytes] = Counter()
        self.kept_up = 0
        self.said = b""
        self.ended = 0.0
        self.is_given_up = False

    def run(self) -> None:
        """Send what is due and take what comes, until all is answered or nobody waits any longer."""
        last = self.planned.seconds + self.planned.patience_s
        while self.next < len(self.due) or self.owed:
            now = self._send_due()
            if now > last or (self.is_given_up and not self.owed) or not (self.free or self.owed):
                break
            for link in self.sender.wait(self._pause(now, last)):
                self._take(link)
        self.ended = time.perf_counter() - self.begin

    def _send_due(self) -> float:
        """Send all that is due and has a connection; return the time."""
        now = time.perf_counter() - self.begin
        while self.next < len(self.due) and self.due[self.next] <= now and not self.is_given_up:
            if not self.free:
                self.is_given_up = now - self.due[self.next] > self.planned.patience_s
                break
            link, due = self.free.popleft(), self.due[self.next]
            link.due = due
            self.owed.add(link)
            self.sender.send(link, self.planned.side)
            self.lateness.append(now - max(due, link.free_at))
            self.next += 1
            now = time.perf_counter() - self.begin
        return now

    def _pause(self, now: float, last: float) -> float:
        waits_for_moment = self.next < len(self.due) and self.free and not self.is_given_up
        return (self.due[self.next] if waits_for_moment else last) - now

    def _take(self, link: _Link) -> None:
        due = link.due
        answer = self.sender.take(link)
        if answer is None or link not in self.owed:
            return
        now = time.perf_counter() - self.begin
        self.owed.discard(link)
        self.latencies.append(now - due)
        status = answer[9:12]
        self.statuses[status] += 1
        if status != b"200" and not self.said:
            self.said = answer.partition(b"\r\n\r\n")[2][:300] or b"the connection was lost"
        self.kept_up += self.planned.seconds / 4 <= now <= self.planned.seconds
        if link.socket.fileno() >= 0:
            link.free_at = now
            self.free.append(link)

    def told(self, busy: float) -> Sent:
        """Return what became of the round."""
        over = min(self.ended, self.planned.seconds)
        due = [moment for moment in self.due if moment <= over]
        waiting = [link.due for link in self.owed] + due[self.next :]
        latencies = [*self.latencies, *(self.ended - moment for moment in waiting)]
        return Sent(
            planned=len(self.due),
            due=len(due),
            latencies=np.array(latencies, dtype=np.float64).tobytes(),
            lateness=np.array(self.lateness, dtype=np.float64).tobytes(),
            answered=len(self.latencies),
            failed=len(self.latencies) - self.statuses[b"200"],
            kept_up=self.kept_up,
            to_keep_up=sum(self.planned.seconds / 4 <= moment for moment in due),
            busy=busy,
            said=self.said.decode(errors="replace"),
        )


def main() -> None:
    """Send what standard input orders, round by round, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    gc.disable()
    sender = _Sender(msgspec.json.decode(sys.stdin.buffer.readline(), type=LoadOrder))
    while line := sys.stdin.buffer.readline():
        sent = sender.play(msgspec.json.decode(line, type=Round))
        sys.stdout.buffer.write(msgspec.json.encode(sent) + b"\n")
        sys.stdout.buffer.flush()
        gc.collect()


# ------------------------------------------------------------------ the process that orders


class Load:
    """A process that sends, as a context: it ends with the block, be that by Ctrl-C."""

    def __init__(self, order: LoadOrder) -> None:
        """Start the process."""
        command = [sys.executable, "-P", "-m", "modelmill.serving.load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603 - our own module
        self._say(order)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, planned: Round) -> Sent:
        """Have one round sent; raises `LoadInterrupted` when that cannot be."""
        self._say(planned)
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            raise self._interrupted()
        return msgspec.json.decode(line, type=Sent)

    def _say(self, what: LoadOrder | Round) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._process.stdin.write(msgspec.json.encode(what) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._interrupted() from error

    def _interrupted(self) -> LoadInterrupted:
        assert self._process.stderr is not None  # noqa: S101 - a pipe was asked for
        told = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return LoadInterrupted(
            "the process that sends the load has ended", got=told[-1] if told else "", next="modelmill status"
        )


if __name__ == "__main__":
    main()
