"""One segment in a worker: its features, fit, test, laws and bytes, stage by stage.

The served model is the one fitted on the first rows of a segment and judged on its last ones. `check` takes one segment
through the same stages, and records nothing.
"""

from __future__ import annotations

import hashlib
import math
import random
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.converting import convert
from modelmill.artifact.networks import as_model
from modelmill.artifact.optimising import Unconvertible
from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import ONNX, PACKED, RUNTIMES, Artifact, decode, encode
from modelmill.artifact.tracing import Program, Untraceable, trace_features, trace_predict
from modelmill.artifact.unpackable import Unpackable
from modelmill.build.levels import places_of
from modelmill.build.plan import Step
from modelmill.build.work import Pooled, Setup
from modelmill.data.build_table import BuildTable
from modelmill.errors import FeaturesNotRowWise, LawFailed, ModelReturned
from modelmill.model.declaration import Model
from modelmill.model.fitted import Asker, Floats, answer, as_matrix, make_x, make_y, typical_row
from modelmill.model.loading import load_model_file
from modelmill.model.metrics import Metric, higher_is_better, metrics_for
from modelmill.model.roles import RoleFunction, Run
from modelmill.model.rows import Rows
from modelmill.names import POOLED, Parent, Segment, digest_of, format_segment, is_shared
from modelmill.registry.change import Digests
from modelmill.registry.fleet import NOT_BETTER
from modelmill.registry.records import FailureRecord, VersionRecord
from modelmill.store.packs import PackWriter

GOLDEN_ROWS = 5
PROVEN_ROWS = 4096
"""On how many rows, at most, a traced function is compared with itself in each chunk."""

Numbers = NDArray[Any]


class Common:
    """What all segments of a build share in a worker: the file's functions, the table, the pooled model, a clock."""

    def __init__(self, setup: Setup) -> None:
        """Import the model file, map the table."""
        self.setup = setup
        self.model: Model = load_model_file(setup.file, setup.root).models[setup.model]
        self.table = BuildTable(setup.table, self.model.spec)
        self.tests: NDArray[np.bool_] = np.memmap(setup.tests, dtype=np.bool_, mode="r")
        self.features = self.model.role("features")
        self.predict = self.model.role("predict")
        self.reads_rows = self.predict is not None and "rows" in self.predict.asks
        """Whether predict() asks for the rows: only then are they picked."""
        self.train: RoleFunction = self.model.role("train")  # type: ignore[assignment]  # loading checked it
        self.metrics = metrics_of(self.model)
        self.pooled: Any = None
        self.user_s = 0.0
        self.row_wise = False
        """Whether the features were proven to be row by row; once a chunk, since three rows asked alone take a while."""
        self._programs: Programs | Unpackable | None = None

    def begin(self) -> None:
        """Begin a chunk: what is proven once a chunk is to be proven again."""
        self.user_s, self.row_wise, self._programs = 0.0, False, None

    def open_pooled(self, pooled: Pooled | None) -> None:
        """Open the pooled model, the first time that there is one."""
        if pooled and self.pooled is None:
            form, path = pooled
            self.pooled = decode(form, path.read_bytes())

    def programs(self, stretch: Stretch, x: Floats) -> Programs:
        """Return the user's functions as programs; they are traced once a chunk. Raises `Unpackable`."""
        if self._programs is None:
            try:
                self._programs = Programs(self._traced_features(stretch), self._traced_predict(x))
            except Unpackable as error:
                self._programs = error
        if isinstance(self._programs, Unpackable):
            raise self._programs
        return self._programs

    def _traced_features(self, stretch: Stretch) -> bytes:
        if self.features is None:
            return b""
        rows = stretch.rows.take(slice(0, PROVEN_ROWS))
        program = _traced(self.features, lambda role: trace_features(role, rows))
        if stretch.x is None or not _same(as_matrix(program.run(rows)), stretch.x[: len(rows)]):
            raise Unpackable("@features, whose program gives other features")
        return program.encode()

    def _traced_predict(self, x: Floats) -> bytes:
        if self.predict is None:
            return b""
        classes = len(self.model.labels)
        return _traced(self.predict, lambda role: trace_predict(role, x[:PROVEN_ROWS], classes)).encode()

    def stretch(self, steps: list[Step]) -> Stretch:
        """Return the rows of steps that lie side by side."""
        if isinstance(parent := steps[0].segment, Parent):
            return self._stretch_of_parent(parent)
        start, end = steps[0].start, steps[-1].start + steps[-1].rows
        return Stretch(self, self.table.rows(start, end), start, self.tests[start:end])

    def _stretch_of_parent(self, parent: Parent) -> Stretch:
        rows = self.table.rows(0, len(self.tests))
        which = places_of(rows, {column.name: column for column in self.model.spec.keys}, parent)
        return Stretch(self, rows.take(which), 0, self.tests[which])

    def stretch_of(self, steps: list[Step]) -> tuple[Stretch, NDArray[np.bool_]]:
        """Return the rows of steps wherever they lie, one step after the other, and which of them test."""
        if all(one.start + one.rows == next_.start for one, next_ in pairwise(steps)):
            return self.stretch(steps), self.tests[steps[0].start : steps[-1].start + steps[-1].rows]
        which = np.concatenate([np.arange(step.start, step.start + step.rows) for step in steps])
        tests = self.tests[which]
        return Stretch(self, self.table.rows(0, int(which.max()) + 1).take(which), 0, tests), tests

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


