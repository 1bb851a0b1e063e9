"""In the worker: a chunk of segments becomes fitted models, tested, as one pack and the rows that describe it.

What can be done once for a chunk is: features (proven to be row by row first), the pooled model's answers, histograms.
What remains for a segment is the user's fit, one predict over its test rows, its laws, and the writing of its bytes.
The served model is the one fitted on the first rows of a segment and judged on its last ones.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.build.failing import failure_of, lost_failure
from modelmill.build.plan import Step
from modelmill.build.work import Chunk, ChunkResult, Compare, Pooled, Setup
from modelmill.compute.compute import OUTPUT_MB
from modelmill.data.build_table import BuildTable
from modelmill.data.histogram import count
from modelmill.errors import FeaturesNotRowWise, LawFailed, ModelReturned
from modelmill.model.artifact import LINEAR, Artifact, decode, encode
from modelmill.model.declaration import Model
from modelmill.model.fitted import Asker, Floats, answer, make_x, make_y, typical_row
from modelmill.model.loading import load_model_file
from modelmill.model.metrics import Metric, higher_is_better, metrics_for
from modelmill.model.roles import RoleFunction, Run
from modelmill.model.rows import Rows
from modelmill.names import POOLED, Digest, Segment, digest_of, format_segment
from modelmill.registry.change import Digests
from modelmill.registry.records import FailureRecord, VersionRecord
from modelmill.store.blobs import FolderBlobs
from modelmill.store.packs import PackWriter

GOLDEN_ROWS = 5
NOT_BETTER = "its own model is not better than the pooled one"
_SHOWN_OUTPUT = 300
ABREAST = 8
"""How many segments go through a stage together: measured, 8 save what 32 save, and few models are held at once."""
ABREAST_ROWS = 16_384
STAGES = ("fit", "predict", "judge", "save")

Numbers = NDArray[Any]


def open_fitter(setup: Setup) -> Callable[[Chunk | Compare, Callable[[int], None]], ChunkResult]:
    """Import the user's file in this worker and return what fits chunks; `LocalCompute` calls this once a worker."""
    return Fitter(setup).work


