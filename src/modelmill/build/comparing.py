"""In the worker of a reproduction: a segment is fitted again, and what comes of it compared with what was recorded.

Compared are the weights, array by array, the answers to all test rows by their digest, and the metrics. Not the bytes of a
pickle or a graph: they may hold a thread count or an order that no answer depends on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelmill.artifact import converting, graph, packed
from modelmill.artifact.networks import is_tensor
from modelmill.artifact.packing import pack
from modelmill.artifact.saving import ONNX, PACKED, PICKLE, encode, unpickle
from modelmill.build.batched import Batch, batches
from modelmill.build.failing import failure_of
from modelmill.build.fitting import neighbours
from modelmill.build.plan import Step
from modelmill.build.segment import Common, SegmentFit, digest_of_answers
from modelmill.build.work import Setup
from modelmill.model.linear import LinearTrain
from modelmill.names import Digest, Parent, Segment, digest_of, format_segment, is_shared
from modelmill.store.packs import PackReader

TOLERANCE = 1e-9
"""Two numbers are equal within it where they differ by no more than this share of the larger one."""
IDENTICAL, EQUAL, DIFFERENT, FAILED = "identical", "equal", "different", "failed"


class Recorded(msgspec.Struct, frozen=True):
    """What is known of a version that is built again."""

    segment: Segment
    format: str
    artifact: Digest
    pack: str
    """The pack's file."""
    place: tuple[int, int]
    """Where the artifact lies in it: offset, length."""
    extras: tuple[int, int]
    extras_digest: Digest
    metrics: dict[str, float | None]
    parent: bool = False
    """Whether the segment is a parent: in the order's file, both are a list of texts."""


def decode_recorded(content: bytes) -> list[Recorded]:
    """Return what was written of versions, each named as it was: a segment, or a parent."""
    found = msgspec.msgpack.decode(content, type=list[Recorded])
    return [msgspec.structs.replace(one, segment=Parent(one.segment)) if one.parent else one for one in found]


class Comparison(msgspec.Struct, frozen=True):
    """What became of one segment."""

    segment: str
    verdict: str
    array: str = ""
    """Where it differs most: an array of the weights, ``answers``, or a metric."""
    largest: float = 0.0
    """By how much, as a share of the larger number; infinite where shapes or kinds differ."""
    text: str = ""
    """Why it failed."""


def completed(comparisons: list[Comparison], asked: Iterable[Segment]) -> list[Comparison]:
    """Return the comparisons with those that never came, as failed: the modelmill of a lock may know less than this one."""
    missing = {format_segment(segment) for segment in asked} - {one.segment for one in comparisons}
    text = "the modelmill of its lock did not build it again"
    return comparisons + [Comparison(segment, FAILED, text=text) for segment in sorted(missing)]


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Some segments to fit again, in the order of the table, each with what was recorded of it."""

    steps: list[Step]
    recorded: list[Recorded]


def open_comparer(setup: Setup) -> Callable[[Again, Callable[[int], None]], list[Comparison]]:
    """Import the recorded file in this worker and return what fits and compares; `LocalCompute` calls this."""
    return Comparer(setup).work


class Comparer:
    """Fits segments again, and compares."""

    def __init__(self, setup: Setup) -> None:
        """Import the model file, map the table."""
        self.common, self._packs = Common(setup), dict[str, PackReader]()

    def work(self, task: Again, at: Callable[[int], None]) -> list[Comparison]:
        """Return a comparison for each step."""
        self.common.begin()
        if is_shared(task.steps[0].segment) or not isinstance(self.common.train.function, LinearTrain):
            return list(self._each(task.steps, task.recorded, at))
        found: list[Comparison] = []
        for first, steps in batches(task.steps):
            found += self._together(steps, task.recorded[first : first + len(steps)], at)
        return found

    def _each(self, steps: list[Step], recorded: list[Recorded], at: Callable[[int], None]) -> Iterator[Comparison]:
        place = 0
        for group in neighbours(steps):
            stretch = self.common.stretch(group)
            for step in group:
                at(place)
                fit = SegmentFit(self.common, step, stretch, place, [])
                yield self._one(fit, recorded[place])
                place += 1

    def _one(self, fit: SegmentFit, recorded: Recorded) -> Comparison:
        try:
            fit.fit()
            fit.predict()
            fit.evaluate()
            content = content_of(fit, recorded.format)
        except Exception as error:  # noqa: BLE001 - the border to user code: what it raises is this segment's failure
            failure = failure_of(recorded.segment, fit.stage, error, self.common.setup.root)
            return Comparison(
                format_segment(recorded.segment), FAILED, text=f"{failure.summary}  {failure.detail}".strip()
            )
        return self._compared(recorded, content, fit.found, fit.metrics)

    def _together(self, steps: list[Step], recorded: list[Recorded], at: Callable[[int], None]) -> Iterator[Comparison]:
        batch = Batch(self.common, steps, at)
        fitted = batch.try_out()
        if fitted:
            batch.save()
        for place, (step, known) in enumerate(zip(steps, recorded, strict=True)):
            if not fitted or batch.left[place]:
                yield from self._each([step], [known], lambda _, place=place: at(place))  # type: ignore[misc]
            else:
                metrics = {name: values[place] for name, values in batch.metrics.items()}
                yield self._compared(known, batch.contents[place], batch.found[batch.cuts[place]], metrics)

    # ---------------------------------------------------------------- comparing

    def _compared(
        self, recorded: Recorded, content: bytes, found: Any, metrics: Mapping[str, float | None]
    ) -> Comparison:
        segment = format_segment(recorded.segment)
        extras = msgspec.msgpack.decode(self._entry(recorded, recorded.extras, recorded.extras_digest))
        same_answers = extras.get("found") == digest_of_answers(found)
        if same_answers and digest_of(content) == recorded.artifact and not _metric_distances(recorded, metrics):
            return Comparison(segment, IDENTICAL)
        distances = _metric_distances(recorded, metrics)
        distances |= self._weight_distances(recorded, content)
        if not same_answers:
            golden = np.asarray(extras["answers"], dtype=np.float64)
            distances["answers"] = max(distance(golden, found[len(found) - len(golden) :]), math.ulp(0.0))
        if not distances:
            return Comparison(segment, IDENTICAL)
        array, largest = max(distances.items(), key=lambda item: item[1])
        return Comparison(segment, EQUAL if largest <= TOLERANCE else DIFFERENT, array, largest)

    def _weight_distances(self, recorded: Recorded, content: bytes) -> dict[str, float]:
        before = self._entry(recorded, recorded.place, recorded.artifact)
        some, others = arrays_of(recorded.format, before), arrays_of(recorded.format, content)
        found = {
            name: distance(some[name], others[name]) if name in some and name in others else math.inf
            for name in some.keys() | others.keys()
        }
        return {name: value for name, value in sorted(found.items()) if value > 0}

    def _entry(self, recorded: Recorded, place: tuple[int, int], digest: Digest) -> memoryview:
        if recorded.pack not in self._packs:
            self._packs[recorded.pack] = PackReader(memoryview(Path(recorded.pack).read_bytes()))
        return self._packs[recorded.pack].entry(*place, digest)


def content_of(fit: SegmentFit, form: str) -> bytes:
    """Return a fitted model as the bytes of a format; whether its packed answers are its own was proven at the build."""
    if form == PICKLE:
        return encode(fit.fitted).content
    common = fit.common
    programs, classes = common.programs(fit.stretch, fit.x), len(common.model.labels)
    if form == ONNX:
        return converting.convert(fit.fitted, fit.tested, classes, programs)[1]
    return pack(fit.fitted, fit.x.shape[1], classes, programs).encode()


def _metric_distances(recorded: Recorded, metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return which metrics differ and by how much; the pooled model's score is none of the segment's own."""
    found = {}
    for name, before in recorded.metrics.items():
        if name.endswith(":pooled"):
            continue
        now = metrics.get(name)
        if before is None or now is None:
            if before is not now:
                found[name] = math.inf
        elif before != now:
            found[name] = distance(np.float64(before), np.float64(now))
    return found


