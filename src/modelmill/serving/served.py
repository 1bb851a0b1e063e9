"""One release of a model, opened: which of its segments' models answers which row, and how that is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.saved import Cold, Saved
from modelmill.artifact.saving import ONNX, PACKED
from modelmill.data.journal import Answerer
from modelmill.errors import (
    AnswerInvalid,
    BlobBroken,
    EnvironmentMissing,
    ModelmillError,
    ModelQuarantined,
    ModelUnknown,
    NodeNotReady,
)
from modelmill.model.request import Batch, parser_of
from modelmill.model.safe import safe_answers
from modelmill.names import POOLED, Segment, format_segment
from modelmill.registry.fleet import FAILED, NO_ANSWER, NOT_BUILT, SAFE, Beyond, Entry, FleetMap, why_after
from modelmill.release.pointers import Pointer, check_packs, open_map, open_versions
from modelmill.serving.children import Children
from modelmill.serving.meters import UNKNOWN, Place
from modelmill.serving.onnx import OnnxRuntime
from modelmill.serving.packed import PackedRuntime, answer_of
from modelmill.serving.shelf import Shelf
from modelmill.serving.waiting import Line
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
    """Why that was not the segment's own model; empty where it was."""
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
        """Return the segments that were asked, each with whether a model failed: every safe answer says so."""
        found: dict[Place, bool] = {}
        for part in self.parts:
            place = part.side.place_of(part.segment, part.why)
            found[place] = found.get(place, False) or NO_ANSWER in part.why or part.entry.state == SAFE
        return list(found.items())

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

    def others(self) -> dict[str, int]:
        """Return how many rows were answered by another than their segment's own model: what V2 tells of it."""
        found = Counter(kind_of(part.entry, part.why) for part in self.parts for _ in range(len(part.numbers)))
        return told_of({kind: count for kind, count in found.items() if kind})


def kind_of(entry: Entry, why: str) -> str:
    """Return what kind of model has answered in a segment's place: ``pooled``, ``parent``, ``safe``; empty for its own."""
    return "" if not why else SAFE if entry.state == SAFE else "parent" if entry.segment else "pooled"