class Stretch:
    """Neighbouring rows of the table, with the features and the pooled answers that all its segments share."""

    def __init__(self, common: Common, rows: Rows, start: int, tests: NDArray[np.bool_]) -> None:
        self.common, self.rows, self.start, self.tests = common, rows, start, tests
        self.x = self._features()
        self.pooled = self._pooled_answers()

    def _features(self) -> Floats | None:
        """Return the features of all rows at once, or None where that fails: then each segment tells its own."""
        common = self.common
        try:
            x: Floats = common.timed(lambda: make_x(common.features, common.model.spec, self.rows))
        except Exception:  # noqa: BLE001 - it fails again for the segment that causes it, and is told there
            return None
        if common.features is not None and not common.row_wise:
            check_row_wise(common.features, common.model, self.rows, x)
            common.row_wise = True
        return x

    def _pooled_answers(self) -> Floats | None:
        if self.common.pooled is None or self.x is None:
            return None
        try:
            return self.common.answers(self.common.pooled, self.x, self.rows, POOLED)
        except Exception:  # noqa: BLE001 - without its answers each segment simply has nothing to be compared with
            return None


class SegmentFit:
    """The building of one segment, stage by stage; what a stage raises is the segment's failure."""

    x: Floats
    y: Numbers
    fitted: Any
    found: Floats
    """The answers to the test rows."""
    metrics: dict[str, float | None]
    artifact: Artifact
    runtime_why: str
    """Why it is not packed; empty where it is."""
    extras: bytes

    def __init__(self, common: Common, step: Step, stretch: Stretch, place: int, histograms: list[bytes]) -> None:
        self.common, self.step, self.stretch, self.place = common, step, stretch, place
        self.histograms = histograms
        self.begin = step.start - stretch.start
        self.rows = stretch.rows.take(slice(self.begin, self.begin + step.rows))
        self.test, self.training = self._split()
        self.seed = seed_of(common.model.seed, step.segment)
        self.told: Segment = tuple(step.segment)
        """The segment as the user's functions see it: plain texts, of a parent ``("carrier=UA",)``."""
        self.failure: FailureRecord | None = None
        self.stage = "features"
        """What a failure is blamed on."""

    def _reseed(self) -> None:
        reseed(self.seed)

    def fit(self) -> None:
        """Make the features and call the user's train()."""
        self._reseed()
        self.x, self.y = self._x(), make_y(self.common.model.spec, self.rows)
        self.stage = "train"
        self.fitted = self._fit()

    def predict(self) -> None:
        """Answer the test rows."""
        self._reseed()
        self.stage = "predict"
        common, x = self.common, self.tested
        rows = self.rows.take(self.test) if common.reads_rows else self.rows
        self.found = common.timed(lambda: common.answers(self.fitted, x, rows, self.told))

    def judge(self) -> None:
        """Compare the answers with the truth, and ask the laws."""
        self.evaluate()
        self.ask_laws()

    def save(self) -> None:
        """Turn the fitted object, its golden rows and its histograms into bytes."""
        self.stage = "save"
        self.artifact, self.runtime_why = self._artifact()
        self.extras = self._extras()

    def _artifact(self) -> tuple[Artifact, str]:
        """Return the model as plain arrays, where it is one that can be, and proves to give the same answers.

        Where not, it is a graph on the same terms; where that cannot be either, it is pickled. Why is said.
        """
        common, tests = self.common, self.tested
        try:
            programs = common.programs(self.stretch, self.x)
        except Unpackable as error:
            return encode(self.fitted), f"it has {error}"
        why = "its packed answers differ from its own"
        try:
            model = pack(self.fitted, self.x.shape[1], len(common.model.labels), programs)
            if model.agrees(tests, self.found):
                return Artifact(PACKED, model.encode()), ""
        except Unpackable as error:
            why = f"it has {error}"
        except Exception as error:  # noqa: BLE001 - a library may keep its numbers otherwise than we know
            why = f"packing failed: {type(error).__name__}: {error}"[:200]
        return self._graph(programs, tests, why)

    def _graph(self, programs: Programs, tests: Floats, why: str) -> tuple[Artifact, str]:
        """Return a model that is not packed, and why, as a graph that proves to give the same answers, else pickled."""
        try:
            graph, content = convert(self.fitted, tests, len(self.common.model.labels), programs)
            if graph.agrees(tests, self.found):
                return Artifact(ONNX, content), why
            not_graph = "its answers as a graph differ from its own"
        except Unconvertible as error:
            not_graph = str(error)
        except Exception as error:  # noqa: BLE001 - as above
            not_graph = f"writing it as a graph failed: {type(error).__name__}"
        return encode(self.fitted), f"{why}; no graph, {not_graph}" if not_graph else why

    @property
    def tested(self) -> Floats:
        """Return the features of the test rows."""
        picked: Floats = _picked(self.x, self.test)
        return picked

    def _x(self) -> Floats:
        if self.stretch.x is not None:
            return self.stretch.x[self.begin : self.begin + self.step.rows]
        common = self.common
        x: Floats = common.timed(lambda: make_x(common.features, common.model.spec, self.rows))
        return x

    def _split(self) -> tuple[Any, Any]:
        """Return which rows test and which train: of one segment the last, of several segments the last of each."""
        if is_shared(self.step.segment):
            test = self.stretch.tests[self.begin : self.begin + self.step.rows]
            return np.flatnonzero(test), np.flatnonzero(~test)
        kept = self.step.rows - tests_of(self.step.rows, self.common.model.test_share)
        return slice(kept, self.step.rows), slice(0, kept)

    def _fit(self) -> Any:
        common, segment = self.common, self.told
        asked = common.train.asks
        available = {
            "x": _picked(self.x, self.training),
            "y": _picked(self.y, self.training),
            "segment": segment,
            "seed": self.seed,
        }
        if "rows" in asked:
            available["rows"] = self.rows.take(self.training)
        if "run" in asked:
            available["run"] = Run(self.seed, segment)
        fitted = common.timed(lambda: common.train.call(available, common.setup.parameters))
        if fitted is None:
            raise ModelReturned("train() returned None", where=common.train.where, next="return the fitted model")
        return as_model(fitted, len(common.model.labels))

    def evaluate(self) -> None:
        """Compute the metrics, and the score of answering with the mean of the training rows."""
        self._reseed()
        self.stage = "test"
        truth, found, metrics = _picked(self.y, self.test), self.found, self.common.metrics
        values = {name: finite(metric(truth, found)) for name, metric in metrics.items()}
        score = self.common.model.metrics[0]
        values[f"{score}:mean"] = finite(metrics[score](truth, mean_answers(_picked(self.y, self.training), found)))
        self.metrics = values

    def pooled_score(self) -> float | None:
        """Return the score of the pooled model on this segment's test rows."""
        assert self.stretch.pooled is not None  # noqa: S101 - the caller has looked
        answers = self.stretch.pooled[self.begin : self.begin + self.step.rows][self.test]
        return finite(self.common.metrics[self.common.model.metrics[0]](_picked(self.y, self.test), answers))

    def ask_laws(self) -> None:
        """Ask every law; raises `LawFailed` for the first that does not hold."""
        self.stage = "law"
        common, model = self.common, self.common.model
        if not model.laws:
            return
        typical = typical_row(model.spec, self.rows)
        ask = Asker(model.spec, model.labels, common.features, common.predict, self.fitted, self.told, typical)
        for name, law in model.laws.items():
            try:
                common.timed(lambda law=law: law.call({"ask": ask}))  # type: ignore[misc]
            except AssertionError as error:
                raise LawFailed(f"law failed: {name}", where=law.where, got=str(error)[:200]) from error

    def _extras(self) -> bytes:
        golden = self.rows.take(_last(self.test, GOLDEN_ROWS))
        columns = {name: plain_list(golden[name]) for name in golden}
        answers = self.found[-GOLDEN_ROWS:].tolist()
        extras = {
            "rows": columns,
            "answers": answers,
            "histograms": self.histograms,
            "found": digest_of_answers(self.found),
        }
        return msgspec.msgpack.encode(extras)

    def record(self, pack: PackWriter) -> VersionRecord:
        """Put the bytes into the pack and return the row that describes them."""
        artifact, extras, metrics = self.artifact, self.extras, self.metrics
        place, more = pack.add(artifact.content), pack.add(extras)
        setup, step, score = self.common.setup, self.step, self.common.model.metrics[0]
        version = VersionRecord(
            segment=step.segment,
            artifact=digest_of(artifact.content),
            offset=place.offset,
            length=place.length,
            identity=Digests(setup.code, step.data, setup.recipe).identity,
            data=step.data,
            format=artifact.format,
            runtime=RUNTIMES[artifact.format],
            runtime_why=self.runtime_why,
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


def who_answers(score: str, own: float | None, pooled: float | None) -> tuple[str, str]:
    """Return a version's state and its reason, given its own score and the pooled model's on the same rows."""
    return ("own", "") if _is_better(score, own, pooled) else ("pooled", NOT_BETTER)


def beside_pooled(version: VersionRecord, score: str, pooled: float | None) -> VersionRecord:
    """Return a version with the pooled model's score on the same rows, and who therefore answers for the segment."""
    state, why = who_answers(score, version.score, pooled)
    return msgspec.structs.replace(
        version, metrics={**version.metrics, f"{score}:pooled": pooled}, state=state, why=why
    )


def _traced(role: RoleFunction, trace: Callable[[RoleFunction], Program]) -> Program:
    try:
        return trace(role)
    except Untraceable as error:
        raise Unpackable(f"{role.where}, of which no program can be made: {error}") from error


def _same(some: Floats, others: Floats) -> bool:
    return np.array_equal(some, others, equal_nan=True)


def _picked(values: Numbers, which: Any) -> Numbers:
    """Return some rows; of a whole table numpy takes them several times as fast by `take` as by an index."""
    return values[which] if isinstance(which, slice) else values.take(which, axis=0)


def _last(which: Any, count: int) -> Any:
    """Return the last of some rows, as a slice where they are one: a slice copies nothing."""
    return slice(max(which.start, which.stop - count), which.stop) if isinstance(which, slice) else which[-count:]


def tests_of(rows: int, share: float) -> int:
    """Return how many of a segment's last rows test: the share, rounded, at least one."""
    return max(1, round(rows * share))


def seed_of(seed: int, segment: Segment) -> int:
    """Return the seed of one segment's fit: the same whatever chunk, worker or order it is built in."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{format_segment(segment)}".encode()).digest()[:4])


def reseed(seed: int) -> None:
    """Seed the global generators, from which the user's code may draw, whatever ran before.

    An estimator without a `random_state` draws from numpy's.
    """
    np.random.seed(seed)  # noqa: NPY002 - see above
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def metrics_of(model: Model) -> dict[str, Metric]:
    """Return the metrics of a model by name, the user's own included; the first is its score."""
    known = metrics_for(model.task)
    own = {name: role.function for name, role in model.own_metrics.items()}
    return {name: {**known, **own}[name] for name in (*model.metrics, *own)}


def mean_answers(y: Numbers, found: Floats) -> Floats:
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


def digest_of_answers(found: Floats) -> bytes:
    """Return the SHA-256 of answers as plain numbers: what a rebuilt model has to give again."""
    return hashlib.sha256(np.ascontiguousarray(found, dtype="<f8").tobytes()).digest()


def finite(value: float) -> float | None:
    """Return a metric's value, None where it is no number."""
    return value if math.isfinite(value) else None


def plain_list(values: Numbers) -> list[Any]:
    """Return values as golden rows hold them; times as text."""
    found: list[Any] = (np.datetime_as_string(values) if values.dtype.kind == "M" else values).tolist()
    return found


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


def write_tests(path: Path, rows: NDArray[np.int64], share: float) -> None:
    """Write which rows of the table test, one byte each: the last ones of every segment."""
    path.write_bytes(tests_among(rows, share).tobytes())


def tests_among(rows: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Return which rows of the table test: the last ones of every segment, of which `rows` are the lengths."""
    marks = np.zeros(int(rows.sum()), dtype=np.bool_)
    end = 0
    for length in rows.tolist():
        end += length
        if length:
            marks[end - tests_of(length, share) : end] = True
    return marks