class Fitter:
    """Fits the segments of one model, chunk after chunk."""

    def __init__(self, setup: Setup) -> None:
        """Import the model file, map the table."""
        self.setup = setup
        self.model: Model = load_model_file(setup.file, setup.root).models[setup.model]
        self.table = BuildTable(setup.table, self.model.spec)
        self.tests: NDArray[np.bool_] = np.memmap(setup.tests, dtype=np.bool_, mode="r")
        self.blobs = FolderBlobs(setup.blobs)
        self.features = self.model.role("features")
        self.predict = self.model.role("predict")
        self.reads_rows = self.predict is not None and "rows" in self.predict.asks
        """Whether predict() asks for the rows: only then are they picked."""
        self.train: RoleFunction = self.model.role("train")  # type: ignore[assignment]  # loading checked it
        self.metrics = _metrics_of(self.model)
        self.pooled: Any = None
        self.user_s = 0.0

    def work(self, task: Chunk | Compare, at: Callable[[int], None]) -> ChunkResult:
        """Do one task: fit a chunk, or compare one that is fitted."""
        return self.fit_chunk(task, at) if isinstance(task, Chunk) else self.compare(task)

    # ---------------------------------------------------------------- a chunk

    def fit_chunk(self, chunk: Chunk, at: Callable[[int], None]) -> ChunkResult:
        """Build the segments of a chunk; what fails is returned beside what was built."""
        began, self.user_s = time.perf_counter(), 0.0
        self._open_pooled(chunk.pooled)
        versions: list[VersionRecord] = []
        failures: list[FailureRecord] = []
        with PackWriter(self.blobs.scratch) as pack:
            for built in self._fit_all(chunk.steps, pack, at):
                if isinstance(built, VersionRecord):
                    versions.append(built)
                else:
                    failures.append(built)
            digest, size = self._keep(pack) if versions else self._drop(pack)
        return ChunkResult(
            pack=digest,
            pack_bytes=size,
            versions=versions,
            failures=failures,
            seconds=time.perf_counter() - began,
            user_s=self.user_s,
        )

    def compare(self, task: Compare) -> ChunkResult:
        """Return the result of a chunk with the pooled model's score beside that of every version."""
        began, self.user_s = time.perf_counter(), 0.0
        self._open_pooled(task.pooled)
        scores = dict(self._pooled_scores(task.chunk.steps))
        name = self.model.metrics[0]
        result = task.result
        return msgspec.structs.replace(
            result,
            versions=[
                beside_pooled(version, name, scores[version.segment]) if version.segment in scores else version
                for version in result.versions
            ],
            seconds=result.seconds + time.perf_counter() - began,
            user_s=result.user_s + self.user_s,
        )

    def _pooled_scores(self, steps: list[Step]) -> Iterator[tuple[Segment, float | None]]:
        for group in neighbours(steps):
            start, end = group[0].start, group[-1].start + group[-1].rows
            stretch = _Stretch(self, self.table.rows(start, end), start)
            for step in group if stretch.pooled is not None else ():
                segment = _Segment(self, step, stretch, 0, [])
                segment.y = make_y(self.model.spec, segment.rows)
                yield step.segment, segment.pooled_score()

    def _open_pooled(self, pooled: Pooled | None) -> None:
        if pooled and self.pooled is None:
            form, path = pooled
            self.pooled = decode(form, path.read_bytes())

    def _keep(self, pack: PackWriter) -> tuple[Digest, int]:
        path = pack.finish()
        size = path.stat().st_size
        return self.blobs.put_file(path), size

    @staticmethod
    def _drop(pack: PackWriter) -> tuple[None, int]:
        pack.abandon()
        return None, 0

    def _fit_all(
        self, steps: list[Step], pack: PackWriter, at: Callable[[int], None]
    ) -> Iterator[VersionRecord | FailureRecord]:
        place = 0
        for group in neighbours(steps):
            start, end = group[0].start, group[-1].start + group[-1].rows
            stretch = _Stretch(self, self.table.rows(start, end), start)
            histograms = count(self.setup.bins, stretch.rows, np.array([step.rows for step in group]))
            segments = (
                _Segment(self, step, stretch, place + inside, [h[inside].tobytes() for h in histograms])
                for inside, step in enumerate(group)
            )
            for some in abreast(segments):
                yield from self._fit_abreast(some, pack, at)
            place += len(group)
            # Between groups, and while the pack is put away, no segment is to blame.
            at(-1)

    def _fit_abreast(
        self, some: list[_Segment], pack: PackWriter, at: Callable[[int], None]
    ) -> Iterator[VersionRecord | FailureRecord]:
        """Take a few segments through the stages together: what a stage runs is then warm for all but the first."""
        for stage in STAGES:
            for segment in some:
                if segment.failure is None:
                    at(segment.place)
                    segment.failure = self._fail_at(stage, segment)
        for segment in some:
            yield segment.failure or segment.record(pack)

    def _fail_at(self, stage: str, segment: _Segment) -> FailureRecord | None:
        """Run one stage of a segment; return its failure, if it fails."""
        try:
            segment.reseed()
            getattr(segment, stage)()
            # The builder looks at the output now and then: whoever was faster than its look fails as well.
            return _too_loud(segment.step.segment)
        except Exception as error:  # noqa: BLE001 - the border to user code: anything it raises is this segment's failure
            return failure_of(segment.step.segment, segment.stage, error, self.setup.root, _drain_output())
        finally:
            _drain_output()

    # ---------------------------------------------------------------- what a segment needs

    def timed(self, function: Callable[[], Any]) -> Any:
        """Call user code and count its seconds as the user's."""
        began = time.perf_counter()
        try:
            return function()
        finally:
            self.user_s += time.perf_counter() - began

    def answers(self, fitted: Any, x: Floats, rows: Rows, segment: Segment) -> Floats:
        """Return the answers of a fitted object."""
        return answer(fitted, self.predict, len(self.model.labels), x, rows, segment)