def distance(one: Any, other: Any) -> float:
    """Return the largest difference of two arrays' numbers, as a share of the larger of the two; 0 for equal bytes."""
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    if one.tobytes() == other.tobytes():
        return 0.0
    if one.dtype.names:
        return max(distance(one[name], other[name]) for name in one.dtype.names)
    if one.dtype.kind not in "fiub":
        return math.inf
    some, others = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(some - others) / np.maximum(np.abs(some), np.abs(others))
    differs = ~((some == others) | (np.isnan(some) & np.isnan(others)))
    return float(np.nan_to_num(relative[differs], nan=math.inf).max()) if differs.any() else 0.0


# ------------------------------------------------------------------ weights


def arrays_of(form: str, content: bytes | memoryview) -> dict[str, Any]:
    """Return the arrays of a model by their names."""
    if form == PACKED:
        model = packed.decode(content)
        parts = model.body._asdict() | (model.columns._asdict() if model.columns else {})
        return {name: np.asarray(value) for name, value in parts.items()} | {
            "programs": np.frombuffer(b"".join(model.programs), dtype=np.uint8)
        }
    if form == ONNX:
        header, ort = graph.split(content)
        told = {"programs": np.frombuffer(b"".join(header.programs), dtype=np.uint8)}
        return converting.arrays_of(ort) | told
    return dict(_walk(unpickle(content), "model", set()))


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the numbers and arrays inside of an object, each with the path to it."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        yield path, value
    elif is_tensor(value):
        yield path, value.detach().cpu().numpy()
    elif isinstance(value, bool | int | float | np.generic):
        yield path, np.asarray(value)
    elif isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        yield path, np.frombuffer(text, dtype=np.uint8)
    elif value is not None and id(value) not in seen:
        seen.add(id(value))
        for name, part in _parts(value):
            yield from _walk(part, f"{path}{name}", seen)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        yield from ((f"[{place}]", part) for place, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"{{{place}}}", part) for place, part in enumerate(sorted(value, key=repr)))
    elif not callable(value) or hasattr(value, "__getstate__"):
        state = value.__getstate__() if hasattr(value, "__getstate__") else None
        if isinstance(state, dict):
            yield from ((f".{name}", part) for name, part in state.items())
        elif isinstance(state, tuple | list):
            yield from ((f".state[{place}]", part) for place, part in enumerate(state))
