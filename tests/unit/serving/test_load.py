"""The process that sends load, against real sockets: latencies from the due moment, lateness of its own, nothing left owed."""

from __future__ import annotations

import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from modelmill.errors import LoadInterrupted
from modelmill.serving.load import Load, LoadOrder, Round, Sent, moments

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BAD = b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nwrong"
CLOSING = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
REQUEST = b"POST /m HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def server(answer: Callable[[int], bytes], seen: list[bytes] | None = None) -> Iterator[int]:
    """Serve on threads; `answer` gets the number of each request, and returns the bytes of its answer: none to hang up."""
    numbers = iter(range(1, 1_000_000))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(1000):
                if seen is not None:
                    seen.append(re.findall(rb"POST (\S+)", data)[0])
                told = answer(next(numbers))
                if not told:
                    return
                self.request.sendall(told)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 100

        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that has gone."""

    with Server(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield serving.server_address[1]
        finally:
            serving.shutdown()
            thread.join()


def at_once(_: int) -> bytes:
    return OK


def after(seconds: float, told: bytes = OK) -> bytes:
    time.sleep(seconds)
    return told


def sent(port: int, *rounds: Round) -> list[Sent]:
    with Load(LoadOrder("127.0.0.1", port, [[REQUEST]])) as load:
        return [load.send(planned) for planned in rounds]


def seconds_of(sent: Sent) -> list[float]:
    found: list[float] = np.frombuffer(sent.latencies).tolist()
    return found


def test_moments_are_drawn_once_and_are_as_many_as_the_rate_says() -> None:
    planned = Round(0, 200, 2.0, seed=3)
    first, again, other = moments(planned), moments(planned), moments(Round(0, 200, 2.0, seed=4))
    assert len(first) == 400
    assert (first == again).all()
    assert (np.diff(first) >= 0).all()
    assert 0 <= first[0] <= first[-1] <= 2
    assert not (first == other).all()
    assert len(moments(Round(0, 1, 0.1, seed=0))) == 1


def test_all_that_is_due_is_sent_and_answered() -> None:
    with server(at_once) as port:
        (found,) = sent(port, Round(0, 100, 0.5, seed=1, connections=8, patience_s=20))
    assert (found.planned, found.due, found.answered, found.failed) == (50, 50, 50, 0)
    assert len(np.frombuffer(found.lateness)) == 50
    assert min(seconds_of(found)) > 0


def test_a_stall_counts_for_all_that_was_due_meanwhile() -> None:
    with server(lambda number: after(0.5 if number == 1 else 0)) as port:
        (found,) = sent(port, Round(0, 100, 0.5, seed=1, connections=1, patience_s=20))
    # Whoever counts from the moment of sending over this one connection finds one slow request, and 49 fast ones.
    assert sum(seconds > 0.1 for seconds in seconds_of(found)) >= 30
    assert found.answered == 50


def test_waiting_for_a_slow_server_is_not_the_senders_lateness() -> None:
    with server(lambda _: after(0.05)) as port:
        (found,) = sent(port, Round(0, 40, 0.5, seed=1, connections=1, patience_s=20))
    assert max(seconds_of(found)) > 0.3  # 20 requests of 0.05 s one after the other
    assert np.median(np.frombuffer(found.lateness)) < np.median(seconds_of(found)) / 2


def test_lateness_is_counted_anew_in_each_round() -> None:
    with server(at_once) as port:
        rounds = [Round(0, 40, seconds, seed=1, connections=1, patience_s=20) for seconds in (1.0, 0.5)]
        first, second = sent(port, *rounds)
    assert min(np.frombuffer(first.lateness)) >= 0
    assert min(np.frombuffer(second.lateness)) >= 0  # its connection became free late in the first round


def test_a_round_is_given_up_when_too_much_waits() -> None:
    with server(lambda _: after(0.3)) as port:
        first, second = sent(
            port,
            Round(0, 50, 5.0, seed=1, connections=2, patience_s=0.5),
            Round(0, 2, 0.5, seed=2, connections=2, patience_s=20),
        )
    assert first.answered < first.due < first.planned == 250
    assert len(seconds_of(first)) == first.due
    assert (second.answered, second.due, len(seconds_of(second))) == (1, 1, 1)


def test_errors_are_counted_and_the_first_is_told() -> None:
    with server(lambda number: BAD if number % 2 else OK) as port:
        (found,) = sent(port, Round(0, 40, 0.5, seed=1, connections=1, patience_s=20))
    assert (found.answered, found.failed, found.said) == (20, 10, "wrong")


@pytest.mark.parametrize(("told", "failed"), [(b"", 1), (CLOSING, 0)])
def test_a_connection_that_is_lost_is_opened_again(told: bytes, failed: int) -> None:
    with server(lambda number: told if number == 1 else OK) as port:
        first, second = sent(
            port,
            Round(0, 40, 0.5, seed=1, connections=4, patience_s=20),
            Round(0, 40, 0.5, seed=1, connections=4, patience_s=20),
        )
    assert (first.answered, first.failed) == (20, failed)
    assert (second.answered, second.failed) == (20, 0)


def test_sides_are_asked_their_own_requests_in_turn() -> None:
    seen: list[bytes] = []
    sides = [[b"POST /a\r\n\r\n", b"POST /b\r\n\r\n"], [b"POST /c\r\n\r\n"]]
    with server(at_once, seen) as port, Load(LoadOrder("127.0.0.1", port, sides)) as load:
        for side in (0, 1):
            load.send(Round(side, 8, 0.5, seed=1, connections=1, patience_s=20))
    assert seen == [b"/a", b"/b", b"/a", b"/b", b"/c", b"/c", b"/c", b"/c"]


def test_a_node_that_is_gone_interrupts() -> None:
    with server(at_once) as port:
        pass
    with Load(LoadOrder("127.0.0.1", port, [[REQUEST]])) as load, pytest.raises(LoadInterrupted, match="has ended"):
        load.send(Round(0, 10, 0.5, seed=1))


def test_the_process_ends_with_its_block() -> None:
    with server(at_once) as port, Load(LoadOrder("127.0.0.1", port, [[REQUEST]])) as load:
        process = load._process
    assert process.returncode is not None