class _Stretch:
    """Neighbouring rows of the table, with the features and the pooled answers that all its segments share."""

    def __init__(self, fitter: Fitter, rows: Rows, start: int) -> None:
        self.fitter, self.rows, self.start = fitter, rows, start
        self.x = self._features()
        self.pooled = self._pooled_answers()

    def _features(self) -> Floats | None:
        """Return the features of all rows at once, or None where that fails: then each segment tells its own."""
        fitter = self.fitter
        try:
            x: Floats = fitter.timed(lambda: make_x(fitter.features, fitter.model.spec, self.rows))
        except Exception:  # noqa: BLE001 - it fails again for the segment that causes it, and is told there
            return None
        if fitter.features is not None:
            check_row_wise(fitter.features, fitter.model, self.rows, x)
        return x

    def _pooled_answers(self) -> Floats | None:
        if self.fitter.pooled is None or self.x is None:
            return None
        try:
            return self.fitter.answers(self.fitter.pooled, self.x, self.rows, POOLED)
        except Exception:  # noqa: BLE001 - without its answers each segment simply has nothing to be compared with
            return None


def check_row_wise(role: RoleFunction, model: Model, rows: Rows, x: Floats) -> None:
    """Refuse features that depend on the rows around: alone, as in a request, a row would have others."""
    if not len(rows):
        return
    for place in {0, len(rows) // 2, len(rows) - 1}:
        try:
            alone = make_x(role, model.spec, rows.take(slice(place, place + 1)))[0]
        except Exception as error:
            raise _not_row_wise(role, f"{type(error).__name__}: {error}", x[place]) from error
        if alone.shape != x[place].shape or not np.allclose(alone, x[place], rtol=1e-9, atol=1e-9, equal_nan=True):
            raise _not_row_wise(role, str(alone[:6].tolist()), x[place])


def _not_row_wise(role: RoleFunction, alone: str, among: Floats) -> FeaturesNotRowWise:
    return FeaturesNotRowWise(
        "the features of a row depend on the rows around it",
        where=role.where,
        expected=f"alone: {alone[:200]}",
        got=f"among others: {among[:6].tolist()}",
        next="compute means, scales and ranks in train(), and keep them in the model",
    )


class _Segment:
    """The building of one segment, stage by stage."""

    x: Floats
    y: Numbers
    fitted: Any
    found: Floats
    """The answers to the test rows."""
    metrics: dict[str, float | None]
    artifact: Artifact
    extras: bytes

    def __init__(self, fitter: Fitter, step: Step, stretch: _Stretch, place: int, histograms: list[bytes]) -> None:
        self.fitter, self.step, self.stretch, self.place = fitter, step, stretch, place
        self.histograms = histograms
        self.begin = step.start - stretch.start
        self.rows = stretch.rows.take(slice(self.begin, self.begin + step.rows))
        self.test, self.training = self._split()
        self.seed = seed_of(fitter.model.seed, step.segment)
        self.failure: FailureRecord | None = None
        self.stage = "features"
        """What a failure is blamed on."""

    def reseed(self) -> None:
        """Seed the global generators, from which the user's code may draw, whatever ran before."""
        np.random.seed(self.seed)  # noqa: NPY002 - see above
        random.seed(self.seed)

    def fit(self) -> None:
        self.x, self.y = self._x(), make_y(self.fitter.model.spec, self.rows)
        self.stage = "train"
        self.fitted = self._fit()

    def predict(self) -> None:
        self.stage = "predict"
        fitter, x = self.fitter, self.x[self.test]
        rows = self.rows.take(self.test) if fitter.reads_rows else self.rows
        self.found = fitter.timed(lambda: fitter.answers(self.fitted, x, rows, self.step.segment))

    def judge(self) -> None:
        self.stage = "test"
        self.metrics = self._evaluate()
        self.stage = "law"
        self._ask_laws()

    def save(self) -> None:
        self.stage = "save"
        fitter = self.fitter
        self.artifact = encode(self.fitted, plain_predict=fitter.predict is None and fitter.features is None)
        self.extras = self._extras()

    def _x(self) -> Floats:
        if self.stretch.x is not None:
            return self.stretch.x[self.begin : self.begin + self.step.rows]
        fitter = self.fitter
        x: Floats = fitter.timed(lambda: make_x(fitter.features, fitter.model.spec, self.rows))
        return x

    def _split(self) -> tuple[Any, Any]:
        """Return which rows test and which train: of one segment the last, of the pooled model the last of each."""
        if self.step.segment == POOLED:
            test = self.fitter.tests[self.step.start : self.step.start + self.step.rows]
            return np.flatnonzero(test), np.flatnonzero(~test)
        kept = self.step.rows - tests_of(self.step.rows, self.fitter.model.test_share)
        return slice(kept, self.step.rows), slice(0, kept)

    def _fit(self) -> Any:
        fitter, segment = self.fitter, self.step.segment
        asked = fitter.train.asks
        available = {"x": self.x[self.training], "y": self.y[self.training], "segment": segment, "seed": self.seed}
        if "rows" in asked:
            available["rows"] = self.rows.take(self.training)
        if "run" in asked:
            available["run"] = Run(self.seed, segment)
        fitted = fitter.timed(lambda: fitter.train.call(available, fitter.setup.parameters))
        if fitted is None:
            raise ModelReturned("train() returned None", where=fitter.train.where, next="return the fitted model")
        return fitted

    def _evaluate(self) -> dict[str, float | None]:
        truth, found, metrics = self.y[self.test], self.found, self.fitter.metrics
        values = {name: _finite(metric(truth, found)) for name, metric in metrics.items()}
        score = self.fitter.model.metrics[0]
        values[f"{score}:mean"] = _finite(metrics[score](truth, _baseline(self.y[self.training], found)))
        return values

    def pooled_score(self) -> float | None:
        """Return the score of the pooled model on this segment's test rows."""
        assert self.stretch.pooled is not None  # noqa: S101 - the caller has looked
        answers = self.stretch.pooled[self.begin : self.begin + self.step.rows][self.test]
        return _finite(self.fitter.metrics[self.fitter.model.metrics[0]](self.y[self.test], answers))

    def _ask_laws(self) -> None:
        fitter, model = self.fitter, self.fitter.model
        if not model.laws:
            return
        typical = typical_row(model.spec, self.rows)
        ask = Asker(model.spec, model.labels, fitter.features, fitter.predict, self.fitted, self.step.segment, typical)
        for name, law in model.laws.items():
            try:
                fitter.timed(lambda law=law: law.call({"ask": ask}))  # type: ignore[misc]
            except AssertionError as error:
                raise LawFailed(f"law failed: {name}", where=law.where, got=str(error)[:200]) from error

    def _extras(self) -> bytes:
        golden = self.rows.take(_last(self.test, GOLDEN_ROWS))
        columns = {name: _plain_list(golden[name]) for name in golden}
        answers = self.found[-GOLDEN_ROWS:].tolist()
        return msgspec.msgpack.encode({"rows": columns, "answers": answers, "histograms": self.histograms})

    def record(self, pack: PackWriter) -> VersionRecord:
        """Put the bytes into the pack and return the row that describes them."""
        artifact, extras, metrics = self.artifact, self.extras, self.metrics
        place, more = pack.add(artifact.content), pack.add(extras)
        setup, step, score = self.fitter.setup, self.step, self.fitter.model.metrics[0]
        version = VersionRecord(
            segment=step.segment,
            artifact=digest_of(artifact.content),
            offset=place.offset,
            length=place.length,
            identity=Digests(setup.code, step.data, setup.recipe).identity,
            data=step.data,
            format=artifact.format,
            runtime="linear" if artifact.format == LINEAR else "python",
            rows=step.rows,
            test_rows=len(self.found),
            score=metrics[score],
            metrics=metrics,
            extras=digest_of(extras),
            extras_offset=more.offset,
            extras_length=more.length,
        )
        compared = self.stretch.pooled is not None and step.segment != POOLED
        return beside_pooled(version, score, self.pooled_score()) if compared else version


def beside_pooled(version: VersionRecord, score: str, pooled: float | None) -> VersionRecord:
    """Return a version with the pooled model's score on the same rows, and who therefore answers for the segment."""
    better = _is_better(score, version.score, pooled)
    return msgspec.structs.replace(
        version,
        metrics={**version.metrics, f"{score}:pooled": pooled},
        state="own" if better else "pooled",
        why="" if better else NOT_BETTER,
    )


def abreast(segments: Iterable[_Segment]) -> Iterator[list[_Segment]]:
    """Yield the few segments that go through the stages together; large ones, with large models, go alone."""
    some: list[_Segment] = []
    rows = 0
    for segment in segments:
        if some and (len(some) == ABREAST or rows + segment.step.rows > ABREAST_ROWS):
            yield some
            some, rows = [], 0
        some.append(segment)
        rows += segment.step.rows
    if some:
        yield some


def neighbours(steps: list[Step]) -> Iterator[list[Step]]:
    """Yield the steps in groups whose rows lie side by side in the table."""
    group: list[Step] = []
    for step in steps:
        if group and group[-1].start + group[-1].rows != step.start:
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _last(which: Any, count: int) -> Any:
    """Return the last of some rows, as a slice where they are one: a slice copies nothing."""
    return slice(max(which.start, which.stop - count), which.stop) if isinstance(which, slice) else which[-count:]


def tests_of(rows: int, share: float) -> int:
    """Return how many of a segment's last rows test: the share, rounded, at least one."""
    return max(1, round(rows * share))


def seed_of(seed: int, segment: Segment) -> int:
    """Return the seed of one segment's fit: the same whatever chunk, worker or order it is built in."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{format_segment(segment)}".encode()).digest()[:4])


def _metrics_of(model: Model) -> dict[str, Metric]:
    known = metrics_for(model.task)
    own = {name: role.function for name, role in model.own_metrics.items()}
    return {name: {**known, **own}[name] for name in (*model.metrics, *own)}


def _baseline(y: Numbers, found: Floats) -> Floats:
    """Return what the mean of the training rows would answer: their mean, or the share of each class."""
    if found.ndim == 1:
        return np.full(len(found), y.mean())
    shares = np.bincount(y.astype(np.int64), minlength=found.shape[1]) / len(y)
    return np.tile(shares, (len(found), 1))


def _is_better(score: str, own: float | None, pooled: float | None) -> bool:
    if pooled is None:
        return True
    if own is None:
        return False
    return own > pooled if higher_is_better(score) else own < pooled


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain_list(values: Numbers) -> list[Any]:
    return [str(v) for v in values] if values.dtype.kind == "M" else values.tolist()


def _too_loud(segment: Segment) -> FailureRecord | None:
    """Return a failure where user code printed more than a segment may."""
    sys.stdout.flush()
    if os.fstat(1).st_size <= OUTPUT_MB << 20:
        return None
    return lost_failure(segment, "output", f"it printed more than {OUTPUT_MB} MB")


def _drain_output() -> str:
    """Return the beginning of what user code printed and forget the rest."""
    sys.stdout.flush()
    size = os.fstat(1).st_size
    if not size:
        return ""
    shown = os.pread(1, _SHOWN_OUTPUT, 0).decode("utf-8", "replace")
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
    return shown


def write_tests(path: Path, rows: NDArray[np.int64], share: float) -> None:
    """Write which rows of the table test, one byte each: the last ones of every segment."""
    marks = np.zeros(int(rows.sum()), dtype=np.bool_)
    end = 0
    for length in rows.tolist():
        end += length
        if length:
            marks[end - tests_of(length, share) : end] = True
    path.write_bytes(marks.tobytes())
