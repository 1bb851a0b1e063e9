"""A rehearsal: a fresh process opens a release as a node does, verifies every byte of it, and answers golden rows.

Run as ``python -P -m modelmill.serving.rehearsal`` with an order on its standard input; what came of it is its output. It
reads what a node reads - the signed map, its packs, the archived code - and neither the database nor the user's folder.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.agreeing import apart
from modelmill.errors import ModelmillError, NodeNotReady
from modelmill.names import Parent, Segment, parse_segment
from modelmill.release.pointers import Pointer, check_packs
from modelmill.serving.served import ServedModel, open_model
from modelmill.store.blobs import blobs_of

TOLERANCE = 1e-9
"""How far `apart` an answer may be from the one at the build: what is further apart is another answer."""
_PATIENCE_S = 120.0
_SHOWN = 5


class Question(msgspec.Struct, frozen=True):
    """Some rows of one segment, of a parent or of all, with the answers that its model gave when it was built."""

    segment: str
    """As it is written."""
    rows: list[dict[str, Any]]
    answers: list[Any]
    """A number a row, or a probability a class."""


class RehearsalOrder(msgspec.Struct, frozen=True):
    """What is to be opened, and what it is asked."""

    store: str
    pointer: Pointer
    questions: list[Question]


class Rehearsed(msgspec.Struct, frozen=True):
    """What came of a rehearsal."""

    asked: int = 0
    """Segments."""
    identical: int = 0
    """Of which all answers are those of the build, to the bit."""
    largest: float = 0.0
    """The largest relative difference."""
    wrong: tuple[str, ...] = ()
    """The first segments that answered otherwise, or not at all, with what they did."""
    failed: int = 0
    """How many these are."""
    error: str = ""
    """Why it could not be opened at all."""

    @property
    def ok(self) -> bool:
        """Whether the release may answer."""
        return not self.error and not self.failed


def rehearse(order: RehearsalOrder) -> Rehearsed:
    """Rehearse in a fresh process; raises `NodeNotReady` when it ends without an answer."""
    command = [sys.executable, "-P", "-m", "modelmill.serving.rehearsal"]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, input=msgspec.msgpack.encode(order), capture_output=True, timeout=_PATIENCE_S, check=False
        )
        return msgspec.msgpack.decode(done.stdout, type=Rehearsed)
    except subprocess.TimeoutExpired as error:
        raise NodeNotReady(f"the rehearsal has not ended after {_PATIENCE_S:g} s", safe="nothing was moved") from error
    except msgspec.MsgspecError as error:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise NodeNotReady(
            f"the rehearsal's process ended with {done.returncode} and no answer",
            got=told[-1] if told else "",
            safe="nothing was moved",
        ) from error


async def answer(order: RehearsalOrder) -> Rehearsed:
    """Open the release, verify every pack of it, and ask it all questions."""
    store = Path(order.store)
    blobs = blobs_of(store)
    model = await open_model(store, blobs, order.pointer)
    try:
        check_packs(blobs, model.map.packs)
        return _summed([await _asked(model, question) for question in order.questions], order.questions)
    finally:
        await model.close()


async def _asked(model: ServedModel, question: Question) -> float | str:
    """Return the largest relative difference of the answers to one segment's rows, or why there are none."""
    segment = parse_segment(question.segment)
    entry = model.map.find(segment)
    if entry is None:
        return "it is not in the map"
    try:
        batch = model.parser.batch([_request(model, segment, row) for row in question.rows])
        numbers = await model.answer_by(entry, batch)
    except ModelmillError as error:
        return error.what
    return _distance(numbers, np.asarray(question.answers, dtype=np.float64))


def _request(model: ServedModel, segment: Segment, row: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: row[name] for name in model.parser.columns if name in row}
    if isinstance(segment, Parent) or not segment:
        return known  # rows of many segments: each brings its own keys
    item: dict[str, Any] = model.parser.with_segment(segment, known)
    return item


def _distance(found: NDArray[np.float64], before: NDArray[np.float64]) -> float:
    if found.shape != before.shape:
        return float("inf")
    return float(apart(found, before).max(initial=0.0))


def _summed(results: Sequence[float | str], questions: Sequence[Question]) -> Rehearsed:
    distances = [result for result in results if isinstance(result, float)]
    wrong = [
        f"{question.segment}: {result if isinstance(result, str) else f'{result:.2g} apart'}"
        for question, result in zip(questions, results, strict=True)
        if isinstance(result, str) or not result <= TOLERANCE
    ]
    return Rehearsed(
        asked=len(results),
        identical=distances.count(0.0),
        largest=max(distances, default=0.0),
        wrong=tuple(wrong[:_SHOWN]),
        failed=len(wrong),
    )


def main() -> None:
    """Answer the order on standard input."""
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=RehearsalOrder)
    try:
        found = asyncio.run(answer(order))
    except ModelmillError as error:
        found = Rehearsed(error=f"{error.code} {error.what}")
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))


if __name__ == "__main__":
    main()
