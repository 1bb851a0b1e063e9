"""Requests that a model declares to be answered together: how many, how long they wait, and that none is cut."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from modelmill.model.batching import Batching
from modelmill.registry.fleet import Entry
from modelmill.serving.child import Frames
from modelmill.serving.frames import HEADER, Ask
from modelmill.serving.python import PythonRuntime

from .test_python import FILE, Released, row

DECLARED = FILE.replace("@m.predict\n", '@m.predict(batch=30, wait="1s")\n')


def frame(rows: int) -> bytes:
    content = msgspec.msgpack.encode(Ask("[A]", [{"store": "A", "hour": 1.0}] * rows))
    return HEADER.pack(len(content)) + content


def lengths(frames: Frames) -> list[int]:
    return [len(ask.rows) for ask in frames.read()]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_nobody_waits_where_nothing_is_declared(pair: tuple[socket.socket, socket.socket]) -> None:
    frames = Frames(pair[1])
    pair[0].sendall(frame(3) + frame(50) + frame(1))
    assert lengths(frames) == [3, 50, 1]
    pair[0].sendall(frame(1))
    assert lengths(frames) == [1]
    pair[0].close()
    assert lengths(frames) == []


def test_no_more_rows_than_declared_and_no_request_is_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    frames = Frames(pair[1], Batching(4))
    pair[0].sendall(b"".join(map(frame, [1, 2, 3, 9, 1, 4])))
    assert [lengths(frames) for _ in range(5)] == [[1, 2], [3], [9], [1], [4]]
    pair[0].close()
    assert lengths(frames) == []


def test_the_first_waits_for_those_that_fill_it(pair: tuple[socket.socket, socket.socket]) -> None:
    frames = Frames(pair[1], Batching(4, wait_s=60.0))
    pair[0].sendall(frame(1) + frame(1)[:5])
    later = threading.Timer(0.2, lambda: pair[0].sendall(frame(1)[5:] + frame(2) + frame(1)))
    later.start()
    assert lengths(frames) == [1, 1, 2]  # and not one, although more has come
    later.join()
    pair[0].close()
    assert lengths(frames) == [1]


def test_a_wait_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    frames = Frames(pair[1], Batching(4, wait_s=0.01))
    pair[0].sendall(frame(1))
    assert lengths(frames) == [1]


def test_a_declared_batch_is_asked_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a real child: requests that come one after the other are one call, and no proof asks them twice."""
    called = tmp_path / "called"
    monkeypatch.setenv("CALLED", str(called))

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        asked = [asyncio.create_task(runtime.answer(entries["A"], row(hour))) for hour in range(20, 50)]
        found = [float(numbers[0]) for numbers in await asyncio.gather(*asked)]
        assert found == [10.0 * hour for hour in range(20, 50)]

    folder = tmp_path / "declared"
    folder.mkdir()
    Released(folder, DECLARED).ask(test)
    assert called.read_text().split() == ["30"]
    assert os.environ["CALLED"]
