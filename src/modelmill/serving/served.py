"""One release of a model, opened: which of its segments' models answers which row, and how that is told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.packed import Packed
from modelmill.artifact.saving import PACKED
from modelmill.data.journal import Answerer
from modelmill.errors import AnswerInvalid, BlobBroken, ModelUnknown
from modelmill.model.request import Batch, parser_of
from modelmill.names import Digest, Segment, format_segment
from modelmill.registry.fleet import FAILED, NOT_BUILT, Entry, FleetMap
from modelmill.release.pointers import Pointer, open_map, open_versions
from modelmill.serving.meters import UNKNOWN, Place
from modelmill.serving.packed import PackedRuntime
from modelmill.serving.python import PythonRuntime
from modelmill.serving.runtime import Runtime
from modelmill.store.blobs import FolderBlobs
from modelmill.store.signing import public_key

_DRAIN_S = 60.0
_MOST_FOUND = 100_000
_MOST_VERSIONS = 8
"""How many earlier versions of a model are kept open; the one opened first goes first."""


class Part(NamedTuple):
    """The answers to the rows of one segment."""

    segment: Segment
    entry: Entry
    """What answered."""
    why: str
    """Why that was the pooled model; empty where it was the segment's own."""
    numbers: NDArray[np.float64]
    """(rows,), or a probability a class: (rows, classes)."""
    places: Sequence[int] | None
    """Which rows of the request these are; None for all."""
    side: ServedModel
    """The release that answered."""


class Answered(NamedTuple):
    """The answers to a request."""

    parts: Sequence[Part]
    batch: Batch
    """What was asked."""

    def numbers(self) -> NDArray[np.float64]:
        """Return the answers in the order of the rows."""
        first = self.parts[0]
        if first.places is None:
            return first.numbers
        together = np.empty((len(self.batch), *first.numbers.shape[1:]))
        for part in self.parts:
            together[list(part.places or ())] = part.numbers
        return together

    def by_row(self) -> list[Part]:
        """Return the part to which each row belongs."""
        if self.parts[0].places is None:
            return [self.parts[0]] * len(self.batch)
        of_row = {place: part for part in self.parts for place in part.places or ()}
        return [of_row[place] for place in range(len(self.batch))]

    def about(self) -> list[tuple[Place, bool]]:
        """Return the segments that were asked, each with whether its own model failed."""
        return [(part.side.place_of(part.segment, part.why), part.why == FAILED) for part in self.parts]

    def run(self) -> int:
        """Return the number of the fleet that answered; of two that did, the smaller one."""
        return min(part.side.header.run for part in self.parts)

    def logged(self) -> Iterator[tuple[Answerer, Any, bytes, list[int] | None]]:
        """Yield of each part who answered, the inputs, the answers and the rows, as the prediction log has them."""
        for part in self.parts:
            batch = self.batch if part.places is None else self.batch.take(part.places)
            rows = None if part.places is None else list(part.places)
            numbers = np.ascontiguousarray(part.numbers, dtype="<f8").tobytes()
            yield part.side.answerer(part.segment, part.entry, part.why), batch.logged(), numbers, rows

    def pooled(self) -> int:
        """Return how many rows the pooled model answered for a segment that is another's."""
        return sum(len(part.numbers) for part in self.parts if part.why)


Asking = Generator[Entry, NDArray[np.float64], "tuple[NDArray[np.float64], Entry, str]"]


