"""The fleet map: which bytes answer for which segment of a model, as one signed blob.

A serving node needs nothing else to answer: not the database, not the user's folder. The map is columnar, so that
100,000 segments are read in milliseconds, and it names every pack and every entry by digest, so that its signature
covers all bytes that a node will ever open for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from modelmill.errors import BlobBroken, ModelUnknown, ReleasesDiffer, RuntimeUnknown
from modelmill.model.batching import Batching
from modelmill.model.schema import SchemaSpec
from modelmill.names import POOLED, Digest, ModelName, Parent, Segment, format_segment, parse_segment
from modelmill.store.signing import SigningKey, verify

FORMAT = 2
RUNTIMES = ("packed", "onnx", "python")
"""What may answer for an entry: this process, ONNX Runtime in it, or a child that runs Python."""
NOT_BUILT = "no model was built for this segment"
NO_ANSWER = "gave no usable answer"
FAILED = f"its own model {NO_ANSWER}"
"""Why another model answers in a segment's place, where the map itself gives no reason."""
NOT_BETTER = "its own model is not better than the pooled one"
NO_POOLED = "there is no pooled model"
SAFE = "safe"
"""The format of the declared safe answer, which has no bytes, and the state of its entry."""


Beyond = tuple[str | None, ...]
"""The values, as text, that one request has in the columns of levels which are no part of a segment; None for one left out."""


class Entry(NamedTuple):
    """What answers for one segment."""

    segment: Segment
    number: int
    """The version's number."""
    format: str
    runtime: str
    pack: Digest
    offset: int
    length: int
    artifact: Digest
    state: str = "own"
    """``own``, or ``pooled`` where another model answers for the segment, or ``safe`` for the declared safe answer."""
    why: str = ""
    code: Digest | None = None
    """The archive of the user's files that it was built with, where that is not the map's own."""

    def answers_as(self, segment: Segment) -> str:
        """Return who answers for a segment when this entry does: ``own``, ``carrier=UA``, ``pooled`` or ``safe``."""
        return SAFE if self.state == SAFE else answered_by(segment, self.segment)


_SAFE_ENTRY = Entry(POOLED, 0, SAFE, SAFE, Digest(""), 0, 0, Digest(""), state=SAFE)


def beyond_of(levels: Iterable[Sequence[str]], by: Collection[str]) -> tuple[str, ...]:
    """Return the columns of levels that are no part of a segment, each once."""
    return tuple(dict.fromkeys(name for level in levels for name in level if name not in by))


def parents_of(levels: Iterable[Sequence[str]], values: Iterable[tuple[str, str | None]]) -> Iterator[Parent]:
    """Yield the parent of each level all of whose columns have a value."""
    known = {name: value for name, value in values if value is not None}
    for level in levels:
        if known.keys() >= set(level):
            yield Parent.of({name: known[name] for name in level})


def wider_than(parent: Parent, levels: Sequence[Sequence[str]]) -> Iterator[Parent]:
    """Yield the parents that are asked where this one has no answer: those of later levels that its own values decide."""
    values = parent.values()
    own = next((place for place, level in enumerate(levels) if set(level) == values.keys()), len(levels))
    return parents_of(levels[own + 1 :], values.items())


def answered_by(segment: Segment, asked: Segment) -> str:
    """Return who answers for a segment when the model of `asked` does: ``own``, ``pooled``, or a parent as it is written."""
    return "pooled" if not asked else "own" if asked == segment else format_segment(asked)


def why_after(segment: Segment, failed: Segment, why: str) -> str:
    """Return why another answers for a segment, once the model of `failed` gave no answer; `why` is the reason so far."""
    whose = f"the model of {format_segment(failed)}" if failed else "the pooled model"
    return f"{why}; {whose} {NO_ANSWER}" if why else FAILED


class Home(NamedTuple):
    """Where the Python of an entry runs: with which of the user's files, and in which package environment."""

    code: Digest
    """The archive."""
    lock: Digest | None
    """Of the run that built the entry."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet map says once for all its segments."""

    model: ModelName
    spec: SchemaSpec
    by: tuple[str, ...]
    task: str
    code: Digest
    """The archive of the user's files; `facts.extract_code` unpacks it."""
    entry: tuple[str, str]
    """The file in that archive, and the name of the model in it."""
    labels: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = {}
    feature_names: tuple[str, ...] = ()
    example: Mapping[str, Any] = {}
    """A request that the model accepts."""
    run: int = 0
    """The number of the run that made the map."""
    lock: Digest | None = None
    levels: tuple[tuple[str, ...], ...] | UnsetType = UNSET
    """The columns of each level whose values have models, the most specific first."""
    safe: tuple[float, ...] | UnsetType = UNSET
    """What is answered to a row where no model can: a number, or a probability a class.

    A map of a model that declares neither names neither: its bytes are what they were before there were any.
    """
    batching: Batching | UnsetType = UNSET
    """What `@predict` declares of rows that are asked together."""
    locks: tuple[tuple[int, Digest], ...] | UnsetType = UNSET
    """The locks of versions that Python answers and that were built in another environment than the map, by their numbers."""

    def lock_of(self, number: int) -> Digest | None:
        """Return the lock of the run that built a version."""
        return dict(self.locks or ()).get(number, self.lock)

    @property
    def entity(self) -> list[str]:
        """Return the columns by which requests are shared: keys beyond those of the segments, else all."""
        columns = self.spec.request_columns
        keys = [column.name for column in columns if column.role == "key" and column.name not in self.by]
        return keys or [column.name for column in columns]


