"""What a worker serves now: the published pointer of its environment, opened. Replaced as a whole, never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import AnswerInvalid, BlobBroken, ModelmillError, ModelUnknown, did_you_mean
from modelmill.model.artifact import LINEAR
from modelmill.model.request import parser_of, segments_of
from modelmill.names import POOLED, Digest, ModelName, Segment, format_segment
from modelmill.registry.fleet import Entry, FleetMap
from modelmill.release.pointers import Pointer, Published, open_map
from modelmill.serving.linear import LinearRuntime
from modelmill.serving.python import PythonRuntime
from modelmill.serving.runtime import Row, Runtime
from modelmill.store.blobs import FolderBlobs, blobs_of
from modelmill.store.signing import public_key

UNKNOWN = "no model was built for this segment"
FAILED = "its own model gave no usable answer"
_DRAIN_S = 60.0


class Answer(NamedTuple):
    """One row's answer: a number, or a probability a class."""

    numbers: NDArray[np.float64]
    segment: Segment
    entry: Entry
    """What answered."""
    why: str
    """Why that was the pooled model; empty where it was the segment's own."""


class ServedModel:
    """One model of a release."""

    def __init__(self, store: Path, blobs: FolderBlobs, pointer: Pointer) -> None:
        """Open and verify the map; runtimes start with `start`."""
        self.pointer = pointer
        self.map: FleetMap = open_map(blobs, pointer, public_key(store))
        self.header = self.map.header
        self.parser = parser_of(self.header.spec, self.header.by, self.header.feature_names)
        self.pooled = self.map.find(POOLED)
        self._linear = LinearRuntime(blobs, self.header.spec, self.parser)
        codes = self.map.codes(without=LINEAR)
        self._python: dict[Digest, PythonRuntime] = {code: PythonRuntime(store, pointer, code) for code in codes}
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Start what answers."""
        await asyncio.gather(*(runtime.start() for runtime in self._python.values()))

    async def close(self) -> None:
        """End what answered, once it has answered what it was asked."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _DRAIN_S)
        await asyncio.gather(*(runtime.close() for runtime in self._python.values()), return_exceptions=True)

    async def answer(self, objects: Sequence[Row]) -> list[Answer]:
        """Answer rows, each by its own segment's model; the pooled one answers where there is none that can."""
        self._answering += 1
        self._idle.clear()
        try:
            return await self._answer(objects)
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def _answer(self, objects: Sequence[Row]) -> list[Answer]:
        rows = self.parser.parse_rows(objects)
        by_segment: dict[Segment, list[int]] = {}
        for place, segment in enumerate(segments_of(rows, self.header.by)):
            by_segment.setdefault(segment, []).append(place)
        answers: list[Answer | None] = [None] * len(objects)
        for segment, places in by_segment.items():
            found = await self._answer_segment(segment, [objects[place] for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return [answer for answer in answers if answer is not None]

    async def _answer_segment(self, segment: Segment, rows: Sequence[Row]) -> list[Answer]:
        entry = self.map.find(segment)
        why = UNKNOWN if entry is None else entry.why if entry.state == "pooled" else ""
        if entry is not None and entry.state != "pooled":
            try:
                return self._told(segment, entry, "", await self._ask(entry, rows))
            except (AnswerInvalid, BlobBroken):
                if not segment:
                    raise
                why = FAILED
        if self.pooled is None:
            raise ModelUnknown(
                f"`{self.header.model}` has no model for segment `{format_segment(segment)}`, and no pooled model"
            )
        return self._told(segment, self.pooled, why, await self._ask(self.pooled, rows))

    async def _ask(self, entry: Entry, rows: Sequence[Row]) -> NDArray[np.float64]:
        runtime: Runtime = self._linear if entry.format == LINEAR else self._python[entry.code or self.header.code]
        return await runtime.answer(entry, rows)

    @staticmethod
    def _told(segment: Segment, entry: Entry, why: str, numbers: NDArray[np.float64]) -> list[Answer]:
        return [Answer(numbers[place], segment, entry, why) for place in range(len(numbers))]


class Applied:
    """All models of an environment at one revision."""

    def __init__(self, revision: int, models: Mapping[ModelName, ServedModel], broken: Mapping[ModelName, str]) -> None:
        """Take the models that could be opened, and why the others could not."""
        self.revision, self.models, self.broken = revision, models, broken

    def get(self, name: str) -> ServedModel:
        """Return a model by name."""
        model = self.models.get(ModelName(name))
        if model is None:
            likely = self.broken.get(ModelName(name)) or did_you_mean(name[:80], self.models)
            raise ModelUnknown(f"this node serves no model `{name[:80]}`", likely=likely)
        return model


async def apply(store: Path, published: Published, before: Applied | None) -> Applied:
    """Open what is published; a model whose pointer is the same as before is kept as it is.

    A model that cannot be opened keeps its release of before, if there is one: a damaged blob takes nothing down.
    """
    blobs = blobs_of(store)
    models: dict[ModelName, ServedModel] = {}
    broken: dict[ModelName, str] = {}
    for name, pointer in published.models.items():
        known = before.models.get(name) if before else None
        if known is not None and known.pointer == pointer:
            models[name] = known
            continue
        try:
            models[name] = await _open(store, blobs, pointer)
        except ModelmillError as error:
            broken[name] = f"release {pointer.release} cannot be opened: {error.what}"
            if known is not None:
                models[name] = known
    return Applied(published.revision, models, broken)


async def _open(store: Path, blobs: FolderBlobs, pointer: Pointer) -> ServedModel:
    model = await asyncio.to_thread(ServedModel, store, blobs, pointer)
    try:
        await model.start()
    except BaseException:
        await model.close()  # one child may run although another could not start
        raise
    return model


def describe_answer(model: ServedModel, answer: Answer) -> dict[str, Any]:
    """Return an answer as a caller sees it."""
    header = model.header
    told: dict[str, Any] = {}
    if header.labels:
        told[header.spec.target.name] = header.labels[int(answer.numbers.argmax())]
        told["probabilities"] = dict(zip(header.labels, answer.numbers.tolist(), strict=True))
    else:
        told[header.spec.target.name] = float(answer.numbers)
    told |= {"model": header.model, "segment": format_segment(answer.segment), "version": answer.entry.number}
    told["answered_by"] = "pooled" if answer.why or not answer.segment else "own"
    return told | ({"why": answer.why} if answer.why else {})