class ServedModel:
    """One model of a release."""

    def __init__(
        self,
        store: Path,
        blobs: FolderBlobs,
        pointer: Pointer,
        before: ServedModel | None = None,
        *,
        is_shadow: bool = False,
    ) -> None:
        """Open and verify the map; what the release before has open stays so. Runtimes start with `start`.

        What replaces a release that serves is verified as a whole: one damaged byte, and the one before serves on. A
        first release is verified entry by entry, when each is asked: the pooled model answers for what is damaged.
        A shadow takes nothing from what serves, neither what that has open nor its turn on the processor.
        """
        self.pointer = pointer
        self.damage = ""
        """What was found damaged when it was asked."""
        self._store, self._blobs = store, blobs
        self.versions: dict[int, ServedModel] = {}
        """Other versions that were asked, opened."""
        self.map: FleetMap = open_map(blobs, pointer, public_key(store))
        if before is not None:
            _verify_packs(blobs, set(self.map.packs) - set(before.map.packs))
        self.header = self.map.header
        self.parser = parser_of(self.header.spec, self.header.by, self.header.feature_names)
        self.entry_for = lru_cache(maxsize=_MOST_FOUND)(self.map.entry_for)
        self._packed: PackedRuntime = PackedRuntime(blobs, before._packed if before and not is_shadow else None)  # noqa: SLF001 - one of us
        codes = self.map.codes(without=PACKED)
        self._python: dict[Digest, Runtime] = {
            code: PythonRuntime(store, pointer, code, is_shadow=is_shadow) for code in codes
        }
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_packed(self) -> bool:
        """Whether all its answers are given in this process: then `answer_now` gives them."""
        return not self._python

    @property
    def opened(self) -> int:
        """Return how many packed models were asked, and are open."""
        return self._packed.opened

    async def start(self) -> None:
        """Start what answers."""
        await asyncio.gather(*(runtime.start() for runtime in self._python.values()))

    def open_at(self, number: int) -> ServedModel | None:
        """Return a version where it is open."""
        return self if number == self.header.run else self.versions.get(number)

    async def open_version(self, number: int) -> ServedModel:
        """Return the fleet as it was at another version; raises `ModelUnknown` where there was none."""
        if number == self.header.run:
            return self
        opened = self.versions.get(number)
        if opened is not None:
            return opened
        known = await asyncio.to_thread(open_versions, self._blobs, self.pointer)
        pointer = known.pointer(number)
        if pointer is None:
            near = ", ".join(str(n) for n in sorted(known.maps, key=lambda n: abs(n - number))[:5])
            raise ModelUnknown(f"`{self.header.model}` has no version {number}", expected=near)
        model = await open_model(self._store, self._blobs, pointer)
        if (model.header.model, model.header.run) != (self.header.model, number):
            raise BlobBroken("a version's map is another's", got=f"{model.header.model} {model.header.run}")
        if number in self.versions:  # two asked for it at once
            await model.close()
            return self.versions[number]
        while len(self.versions) >= _MOST_VERSIONS:
            await self.versions.pop(next(iter(self.versions))).close()
        self.versions[number] = model
        return model

    async def close(self) -> None:
        """End what answered, once it has answered what it was asked."""
        await asyncio.gather(*(version.close() for version in self.versions.values()), return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _DRAIN_S)
        await asyncio.gather(*(runtime.close() for runtime in self._python.values()), return_exceptions=True)

    def answer_now(self, batch: Batch) -> Answered:
        """Answer rows, each by its own segment's model; the pooled one answers where there is none that can."""
        return Answered([self._part_now(*group) for group in by_segment(batch)], batch)

    async def answer(self, batch: Batch) -> Answered:
        """Do the same where some of the models run in other processes."""
        if self.is_packed:
            return self.answer_now(batch)
        self._answering += 1
        self._idle.clear()
        try:
            return Answered([await self._part(*group) for group in by_segment(batch)], batch)
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    def _part_now(self, segment: Segment, batch: Batch, places: Sequence[int] | None) -> Part:
        asking = self._asking(segment)
        entry = next(asking)
        while True:
            try:
                numbers = self._packed.answer(entry, batch)
            except (AnswerInvalid, BlobBroken) as error:
                entry = self._ask_other(asking, error, segment)
                continue
            return self._part_of(segment, asking, numbers, places)

    async def _part(self, segment: Segment, batch: Batch, places: Sequence[int] | None) -> Part:
        asking = self._asking(segment)
        entry = next(asking)
        while True:
            try:
                numbers = await self._ask(entry, batch)
            except (AnswerInvalid, BlobBroken) as error:
                entry = self._ask_other(asking, error, segment)
                continue
            return self._part_of(segment, asking, numbers, places)

    def _part_of(
        self, segment: Segment, asking: Asking, numbers: NDArray[np.float64], places: Sequence[int] | None
    ) -> Part:
        try:
            asking.send(numbers)
        except StopIteration as done:
            found, entry, why = done.value
            return Part(segment, entry, why, found, places, self)
        raise AssertionError("nothing is asked once it has answered")

    async def _ask(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        if entry.format == PACKED:
            return self._packed.answer(entry, batch)
        return await self._python[entry.code or self.header.code].answer(entry, batch)

    def _ask_other(self, asking: Asking, error: AnswerInvalid | BlobBroken, segment: Segment) -> Entry:
        """Return what is asked instead of an entry that has no answer; damage is remembered, for the node to tell."""
        error.place = self.place_of(segment, FAILED)
        if isinstance(error, BlobBroken):
            self.damage = f"release {self.pointer.release} is damaged: {error.what}"
        return asking.throw(error)

    def _asking(self, segment: Segment) -> Asking:
        """Yield what is to be asked for a segment, take its answers or what it raised, return who answered and why.

        A generator, so that the rule stands once: the two above ask at once, or wait.
        """
        entry, why = self.entry_for(segment)
        if not why:
            try:
                return (yield entry), entry, ""
            except (AnswerInvalid, BlobBroken):
                if not segment:
                    raise
                why = FAILED
        pooled = self.map.pooled_for(segment)
        return (yield pooled), pooled, why

    def answerer(self, segment: Segment, entry: Entry, why: str) -> Answerer:
        """Return what answered, as the prediction log has it."""
        return Answerer(self.header.model, self.header.run, format_segment(segment), entry.number, why)

    def place_of(self, segment: Segment, why: str) -> Place:
        """Return where an answer is counted."""
        text = UNKNOWN if why == NOT_BUILT else format_segment(segment)
        return self.header.model, text, self.pointer.release

    def side_at(self, _: Segment) -> ServedModel:
        """Return who answers for a segment."""
        return self

    @property
    def sides(self) -> tuple[ServedModel, ...]:
        """Return the releases that answer."""
        return (self,)

    def open_packed(self, entry: Entry) -> Packed:
        """Return a packed entry, opened."""
        return self._packed.open(entry)


def _verify_packs(blobs: FolderBlobs, packs: Collection[Digest]) -> None:
    """Raise `BlobBroken` where the bytes of a pack are not those that its name was made of."""
    for pack in packs:
        if hashlib.sha256(blobs.open(pack)).hexdigest() != pack:
            raise BlobBroken(
                f"pack `{pack[:12]}` does not hold the bytes that were recorded",
                where=str(blobs.path_of(pack)),
                next="modelmill fsck",
            )


def by_segment(batch: Batch) -> Iterator[tuple[Segment, Batch, Sequence[int] | None]]:
    """Yield the rows of each segment; most requests are about one."""
    segments = batch.segments()
    first = segments[0]
    if segments.count(first) == len(segments):
        yield first, batch, None
        return
    places: dict[Segment, list[int]] = {}
    for place, segment in enumerate(segments):
        places.setdefault(segment, []).append(place)
    for segment, some in places.items():
        yield segment, batch.take(some), some


async def open_model(
    store: Path, blobs: FolderBlobs, pointer: Pointer, before: ServedModel | None = None
) -> ServedModel:
    """Return a model, ready to answer."""
    model = await asyncio.to_thread(ServedModel, store, blobs, pointer, before)
    try:
        await model.start()
    except BaseException:
        await model.close()  # one child may run although another could not start
        raise
    return model


def describe_answers(answered: Answered) -> list[dict[str, Any]]:
    """Return the answer to each row as a caller with named fields sees it."""
    numbers = answered.numbers().tolist()
    return [_describe(part, found) for part, found in zip(answered.by_row(), numbers, strict=True)]


def _describe(part: Part, found: Any) -> dict[str, Any]:
    header = part.side.header
    told: dict[str, Any] = {}
    if header.labels:
        told[header.spec.target.name] = header.labels[found.index(max(found))]
        told["probabilities"] = dict(zip(header.labels, found, strict=True))
    else:
        told[header.spec.target.name] = found
    told |= {"model": header.model, "segment": format_segment(part.segment), "version": part.entry.number}
    told["answered_by"] = "pooled" if part.why or not part.segment else "own"
    return told | ({"why": part.why} if part.why else {})