class _Columns(msgspec.Struct, frozen=True):
    """One row a segment; numbers little-endian, repeated texts as codes into a list."""

    keys: list[str]
    numbers: bytes
    pack_index: bytes
    offsets: bytes
    lengths: bytes
    artifacts: bytes
    """32 bytes each."""
    kind_index: bytes
    packs: list[str]
    kinds: list[tuple[str, str, str, str, str | None]]
    """The combinations of format, runtime, state, why and code that occur."""


class _Content(msgspec.Struct, frozen=True):
    format: int
    header: Header
    columns: _Columns


class FleetMap:
    """Which bytes answer for which segment. Immutable; the order of its entries is that of their keys."""

    def __init__(self, header: Header, columns: _Columns) -> None:
        """Take decoded parts; `FleetMap.build` and `decode` make maps."""
        self.header = header
        self._columns = columns
        self.numbers = _read(columns.numbers, "<i4")
        self.pack_index = _read(columns.pack_index, "<i4")
        self.offsets = _read(columns.offsets, "<i8")
        self.lengths = _read(columns.lengths, "<i8")
        self.kind_index = _read(columns.kind_index, "<i4")
        _check(self, columns)

    @classmethod
    def build(cls, header: Header, entries: Iterable[Entry]) -> FleetMap:
        """Make a map of the entries; the same entries in any order make the same map."""
        ordered = sorted(((format_segment(entry.segment), entry) for entry in entries), key=lambda pair: pair[0])
        packs: dict[str, int] = {}
        kinds: dict[tuple[str, str, str, str, str | None], int] = {}
        chosen = [entry for _, entry in ordered]
        return cls(
            header,
            _Columns(
                keys=[key for key, _ in ordered],
                numbers=_numbers((e.number for e in chosen), "<i4"),
                pack_index=_numbers((packs.setdefault(e.pack, len(packs)) for e in chosen), "<i4"),
                offsets=_numbers((e.offset for e in chosen), "<i8"),
                lengths=_numbers((e.length for e in chosen), "<i8"),
                artifacts=bytes.fromhex("".join(e.artifact for e in chosen)),
                kind_index=_numbers(
                    (kinds.setdefault((e.format, e.runtime, e.state, e.why, e.code), len(kinds)) for e in chosen),
                    "<i4",
                ),
                packs=list(packs),
                kinds=list(kinds),
            ),
        )

    @property
    def packs(self) -> list[Digest]:
        """Return the packs that hold the map's entries."""
        return [Digest(pack) for pack in self._columns.packs]

    def answering_packs(self) -> set[Digest]:
        """Return the packs of what answers: a segment whose answers are the pooled model's keeps its own, and is not asked."""
        answers = np.array([state != "pooled" for _, _, state, _, _ in self._columns.kinds], dtype=bool)
        used = np.unique(self.pack_index[answers[self.kind_index]]).tolist() if len(self) else []
        return {self.packs[index] for index in used}

    @property
    def keys(self) -> list[str]:
        """Return the segments as text, sorted."""
        return self._columns.keys

    def codes(self) -> set[Digest]:
        """Return the code archives of all entries."""
        return {Digest(code) if code else self.header.code for *_, code in self._columns.kinds}

    def formats(self) -> set[str]:
        """Return the formats of all entries."""
        return {kind[0] for kind in self._columns.kinds}

    def runtimes(self) -> set[str]:
        """Return what has to be there for all entries to be answered."""
        return {kind[1] for kind in self._columns.kinds}

    def home_of(self, entry: Entry) -> Home:
        """Return where the Python of an entry runs."""
        return Home(entry.code or self.header.code, self.header.lock_of(entry.number))

    def homes(self) -> set[Home]:
        """Return where Python has to run for all entries that it answers for."""
        asked = [runtime == "python" and state != "pooled" for _, runtime, state, _, _ in self._columns.kinds]
        which = np.array(asked, dtype=bool)[self.kind_index] if len(self) else np.zeros(0, dtype=bool)
        found = np.unique(np.stack([self.kind_index[which], self.numbers[which]]), axis=1).T.tolist()
        codes = [self._columns.kinds[kind][-1] for kind, _ in found]
        return {
            Home(Digest(code) if code else self.header.code, self.header.lock_of(number))
            for code, (_, number) in zip(codes, found, strict=True)
        }

    def answers(self) -> dict[str, tuple[bytes, str]]:
        """Return what answers for each segment, by its text: the digest of the bytes, and whose they are."""
        columns, artifacts = self._columns, self._columns.artifacts
        return {
            key: (artifacts[32 * index : 32 * index + 32], columns.kinds[kind][2])
            for index, (key, kind) in enumerate(zip(columns.keys, self.kind_index.tolist(), strict=True))
        }

    def __len__(self) -> int:
        return len(self._columns.keys)

    def __iter__(self) -> Iterator[Entry]:
        return (self.at(index) for index in range(len(self)))

    def find(self, segment: Segment) -> Entry | None:
        """Return what answers for a segment, None when the map does not know it."""
        index = self._index.get(format_segment(segment))
        return None if index is None else self.at(index)

    def entry_for(self, segment: Segment, beyond: Beyond = ()) -> tuple[Entry, str]:
        """Return what answers for a segment, and why that is not its own model where it is not; raises `ModelUnknown`.

        `beyond` are the values of the columns of that name in the request.
        """
        chain, why = self.chain(segment, beyond)
        if not chain:
            raise self.unknown(segment)
        return chain[0], why

    def unknown(self, segment: Segment) -> ModelUnknown:
        """Return the refusal of a segment for which nobody answers."""
        return ModelUnknown(
            f"`{self.header.model}` has no model for segment `{format_segment(segment)}`, and no pooled model"
        )

    def chain(self, segment: Segment, beyond: Beyond = ()) -> tuple[list[Entry], str]:
        """Return who is asked for a segment, one after the other until one answers, and why its own model is not the first.

        The segment's own model, those of the levels, the pooled one, the declared safe answer: those of them that there are.
        Where a segment's own model was measured, and lost to the pooled one, that answers: of the others nothing is known.
        """
        own, pooled = self.find(segment), self.find(POOLED)
        why = NOT_BUILT if own is None else own.why if own.state == "pooled" else ""
        chain = [own] if own is not None and not why else []
        if segment != POOLED:
            if why != NOT_BETTER or pooled is None or isinstance(segment, Parent):
                chain += self._parents(segment, beyond)
            chain += [pooled] if pooled is not None else []
        if self.safe:
            why = why if chain else f"{why}, and {NO_POOLED}"
            chain.append(_SAFE_ENTRY)
        return chain, why

    def _parents(self, segment: Segment, beyond: Beyond) -> Iterator[Entry]:
        """Yield the models of the levels whose values are known, the most specific first; none that lost to the pooled one."""
        for parent in self.parents_of(segment, beyond):
            entry = self.find(parent)
            if entry is not None and entry.state == "own":
                yield entry

    def parents_of(self, segment: Segment, beyond: Beyond = ()) -> Iterator[Parent]:
        """Yield the parents that a segment would have, or wider ones of a parent, whether or not there is a model of theirs."""
        if isinstance(segment, Parent):
            return wider_than(segment, self.levels)
        return parents_of(
            self.levels, (*zip(self.header.by, segment, strict=False), *zip(self.beyond, beyond, strict=False))
        )

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Return the columns of each level, the most specific first."""
        return self.header.levels or ()

    @cached_property
    def beyond(self) -> tuple[str, ...]:
        """Return the columns of levels that are no part of a segment: what they are, only a request can say."""
        return beyond_of(self.levels, self.header.by)

    @property
    def safe(self) -> tuple[float, ...]:
        """Return the declared safe answer to one row, empty where there is none."""
        return self.header.safe or ()

    def at(self, index: int) -> Entry:
        """Return the entry at a position of `keys`."""
        columns = self._columns
        format_, runtime, state, why, code = columns.kinds[self.kind_index[index]]
        return Entry(
            segment=parse_segment(columns.keys[index]),
            number=int(self.numbers[index]),
            format=format_,
            runtime=runtime,
            pack=Digest(columns.packs[self.pack_index[index]]),
            offset=int(self.offsets[index]),
            length=int(self.lengths[index]),
            artifact=Digest(columns.artifacts[32 * index : 32 * index + 32].hex()),
            state=state,
            why=why,
            code=Digest(code) if code else None,
        )

    def encode(self) -> bytes:
        """Return the map as the content of a blob; equal maps have equal bytes."""
        return msgspec.msgpack.encode(_Content(FORMAT, self.header, self._columns), order="deterministic")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self._columns.keys)}


def compose(base: FleetMap, other: FleetMap, segments: Collection[Segment]) -> FleetMap:
    """Return a map like `base`, in which some segments are answered as `other` answers them.

    A segment that `other` does not know is left to the pooled model. Raises `ReleasesDiffer` where a request to the one
    could not be a request to the other.
    """
    check_answer_alike(base, other)
    chosen = set(segments)
    kept = [entry for entry in base if entry.segment not in chosen]
    taken = [entry._replace(code=entry.code or other.header.code) for entry in other if entry.segment in chosen]
    locks = {entry.number: base.header.lock_of(entry.number) for entry in kept}
    locks |= {entry.number: other.header.lock_of(entry.number) for entry in taken}
    return FleetMap.build(with_locks(base.header, [*kept, *taken], locks), [*kept, *taken])


def with_locks(header: Header, entries: Iterable[Entry], locks: Mapping[int, Digest | None]) -> Header:
    """Return a header that names the locks of these entries, by the numbers of their versions, where they are not its own."""
    numbers = {entry.number for entry in entries if entry.runtime == "python"}
    known = ((number, locks.get(number)) for number in sorted(numbers))
    found = tuple((number, lock) for number, lock in known if lock is not None and lock != header.lock)
    return msgspec.structs.replace(header, locks=found or UNSET)


def check_answer_alike(one: FleetMap, other: FleetMap) -> None:
    """Raise `ReleasesDiffer` where a request to one map could not be a request to the other."""
    names = ("spec", "by", "task", "labels", "feature_names")
    differing = [name for name in names if getattr(one.header, name) != getattr(other.header, name)]
    if differing:
        raise ReleasesDiffer(
            f"versions {one.header.run} and {other.header.run} of `{one.header.model}` cannot answer beside each other",
            got=f"{', '.join(differing)} differ: a request to the one is none to the other",
            next="release, or roll back, the whole model",
            safe="nothing was moved",
        )


class SignedMap(NamedTuple):
    """A fleet map's bytes with the signature of the installation that made it."""

    content: bytes
    signature: bytes

    def open(self, public: bytes) -> FleetMap:
        """Return the map; bytes that this installation did not sign raise SignatureInvalid and are not decoded."""
        # Before decoding: what a stranger wrote is not even parsed.
        verify(public, self.content, self.signature)
        fleet = decode(self.content)
        _check_runtimes(fleet)
        return fleet


