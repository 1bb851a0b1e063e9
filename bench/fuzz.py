"""Coverage-guided fuzzing of everything that reads a request: ``python bench/fuzz.py --seconds 600 --seed 1``.

The fuzzer (atheris, over LLVM's libFuzzer) makes bodies from a corpus of valid requests, and keeps those that reach new
lines. Each body is asked at one of eight addresses, some with a header that says where JSON ends and bytes begin. Two
things must hold: no answer is a 5xx, and the quick way gives the bytes of the general way. Whatever breaks that is written
to ``bench/out/fuzz`` and ends the run with a traceback.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["modelmill.model", "modelmill.serving"]):
    from modelmill.serving import calls, invocations, plane, protocol, quick  # noqa: F401 - instrumented

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "serving"))

import numpy as np
from conftest import serve  # type: ignore[import-not-found]

import modelmill as mm
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.warming import warm
from modelmill.model.schema import schema_of

OUT = Path(__file__).parent / "out" / "fuzz"
TARGETS = (
    b"/fleet",
    b"/fleet%5Bnorth,1%5D",
    b"/v2/models/fleet/infer",
    b"/v2/models/fleet%5Bnorth,1%5D/infer",
    b"/invocations/fleet",
    b"/models/fleet/invocations",
    b"/v2/models/plain/infer",
    b"/plain",
)
HEADER = b"inference-header-content-length"


class Sale(mm.Schema):
    """Every kind of column."""

    store: str = mm.key()
    number: int = mm.key()
    at: datetime = mm.time()
    day: date = mm.col(nullable=True)
    size: float = mm.col(ge=-1e3, lt=1e6)
    rooms: int = mm.col(nullable=True)
    sold: bool = mm.col()
    kind: str = mm.category("car", "tram")
    person: str = mm.subject()
    sales: float = mm.target()


class Plain(mm.Schema):
    """Two numbers."""

    a: float = mm.col()
    b: float = mm.col()
    y: float = mm.target()


ROW = {"store": "north", "number": 1, "at": "2026-01-01T09:00", "day": "2026-01-01", "size": 1.5, "rooms": 2}
ROW |= {"sold": True, "kind": "car", "person": "ann"}


class Planes:
    """Two models: one with every kind of column, one that takes a matrix."""

    def __init__(self, folder: Path) -> None:
        warm()
        fleet = {(): _packed(5), ("north", "1"): _packed(5)}
        self._of = {
            b"fleet": serve(folder / "fleet", schema_of(Sale), fleet),
            b"plain": serve(folder / "plain", schema_of(Plain), {(): _packed(2)}),
        }
        for served in self._of.values():
            served._log = type(served._log)(served._log._plan.__class__(), [0, 0, 0])  # noqa: SLF001 - nothing is kept
        self._of[b"plain"].applied.models["plain"] = self._of[b"plain"].applied.models["fleet"]

    def ask(self, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[Any, Any]:
        """Return the replies of the general way, and of the hot one."""
        served = self._of[b"plain" if b"plain" in path else b"fleet"]
        call = calls.Call("POST", path, headers, body, request=b"id")
        return _now(served.respond(call)), served.now(call, is_plain=not headers)


def _packed(features: int) -> Packed:
    return Packed(Linear(np.arange(1.0, features + 1).reshape(1, -1), np.ones(1)), features)


def _now(coroutine: Any) -> Any:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a packed model's answer waited for something")


def one_input(planes: Planes, data: bytes) -> None:
    """Ask one thing; the first two bytes choose where, and where the JSON ends."""
    if len(data) < 2:
        return
    path, cut, body = TARGETS[data[0] % len(TARGETS)], data[1], data[2:]
    headers = _headers(path, min(4 * cut, len(body)))
    general, hot = planes.ask(path, headers, body)
    if general.status >= 500:
        raise AssertionError(f"{general.status} at {path!r}: {general.body!r}")
    json.loads(general.body if not general.headers[1:] else b"{}")
    if hot is not None and (hot.status, hot.body) != (general.status, general.body):
        raise AssertionError(f"{path!r}: {hot} and {general}")


def seeds() -> list[bytes]:
    """Return valid requests, as inputs of `one_input`."""
    columns = {name: [value] for name, value in ROW.items()}
    types = {"number": "INT64", "size": "FP64", "rooms": "INT32", "sold": "BOOL"}
    named = [{"name": n, "shape": [1], "datatype": types.get(n, "BYTES"), "data": v} for n, v in columns.items()]
    matrix = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.5, 2]}]}
    sized = {"name": "x", "shape": [1, 2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [sized], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    head += b" " * (-len(head) % 4)
    frames = [{"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}}]
    frames += [{"dataframe_records": [ROW]}, {"instances": [ROW]}, {"inputs": columns}]
    plain = [(0, ROW), (0, [ROW, ROW]), (1, {k: v for k, v in ROW.items() if k not in ("store", "number")})]
    plain += [(2, {"inputs": named, "id": "7"}), (3, {"inputs": named[2:]}), (6, matrix), (7, {"a": 1, "b": 2.5})]
    plain += [(4, frame) for frame in frames] + [(5, frame) for frame in frames]
    asked = [bytes([where, 0]) + json.dumps(body).encode() for where, body in plain]
    asked.append(bytes([4, 1]) + ",".join(ROW).encode() + b"\n" + ",".join(map(str, ROW.values())).encode())
    return [*asked, bytes([6, len(head) // 4]) + head + struct.pack("<2d", 1.5, 2.0)]


def main() -> None:
    """Fuzz for a while, or until something breaks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT, help="where the corpus is, and what breaks is written")
    options = parser.parse_args()
    corpus = options.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        planes = Planes(Path(folder))
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number:02d}").write_bytes(seed)
            _, hot = planes.ask(*_parts(seed))
            if hot.status != 200:
                raise SystemExit(f"seed {number} is no valid request: {hot.body!r}")
        arguments = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-max_len=4096", "-timeout=10"]
        arguments += ["-print_final_stats=1", f"-artifact_prefix={options.out}/", str(corpus)]
        atheris.Setup([sys.argv[0], *arguments], lambda data: one_input(planes, data))
        atheris.Fuzz()


def _parts(seed: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    return TARGETS[seed[0]], _headers(TARGETS[seed[0]], 4 * seed[1]), seed[2:]


def _headers(path: bytes, cut: int) -> list[tuple[bytes, bytes]]:
    """Return what says how the body is to be read: where its JSON ends, or that it is CSV."""
    if not cut:
        return []
    return [(HEADER, b"%d" % cut)] if b"infer" in path else [(b"content-type", b"text/csv")]


if __name__ == "__main__":
    main()
