"""Two releases of one model that share its traffic: by segments, by requests, or the newer one on copies only.

Which side answers is a function of what was published and of the row, the same in every worker of every node, and for the
same row at every time: a step of a canary only adds to what the newer side answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from modelmill.artifact.saved import Saved
from modelmill.data.journal import Answerer
from modelmill.errors import BlobBroken
from modelmill.model.decoding import Values
from modelmill.model.request import Batch, identity_of
from modelmill.names import Segment
from modelmill.registry.fleet import Beyond, Entry, check_answer_alike
from modelmill.release.pointers import Beside, Pointer
from modelmill.serving.served import Answered, Part, ServedModel
from modelmill.serving.waiting import Kind, asking
from modelmill.store.blobs import FolderBlobs

_WHOLE = 2.0**64


class Split:
    """A model's current release and the one beside it; answers as either would."""

    def __init__(self, stable: ServedModel, candidate: ServedModel, beside: Beside, ring: frozenset[Segment]) -> None:
        """Take both, opened, and what is published of how they share; `ring` are the segments of the candidate's."""
        check_answer_alike(stable.map, candidate.map)
        self.stable, self.candidate, self.beside, self._ring = stable, candidate, beside, ring
        self._salt = beside.salt.encode()
        self._places = entity_places(stable)

    # ---------------------------------------------------------------- as one model

    @property
    def pointer(self) -> Pointer:
        """Return what is published."""
        return msgspec.structs.replace(self.stable.pointer, beside=self.beside)

    @property
    def header(self) -> Any:
        """Return what the current release's map says of all its segments; a request to the one is one to the other."""
        return self.stable.header

    @property
    def parser(self) -> Any:
        """Return what reads requests."""
        return self.stable.parser

    @property
    def map(self) -> Any:
        """Return the current release's map."""
        return self.stable.map

    @property
    def versions(self) -> dict[int, ServedModel]:
        """Return the versions that were asked by their number, and are open."""
        return {**self.stable.versions, self.stable.header.run: self.stable, self.candidate.header.run: self.candidate}

    @property
    def damage(self) -> str:
        """Return what was found damaged in either."""
        return self.stable.damage or self.candidate.damage

    @property
    def is_packed(self) -> bool:
        """Whether all answers of both are given in this process and at once."""
        return self.stable.is_packed and self.candidate.is_packed

    @property
    def answers_here(self) -> bool:
        """Whether all answers of both are given in this process."""
        return self.stable.answers_here and self.candidate.answers_here

    @property
    def opened(self) -> int:
        """Return how many packed models were asked, and are open."""
        return self.stable.opened + self.candidate.opened

    @property
    def sides(self) -> tuple[ServedModel, ...]:
        """Return both."""
        return self.stable, self.candidate

    def open_at(self, number: int) -> ServedModel | None:
        """Return a version where it is open: one that is named is never shared."""
        return self.versions.get(number)

    async def open_version(self, number: int) -> ServedModel:
        """Return the fleet as it was at another version."""
        return self.versions.get(number) or await self.stable.open_version(number)

    def entry_for(self, segment: Segment, beyond: Beyond = ()) -> tuple[Entry, str]:
        """Return what answers for a segment where segments are shared, and why that is not its own model where it is not."""
        return self.side_at(segment).entry_for(segment, beyond)

    def open_here(self, entry: Entry) -> Saved:
        """Return what answers for an entry in this process; raises `Cold` where it was not asked before."""
        return self.stable.open_here(entry)

    def answerer(self, segment: Segment, entry: Entry, why: str) -> Answerer:
        """Return what answered, as the prediction log has it."""
        return self.side_at(segment).answerer(segment, entry, why)

    # ---------------------------------------------------------------- which side

    @property
    def by_requests(self) -> bool:
        """Whether rows of one segment are answered by either."""
        return self.beside.of == "requests"

    def side_at(self, segment: Segment) -> ServedModel:
        """Return who answers for a segment, where segments are shared; the current release else."""
        return self.candidate if segment in self._ring else self.stable

    def side_of_values(self, values: Values) -> ServedModel:
        """Return who answers a row, where requests are shared: the same for all rows with the same keys."""
        return self._side(identity_of(values, self._places))

    def answer_now(self, batch: Batch) -> Answered:
        """Answer rows, each by its side."""
        parts: list[Part] = []
        for side, some, places in self._shares(batch):
            parts += _at(side.answer_now(some).parts, places)
        return Answered(parts, batch)

    async def answer(self, batch: Batch) -> Answered:
        """Do the same where some of the models run in other processes."""
        parts: list[Part] = []
        for side, some, places in self._shares(batch):
            with asking(Kind.CANARY if side is self.candidate else Kind.PLAIN):
                parts += _at((await side.answer(some)).parts, places)
        return Answered(parts, batch)

    def _shares(self, batch: Batch) -> Iterator[tuple[ServedModel, Batch, Sequence[int] | None]]:
        """Yield each side with its rows, and which rows of the batch these are; None for all."""
        sides = self._sides_of(batch)
        if all(side is sides[0] for side in sides):
            yield sides[0], batch, None
            return
        for side in self.sides:
            places = [place for place, one in enumerate(sides) if one is side]
            if places:
                yield side, batch.take(places), places

    def _sides_of(self, batch: Batch) -> list[ServedModel]:
        if self.by_requests:
            return [self._side(key) for key in batch.identities(self._places)]
        return [self.side_at(segment) for segment in batch.segments()]

    def _side(self, key: bytes) -> ServedModel:
        number = int.from_bytes(blake2b(key, digest_size=8, key=self._salt).digest(), "little")
        return self.candidate if number < self.beside.share * _WHOLE else self.stable


def _at(parts: Sequence[Part], places: Sequence[int] | None) -> Iterator[Part]:
    """Yield the parts of some rows of a batch with their places in the whole."""
    for part in parts:
        if places is None:
            yield part
        else:
            yield part._replace(places=places if part.places is None else [places[place] for place in part.places])


def entity_places(model: ServedModel) -> Sequence[int]:
    """Return where in a row stands what requests are shared by."""
    columns = list(model.parser.columns)
    return [columns.index(name) for name in model.header.entity]


def open_ring(blobs: FolderBlobs, beside: Beside) -> frozenset[Segment]:
    """Return the segments that a step has reached: the first of those that were drawn for all steps."""
    if beside.ring is None:
        return frozenset()
    try:
        drawn = msgspec.msgpack.decode(blobs.get(beside.ring), type=list[Segment])
    except msgspec.MsgspecError as error:
        raise BlobBroken("the list of a canary's segments cannot be read", got=str(error)) from error
    return frozenset(tuple(segment) for segment in drawn[: beside.count])
