"""The process that runs the user's code for a node: the archived file, never the working tree.

It opens entries only of a map whose signature it has verified itself, and checks each entry's digest before it is
unpickled. Run as ``python -m modelmill.serving.child``; spoken to over one socket in frames of msgpack.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelmill.artifact.saving import PACKED, unpickle
from modelmill.compute.worker import die_with
from modelmill.errors import ModelmillError, PlatformError, UserCodeFailed
from modelmill.model.fitted import answer, make_x
from modelmill.model.loading import load_model_file, user_frames
from modelmill.model.request import parser_of
from modelmill.names import Digest, parse_segment
from modelmill.registry.facts import extract_code
from modelmill.registry.fleet import Entry, FleetMap
from modelmill.release.pointers import Pointer, open_map
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackReader
from modelmill.store.signing import public_key

HEADER = struct.Struct("<I")
_KEPT = 50_000
"""Opened models; the oldest goes first. A small model is some kilobytes."""


class ChildSetup(msgspec.Struct, frozen=True):
    """What a child is started with."""

    store: str
    cache: str
    pointer: Pointer
    code: Digest
    parent: int
    is_shadow: bool = False
    """Whether nobody waits for its answers."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """One request to a child."""

    key: str
    """The segment of the entry that is asked, as it is written."""
    rows: list[dict[str, Any]]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One answer of a child: numbers with their shape, or an error's class, code, sentence and parts."""

    numbers: bytes = b""
    shape: tuple[int, ...] = ()
    error: dict[str, Any] | None = None


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
        self._opened: dict[Digest, Any] = {}
        self._warm(setup.code)

    def _warm(self, code: Digest) -> None:
        """Open one entry: what it imports, such as scikit-learn, is then not imported while somebody waits."""
        ours = (e for e in self._map if e.format != PACKED and (e.code or self._map.header.code) == code)
        with suppress(Exception):  # a request for this entry will tell; the others can be answered
            for entry in islice(ours, 1):
                self._open(entry)

    def answer(self, ask: Ask) -> Told:
        """Answer one request; what the user's code raises is told, not raised."""
        try:
            return self._answer(ask)
        except ModelmillError as error:
            return Told(error=error.as_dict())
        except Exception as error:  # noqa: BLE001 - the border to user code
            failed = UserCodeFailed(
                f"the model raised {type(error).__name__}: {error}",
                where="\n".join(user_frames(error, self._folder)),
            )
            return Told(error=failed.as_dict())

    def _answer(self, ask: Ask) -> Told:
        segment = parse_segment(ask.key)
        entry = self._map.find(segment)
        if entry is None:
            raise PlatformError(f"the map has no entry for {ask.key}")
        rows = self._parser.parse_rows(ask.rows)
        x = make_x(self._model.role("features"), self._model.spec, rows)
        fitted = self._open(entry)
        numbers = answer(fitted, self._model.role("predict"), len(self._model.labels), x, rows, tuple(segment))
        return Told(numbers.astype("<f8").tobytes(), numbers.shape)

    def _open(self, entry: Entry) -> Any:
        fitted = self._opened.get(entry.artifact)
        if fitted is None:
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
    sys.stdout = sys.stderr  # user code may print; the node's log takes it
    child, failed = _open_child(setup)
    _write_frame(link, failed or Told())
    asks = msgspec.msgpack.Decoder(Ask)
    while child is not None and (frame := read_frame(link)):
        _write_frame(link, child.answer(asks.decode(frame)))


def _open_child(setup: ChildSetup) -> tuple[Child | None, Told | None]:
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


def _write_frame(link: socket.socket, told: Told) -> None:
    content = msgspec.msgpack.encode(told)
    link.sendall(HEADER.pack(len(content)) + content)


def numbers_of(told: Told) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the answers that a child told."""
    return np.frombuffer(told.numbers, dtype="<f8").reshape(told.shape)


if __name__ == "__main__":
    main()