def told_of(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts of rows by kind as V2's parameters: the others are named only where there are any."""
    return {"pooled": counts.get("pooled", 0)} | {kind: counts[kind] for kind in ("parent", SAFE) if kind in counts}


class Cache(Protocol):
    """What `lru_cache` makes."""

    def cache_clear(self) -> None:
        """Forget all of it."""


Asking = Generator[Entry, NDArray[np.float64], "tuple[NDArray[np.float64], Entry, str]"]


class ServedModel:
    """One model of a release."""

    def __init__(  # noqa: PLR0913 - a release and its options
        self,
        store: Path,
        blobs: FolderBlobs,
        pointer: Pointer,
        before: ServedModel | None = None,
        environment: str = "",
        *,
        shelf: Shelf | None = None,
        is_shadow: bool = False,
    ) -> None:
        """Open and verify the map; what the release before has open stays so. Runtimes start with `start`.

        What replaces a release that serves is verified as a whole: one damaged byte, and the one before serves on. A
        first release is verified entry by entry, when each is asked: the pooled model answers for what is damaged.
        A shadow takes nothing from what serves, neither what that has open nor its turn on the processor.
        `shelf` is where the process holds the graphs that it has open; left out, this model has one for itself.
        """
        self.pointer, self._environment = pointer, environment
        self._damage = ""
        self._store, self._blobs = store, blobs
        self.versions: dict[int, ServedModel] = {}
        """Other versions that were asked, opened."""
        self.map: FleetMap = open_map(blobs, pointer, public_key(store))
        if before is not None:
            check_packs(blobs, set(self.map.packs) - set(before.map.packs))
        self.header = self.map.header
        self.parser = parser_of(self.header.spec, self.header.by, self.header.feature_names)
        self.entry_for = lru_cache(maxsize=_MOST_FOUND)(self.map.entry_for)
        self._caches: WeakSet[Cache] = WeakSet((self.entry_for,))
        # Where nobody is to go without an answer, a child process that is down is a model that has none.
        self._failures: tuple[type[ModelmillError], ...] = (
            (AnswerInvalid, BlobBroken, NodeNotReady)
            if self.map.safe
            else (AnswerInvalid, BlobBroken, ModelQuarantined)
        )
        self._packed: PackedRuntime = PackedRuntime(blobs, before._packed if before and not is_shadow else None)  # noqa: SLF001 - one of us
        self._shelf = shelf or Shelf()
        self._graphs = OnnxRuntime(blobs, self._shelf) if ONNX in self.map.formats() else None
        self._python = Children(store, blobs, pointer, self.map, is_shadow=is_shadow)
        alone = self.map.runtimes() == {"python"} and not self.map.safe
        self.line: Line | None = self._python.line if alone else None
        """Where everybody waits who asks this model, where that is one line; nobody is answered by what is safe then."""
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_packed(self) -> bool:
        """Whether all its answers are given in this process and at once."""
        return self.answers_here and self._graphs is None

    @property
    def answers_here(self) -> bool:
        """Whether all its answers are given in this process: then `answer_now` gives them, where what is asked is open."""
        return not self._python

    @property
    def damage(self) -> str:
        """Return what was found damaged when it was asked, or why a child is not started; empty where all is well."""
        return self._damage or (
            f"{why}: modelmill rollback, or see the node's log" if (why := self._python.trouble) else ""
        )

    @property
    def opened(self) -> int:
        """Return how many packed models were asked, and are open."""
        return self._packed.opened

    async def start(self) -> None:
        """Start what answers."""
        if self._graphs is not None:
            await self._graphs.start()
        await self._python.start()

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
        try:
            model = await open_model(
                self._store, self._blobs, pointer, environment=self._environment, shelf=self._shelf
            )
        except EnvironmentMissing as error:  # `serve` makes only what is released
            error.parts["next"] = f"modelmill reproduce {self.header.model} {number}      (makes it)"
            raise
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
        await self._python.close()
        if self._graphs is not None:
            await self._graphs.close()
        for cache in self._caches:  # whoever holds on to this model a while longer asks it for nothing any more
            cache.cache_clear()

    def remember(self, cache: Cache) -> None:
        """Have what somebody remembers of this model forgotten when it is closed."""
        self._caches.add(cache)

    def answer_now(self, batch: Batch) -> Answered:
        """Answer rows, each by its own segment's model; the pooled one answers where there is none that can.

        Raises `Cold` where a model has to be opened first.
        """
        return Answered([self._part_now(*group) for group in by_segment(batch, self.map.beyond)], batch)

    async def answer(self, batch: Batch) -> Answered:
        """Do the same where some of the models run in other processes, or have to be opened."""
        if self.answers_here:
            with suppress(Cold):
                return self.answer_now(batch)
        self._answering += 1
        self._idle.clear()
        try:
            return Answered([await self._part(*group) for group in by_segment(batch, self.map.beyond)], batch)
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    def _part_now(self, segment: Segment, beyond: Beyond, batch: Batch, places: Sequence[int] | None) -> Part:
        asking = self._asking(segment, beyond)
        entry = next(asking)
        while True:
            try:
                numbers = self._answer_here(entry, batch)
            except self._failures as error:
                entry = self._ask_other(asking, error, segment)
                continue
            return self._part_of(segment, asking, numbers, places)

    async def _part(self, segment: Segment, beyond: Beyond, batch: Batch, places: Sequence[int] | None) -> Part:
        asking = self._asking(segment, beyond)
        entry = next(asking)
        while True:
            try:
                numbers = await self._ask(entry, batch)
            except self._failures as error:
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

    async def answer_by(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        """Return what one entry answers to rows, whosever they are; nobody answers in its place."""
        return await self._ask(entry, batch)

    async def _ask(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        if entry.format == ONNX and self._graphs is not None:
            return await self._graphs.answer(entry, batch)
        if entry.format in (PACKED, SAFE):
            return self._answer_here(entry, batch)
        return await self._python.answer(entry, batch)

    def _answer_here(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        """Return what an entry answers in this process, or the declared safe answer to each row; raises `Cold`."""
        if entry.state == SAFE:
            return safe_answers(self.map.safe, len(batch))
        return answer_of(self.open_here(entry), batch)

    def _ask_other(self, asking: Asking, error: ModelmillError, segment: Segment) -> Entry:
        """Return what is asked instead of an entry that has no answer; damage is remembered, for the node to tell."""
        # What nobody has built is counted as unknown: callers make up as many names as they like.
        error.place = self.place_of(segment, NOT_BUILT if self.map.find(segment) is None else FAILED)
        if isinstance(error, BlobBroken):
            self._damage = f"release {self.pointer.release} is damaged: {error.what}"
        return asking.throw(error)

    def _asking(self, segment: Segment, beyond: Beyond) -> Asking:
        """Yield what is to be asked for a segment, take its answers or what it raised, return who answered and why.

        A generator, so that the rule stands once: the two above ask at once, or wait.
        """
        entry, why = self.entry_for(segment, beyond)
        others: Iterator[Entry] | None = None
        while True:
            try:
                return (yield entry), entry, why
            except self._failures:
                if others is None:
                    others = iter(self.map.chain(segment, beyond)[0][1:])
                following = next(others, None)
                if following is None and segment and self.map.find(POOLED) is None:
                    raise self.map.unknown(segment) from None
                if following is None:
                    raise
            entry, why = following, why_after(segment, entry.segment, why)

    def answerer(self, segment: Segment, entry: Entry, why: str) -> Answerer:
        """Return what answered, as the prediction log has it."""
        header, place = self.header, (self._environment, self.pointer.release)
        return Answerer(header.model, header.run, format_segment(segment), entry.number, why, *place)

    def place_of(self, segment: Segment, why: str) -> Place:
        """Return where an answer is counted."""
        text = UNKNOWN if why.startswith(NOT_BUILT) else format_segment(segment)
        return self.header.model, text, self.pointer.release

    def side_at(self, _: Segment) -> ServedModel:
        """Return who answers for a segment."""
        return self

    @property
    def sides(self) -> tuple[ServedModel, ...]:
        """Return the releases that answer."""
        return (self,)

    def open_here(self, entry: Entry) -> Saved:
        """Return what answers for an entry in this process; raises `Cold` where it was not asked before."""
        if entry.format == ONNX and self._graphs is not None:
            return self._graphs.known(entry)
        return self._packed.open(entry)


def by_segment(
    batch: Batch, beyond: Sequence[str] = ()
) -> Iterator[tuple[Segment, Beyond, Batch, Sequence[int] | None]]:
    """Yield the rows of each segment, apart where they differ in columns beyond it; most requests are about one."""
    if len(batch) == 1:
        yield batch.segments()[0], batch.texts(beyond)[0], batch, None
        return
    keys = list(zip(batch.segments(), batch.texts(beyond), strict=True))
    first = keys[0]
    if keys.count(first) == len(keys):
        yield *first, batch, None
        return
    places: dict[tuple[Segment, Beyond], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    for key, some in places.items():
        yield *key, batch.take(some), some


async def open_model(
    store: Path,
    blobs: FolderBlobs,
    pointer: Pointer,
    before: ServedModel | None = None,
    environment: str = "",
    *,
    shelf: Shelf | None = None,
) -> ServedModel:
    """Return a model, ready to answer."""
    model = await asyncio.to_thread(ServedModel, store, blobs, pointer, before, environment, shelf=shelf)
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
    told |= {"model": header.model, "segment": format_segment(part.segment), "version": part.entry.number or None}
    told["answered_by"] = part.entry.answers_as(part.segment)
    return told | ({"why": part.why} if part.why else {})
