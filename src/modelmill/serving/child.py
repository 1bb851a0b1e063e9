"""The process that runs the user's code for a node: the archived file, never the working tree.

It opens entries only of a map whose signature it has verified itself, and checks each entry's digest before it is
unpickled. Requests that wait for it are answered together: asked once for thirty rows a library is much faster than asked
thirty times. Nobody waits for others to come, and it is proven first that it makes no difference. Run as
``python -m modelmill.serving.child``; spoken to over one socket in frames of msgpack.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelmill.artifact.saving import PICKLE, unpickle
from modelmill.compute.worker import die_with
from modelmill.errors import AnswerInvalid, BlobBroken, ModelmillError, PlatformError, UserCodeFailed
from modelmill.model.batching import Batching
from modelmill.model.fitted import answer, make_x
from modelmill.model.loading import load_model_file, user_frames
from modelmill.model.request import parser_of
from modelmill.names import Digest, parse_segment
from modelmill.registry.facts import extract_code
from modelmill.registry.fleet import Entry, FleetMap, Home
from modelmill.release.pointers import open_map
from modelmill.serving.frames import ENDS, HEADER, OUT_OF_MEMORY, PROTOCOL, Ask, ChildSetup, Told, numbers_of
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackReader
from modelmill.store.signing import public_key

_READ = 1 << 18
_KEPT = 50_000
"""Opened models; the oldest goes first. A small model is some kilobytes."""
_MOST_TOGETHER = 64
"""Requests that are answered at once."""
_PROOFS = 3
"""How often answers to rows together have to be those to each alone before a model is only asked together."""
_EQUAL = 1e-9
"""How far they may be apart, as a share: sums of another length are added in another order."""


class Child:
    """One code archive of one model, imported, with the models that were opened."""

    def __init__(self, setup: ChildSetup) -> None:
        """Verify the map, unpack the archive, import the file."""
        store = Path(setup.store)
        self._blobs = blobs_of(store)
        self._map: FleetMap = open_map(self._blobs, setup.pointer, public_key(store))
        header = self._map.header
        folder = extract_code(self._blobs, setup.code, Path(setup.cache))
        file, name = header.entry
        self._folder = folder
        self._model = load_model_file(folder / file, folder).models[name]
        self._parser = parser_of(header.spec, header.by, header.feature_names)
        self.batching = header.batching or None
        self._opened: dict[Digest, Any] = {}
        self.has_run_out = False
        """Whether an answer needed more memory than there is."""
        self._proofs: dict[str, int] = {}
        """How often it made no difference that a segment's model was asked together; below 0 where it once did."""
        self._warm(Home(setup.code, setup.lock))

    def _warm(self, home: Home) -> None:
        """Open one entry: what it imports, such as scikit-learn, is then not imported while somebody waits."""
        ours = (e for e in self._map if e.format == PICKLE and self._map.home_of(e) == home)
        with suppress(Exception):  # a request for this entry will tell; the others can be answered
            for entry in islice(ours, 1):
                self._open(entry)

    def answer(self, ask: Ask) -> Told:
        """Answer one request; what the user's code raises is told, not raised."""
        if ask.until and time.perf_counter() > ask.until:
            return Told(is_late=True)
        try:
            return self._answer(ask)
        except MemoryError:
            self.has_run_out = True
            return Told(error=AnswerInvalid("the model needs more memory than its process may have").as_dict())
        except ModelmillError as error:
            return Told(error=error.as_dict())
        except Exception as error:  # noqa: BLE001 - the border to user code
            failed = UserCodeFailed(
                f"the model raised {type(error).__name__}: {error}",
                where="\n".join(user_frames(error, self._folder)),
            )
            return Told(error=failed.as_dict())

    def _answer(self, ask: Ask) -> Told:
        return _told(self._numbers(ask.key, ask.rows))

    def answer_together(self, asks: Sequence[Ask]) -> list[Told]:
        """Answer requests of one kind; a model whose answers to rows depend on the rows beside them is asked one by one."""
        key = asks[0].key
        if self._proofs.get(key, 0) < 0:
            return [self.answer(ask) for ask in asks]
        try:
            numbers = self._numbers(key, [row for ask in asks for row in ask.rows])
        except Exception:  # noqa: BLE001 - whosever row it is: each is told by itself
            return [self.answer(ask) for ask in asks]
        ends = np.cumsum([len(ask.rows) for ask in asks])[:-1]
        found = [_told(some) for some in np.split(numbers, ends)]
        if self.batching is not None or self._proofs.get(key, 0) >= _PROOFS:  # its author says so, or it was proven
            return found
        return self._proven(asks, found)

    def _proven(self, asks: Sequence[Ask], together: list[Told]) -> list[Told]:
        """Answer each alone as well, and note whether that makes a difference; these answers are given."""
        alone = [self.answer(ask) for ask in asks]
        if all(ask.rows == asks[0].rows for ask in asks):  # of equal rows it shows nothing
            return alone
        same = all(one.error is None and _alike(one, other) for one, other in zip(alone, together, strict=True))
        self._proofs[asks[0].key] = self._proofs.get(asks[0].key, 0) + 1 if same else -1
        return alone

    def _numbers(self, key: str, objects: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        segment = parse_segment(key)
        entry = self._map.find(segment)
        if entry is None:
            raise PlatformError(f"the map has no entry for {key}")
        rows = self._parser.rows_again(objects)
        x = make_x(self._model.role("features"), self._model.spec, rows)
        fitted = self._open(entry)
        return answer(fitted, self._model.role("predict"), len(self._model.labels), x, rows, tuple(segment))

    def _open(self, entry: Entry) -> Any:
        fitted = self._opened.get(entry.artifact)
        if fitted is None:
            if entry.format != PICKLE:  # the signed map says what it is, never the bytes themselves
                raise BlobBroken(f"a model in the format `{entry.format}` is none that a process of Python opens")
            pack = PackReader(self._blobs.open(entry.pack))
            fitted = unpickle(pack.entry(entry.offset, entry.length, entry.artifact))
            if len(self._opened) >= _KEPT:
                del self._opened[next(iter(self._opened))]
            self._opened[entry.artifact] = fitted
        return fitted


def main() -> None:
    """Serve the worker on the inherited socket until it goes away."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    link = socket.socket(fileno=int(sys.argv[1]))
    setup = msgspec.msgpack.decode(read_frame(link), type=ChildSetup)
    if setup.is_shadow:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    threading.Thread(target=die_with, args=(setup.parent,), daemon=True).start()
    _limit_memory(setup.memory_mb)
    sys.stdout = sys.stderr  # user code may print; the node's log takes it
    child, failed = _open_child(setup)
    _write_frame(link, msgspec.structs.replace(failed or Told(), protocol=PROTOCOL))
    frames = Frames(link, child.batching if child else None)
    while child is not None and (asks := frames.read()):
        for some in alike(asks):
            if len(some) > 1:
                _write_frame(link, Told(together=len(some)))
            _write_frame(link, *(child.answer_together(some) if len(some) > 1 else [child.answer(some[0])]))
            if child.has_run_out:
                _end_where_full(link, setup.memory_mb)
                child.has_run_out = False


def _limit_memory(megabytes: int) -> None:
    """Let what would go beyond it fail as MemoryError: memory of the process's own, not what it maps of files."""
    if megabytes:
        limit = megabytes << 20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _end_where_full(link: socket.socket, megabytes: int) -> None:
    """End where half of the memory is gone although nothing is being answered: it was lost bit by bit, to a leak.

    Where it is free again, one request alone has asked for too much, and the others need not suffer for it.
    """
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one read
        data = int(file.read().split()[5]) * resource.getpagesize()
    if data > (megabytes << 20) // 2:
        sys.stderr.write(f"the model's process has grown to its limit of {megabytes} MB, and is started again\n")
        sys.stderr.flush()
        _write_frame(link, Told(together=ENDS))
        os._exit(OUT_OF_MEMORY)


class Frames:
    """The requests that have come over a socket."""

    def __init__(self, link: socket.socket, batching: Batching | None = None) -> None:
        """Read a socket; nobody else does from now on. `batching` is what the model declares."""
        self._link, self._held, self._batching = link, bytearray(), batching
        self._decode = msgspec.msgpack.Decoder(Ask).decode
        self._next: Ask | None = None
        """One that has come, and was not taken together with those before it."""

    def read(self) -> list[Ask]:
        """Return the requests that wait, at least one: the next that comes; none where the other side is gone.

        Where batching is declared, others are waited for, and no more rows are taken together than it says: a request of
        more rows is one by itself.
        """
        while (found := self._complete()) is None:
            part = self._link.recv(_READ)
            if not part:
                return []
            self._held += part
        asks = [found]
        self._take_what_waits()
        until = time.monotonic() + (self._batching.wait_s if self._batching else 0.0)
        while (following := self._following(asks, until)) is not None:
            asks.append(following)
        return asks

    def _following(self, asks: Sequence[Ask], until: float) -> Ask | None:
        """Return the next request that is taken together with some, None where there is none in time, or no place for it."""
        room = _MOST_TOGETHER - len(asks)
        if self._batching:
            room = self._batching.rows - sum(len(ask.rows) for ask in asks)
        if room <= 0:
            return None
        while (found := self._complete(room if self._batching else None)) is None:
            left_s = until - time.monotonic()
            if self._next is not None or left_s <= 0 or not select.select([self._link], [], [], left_s)[0]:
                return None
            if not self._take_what_waits():
                return None
        return found

    def _complete(self, room: int | None = None) -> Ask | None:
        """Return the next request where all of it has come; one of more rows than there is room for stays the next."""
        found = self._next or self._decoded()
        self._next = found if found and room is not None and len(found.rows) > room else None
        return None if self._next else found

    def _decoded(self) -> Ask | None:
        if len(self._held) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(self._held)[0]
        if len(self._held) < end:
            return None
        found = self._decode(bytes(self._held[HEADER.size : end]))
        del self._held[:end]
        return found

    def _take_what_waits(self) -> bool:
        """Read what has come, without waiting; return whether it was anything."""
        with suppress(BlockingIOError):
            part = self._link.recv(_READ, socket.MSG_DONTWAIT)
            self._held += part
            return bool(part)
        return False


def alike(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    """Yield requests of one kind that follow one another; answers keep the order in which they were asked for."""
    for kind, some in groupby(asks, key=lambda ask: ask.kind):
        if kind is None:
            yield from ([ask] for ask in some)
        else:
            yield list(some)


def _told(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> Told:
    return Told(numbers.astype("<f8").tobytes(), numbers.shape)


def _alike(one: Told, other: Told) -> bool:
    return one.shape == other.shape and np.allclose(numbers_of(one), numbers_of(other), rtol=_EQUAL, atol=0.0)


def _open_child(setup: ChildSetup) -> tuple[Child | None, Told | None]:
    if setup.protocol != PROTOCOL:  # the node refuses as well: nothing of what it asks would mean what it means here
        return None, Told()
    try:
        return Child(setup), None
    except ModelmillError as error:
        return None, Told(error=error.as_dict())


def read_frame(link: socket.socket) -> bytes:
    """Return the next frame, empty at the end."""
    header = _read_exactly(link, HEADER.size)
    return _read_exactly(link, HEADER.unpack(header)[0]) if header else b""


def _read_exactly(link: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = link.recv(size - len(parts))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def _write_frame(link: socket.socket, *told: Told) -> None:
    contents = map(msgspec.msgpack.encode, told)
    link.sendall(b"".join(HEADER.pack(len(content)) + content for content in contents))


if __name__ == "__main__":
    main()