def _check_runtimes(fleet: FleetMap) -> None:
    """Raise `RuntimeUnknown` where nothing here could answer for an entry: another modelmill has made the map."""
    unknown = fleet.runtimes() - set(RUNTIMES)
    if unknown:
        raise RuntimeUnknown(
            f"version {fleet.header.run} of `{fleet.header.model}` needs a runtime that is not here",
            expected=" or ".join(RUNTIMES),
            got=", ".join(sorted(unknown)),
            next="modelmill train",
            safe="what was served before is served on",
        )


def sign(key: SigningKey, fleet: FleetMap) -> SignedMap:
    """Sign a map, and with it every entry that it names."""
    content = fleet.encode()
    return SignedMap(content, key.sign(content))


def decode(content: bytes) -> FleetMap:
    """Return the map that `FleetMap.encode` wrote."""
    try:
        found = msgspec.msgpack.decode(content, type=_Content)
    except msgspec.MsgspecError as error:
        raise BlobBroken("a fleet map cannot be read", got=str(error)) from error
    if found.format != FORMAT:
        raise BlobBroken(
            "a fleet map is of another format", expected=str(FORMAT), got=str(found.format), next="modelmill train"
        )
    return FleetMap(found.header, found.columns)


def _check(fleet: FleetMap, columns: _Columns) -> None:
    count = len(columns.keys)
    lengths = {len(fleet.numbers), len(fleet.pack_index), len(fleet.offsets), len(fleet.lengths), len(fleet.kind_index)}
    if lengths != {count} or len(columns.artifacts) != 32 * count:
        raise BlobBroken("the columns of a fleet map have different lengths")
    if count and not (
        0 <= fleet.pack_index.min() <= fleet.pack_index.max() < len(columns.packs)
        and 0 <= fleet.kind_index.min() <= fleet.kind_index.max() < len(columns.kinds)
    ):
        raise BlobBroken("a fleet map refers to packs that it does not name")


def _read(content: bytes, dtype: str) -> NDArray[np.signedinteger[Any]]:
    try:
        return np.frombuffer(content, dtype=dtype)
    except ValueError as error:
        raise BlobBroken("a column of a fleet map is cut off") from error


def _numbers(values: Iterable[int], dtype: str) -> bytes:
    return np.fromiter(values, dtype=dtype).tobytes()
