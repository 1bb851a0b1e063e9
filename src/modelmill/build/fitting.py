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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.build.failing import failure_of, lost_failure
from modelmill.build.plan import Step
from modelmill.build.work import Chunk, ChunkResult, Setup
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

Numbers = NDArray[Any]


def open_fitter(setup: Setup) -> Callable[[Chunk, Callable[[int], None]], ChunkResult]:
    """Import the user's file in this worker and return what fits chunks; `LocalCompute` calls this once a worker."""
    return Fitter(setup).fit_chunk


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

    # ---------------------------------------------------------------- a chunk

    def fit_chunk(self, chunk: Chunk, at: Callable[[int], None]) -> ChunkResult:
        """Build the segments of a chunk; what fails is returned beside what was built."""
        began, self.user_s = time.perf_counter(), 0.0
        if chunk.pooled and self.pooled is None:
            form, path = chunk.pooled
            self.pooled = decode(form, path.read_bytes())
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
            for inside, step in enumerate(group):
                at(place)
                place += 1
                yield self._fit_or_fail(step, stretch, [h[inside].tobytes() for h in histograms], pack)
            # Between groups, and while the pack is put away, no segment is to blame.
            at(-1)

    def _fit_or_fail(
        self, step: Step, stretch: _Stretch, histograms: list[bytes], pack: PackWriter
    ) -> VersionRecord | FailureRecord:
        segment = _Segment(self, step, stretch)
        try:
            built = segment.build(histograms, pack)
            # The builder looks at the output now and then: whoever was faster than its look fails as well.
            return _too_loud(step.segment) or built
        except Exception as error:  # noqa: BLE001 - the border to user code: anything it raises is this segment's failure
            return failure_of(step.segment, segment.stage, error, self.setup.root, _drain_output())
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
    """The building of one segment, told stage by stage."""

    def __init__(self, fitter: Fitter, step: Step, stretch: _Stretch) -> None:
        self.fitter, self.step, self.stretch = fitter, step, stretch
        self.stage = "features"
        self.begin = step.start - stretch.start
        self.rows = stretch.rows.take(slice(self.begin, self.begin + step.rows))

    def build(self, histograms: list[bytes], pack: PackWriter) -> VersionRecord:
        fitter, model = self.fitter, self.fitter.model
        x = self._x()
        y = make_y(model.spec, self.rows)
        test, train = self._split()
        self.stage = "train"
        fitted = self._fit(x, y, train)
        self.stage = "predict"
        tested = self.rows.take(test) if fitter.reads_rows else self.rows
        found: Floats = fitter.timed(lambda: fitter.answers(fitted, x[test], tested, self.step.segment))
        self.stage = "test"
        metrics = self._evaluate(y, found, test, train)
        self.stage = "law"
        self._ask_laws(fitted)
        self.stage = "save"
        artifact = encode(fitted, plain_predict=fitter.predict is None and fitter.features is None)
        extras = self._extras(test, found, histograms)
        return self._record(artifact, extras, metrics, pack, len(found))

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
        return slice(kept, None), slice(0, kept)

    def _fit(self, x: Floats, y: Numbers, train: Any) -> Any:
        fitter, segment = self.fitter, self.step.segment
        seed = seed_of(fitter.model.seed, segment)
        np.random.seed(seed)  # noqa: NPY002 - the user's code may draw from the global generator
        random.seed(seed)
        asked = fitter.train.asks
        available = {"x": x[train], "y": y[train], "segment": segment, "seed": seed}
        if "rows" in asked:
            available["rows"] = self.rows.take(train)
        if "run" in asked:
            available["run"] = Run(seed, segment)
        fitted = fitter.timed(lambda: fitter.train.call(available, fitter.setup.parameters))
        if fitted is None:
            raise ModelReturned("train() returned None", where=fitter.train.where, next="return the fitted model")
        return fitted

    def _evaluate(self, y: Numbers, found: Floats, test: Any, train: Any) -> dict[str, float | None]:
        truth = y[test]
        values = {name: _finite(metric(truth, found)) for name, metric in self.fitter.metrics.items()}
        score = self.fitter.model.metrics[0]
        metric = self.fitter.metrics[score]
        values[f"{score}:mean"] = _finite(metric(truth, _baseline(y[train], found)))
        if self.stretch.pooled is not None and self.step.segment != POOLED:
            pooled = self.stretch.pooled[self.begin : self.begin + self.step.rows][test]
            values[f"{score}:pooled"] = _finite(metric(truth, pooled))
        return values

    def _ask_laws(self, fitted: Any) -> None:
        fitter, model = self.fitter, self.fitter.model
        if not model.laws:
            return
        typical = typical_row(model.spec, self.rows)
        ask = Asker(model.spec, model.labels, fitter.features, fitter.predict, fitted, self.step.segment, typical)
        for name, law in model.laws.items():
            try:
                fitter.timed(lambda law=law: law.call({"ask": ask}))  # type: ignore[misc]
            except AssertionError as error:
                raise LawFailed(f"law failed: {name}", where=law.where, got=str(error)[:200]) from error

    def _extras(self, test: Any, found: Floats, histograms: list[bytes]) -> bytes:
        golden = self.rows.take(np.arange(len(self.rows))[test][-GOLDEN_ROWS:])
        columns = {name: _plain_list(golden[name]) for name in golden}
        answers = found[-GOLDEN_ROWS:].tolist()
        return msgspec.msgpack.encode({"rows": columns, "answers": answers, "histograms": histograms})

    def _record(
        self, artifact: Artifact, extras: bytes, metrics: dict[str, float | None], pack: PackWriter, test_rows: int
    ) -> VersionRecord:
        place, more = pack.add(artifact.content), pack.add(extras)
        setup, step, score = self.fitter.setup, self.step, self.fitter.model.metrics[0]
        better = _is_better(score, metrics[score], metrics.get(f"{score}:pooled"))
        return VersionRecord(
            segment=step.segment,
            artifact=digest_of(artifact.content),
            offset=place.offset,
            length=place.length,
            identity=Digests(setup.code, step.data, setup.recipe).identity,
            data=step.data,
            format=artifact.format,
            runtime="linear" if artifact.format == LINEAR else "python",
            rows=step.rows,
            test_rows=test_rows,
            score=metrics[score],
            metrics=metrics,
            state="own" if better else "pooled",
            why="" if better else NOT_BETTER,
            extras=digest_of(extras),
            extras_offset=more.offset,
            extras_length=more.length,
        )


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
