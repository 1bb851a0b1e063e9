"""A chunk of linear models, fitted together: the stages of `SegmentFit`, each for all segments at once.

What runs the user's code - @predict, own metrics, laws - runs it segment by segment, in the order and with the seeds of the
one-by-one way. A segment that cannot go along - a missing feature, a law that does not hold, an exception of whatever kind -
is left, and `Fitter` builds it one by one, which finds what is wrong and says it in its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed, encode_linear
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PACKED, PICKLE, encode
from modelmill.artifact.unpackable import Unpackable
from modelmill.build.asking import FleetAsker
from modelmill.build.plan import Step
from modelmill.build.printing import drain_output, has_printed, is_too_loud
from modelmill.build.segment import (
    GOLDEN_ROWS,
    Common,
    digest_of_answers,
    finite,
    plain_list,
    reseed,
    seed_of,
    who_answers,
)
from modelmill.data.histogram import count
from modelmill.model.fitted import Floats, make_y
from modelmill.model.linear import Coefficients, LinearTrain
from modelmill.model.metrics import REGRESSION, Metric, of_each
from modelmill.names import digest_of
from modelmill.registry.change import Digests
from modelmill.registry.records import VersionRecord
from modelmill.store.packs import PackWriter

Places = NDArray[np.int64]


ROWS = 65_536
"""How many rows go through the stages together: their columns and what is computed of them stay in the processor's cache."""


def batches(steps: list[Step]) -> Iterator[tuple[int, list[Step]]]:
    """Yield the steps in batches of about so many rows, each with the place of its first one."""
    first, rows = 0, 0
    for place, step in enumerate(steps):
        if place > first and rows + step.rows > ROWS:
            yield first, steps[first:place]
            first, rows = place, 0
        rows += step.rows
    yield first, steps[first:]


class Batch:
    """Segments that go through the stages together; all arrays have one row a segment, or one a row that tests."""

    models: Coefficients
    found: Floats
    """The answers to the test rows."""
    metrics: dict[str, list[float | None]]
    contents: list[bytes]
    whys: list[str]
    """Why each is not packed; empty where it is."""
    extras: list[bytes]

    def __init__(self, common: Common, steps: list[Step], at: Callable[[int], None]) -> None:
        """Take the steps of one chunk; `at` is told where the user's code runs."""
        self.common, self.steps, self._at = common, steps, at
        self.left = np.zeros(len(steps), dtype=bool)
        """Which segments cannot go along."""
        self.stretch, self.test = common.stretch_of(steps)
        self.lengths = np.array([step.rows for step in steps])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tested: Places = np.add.reduceat(self.test, self.starts, dtype=np.int64)
        self.test_starts = np.cumsum(self.tested) - self.tested
        self.cuts = [slice(b, b + n) for b, n in zip(self.test_starts.tolist(), self.tested.tolist(), strict=True)]
        """Where each segment's rows lie among those that test."""

    def build(self, pack: PackWriter) -> list[VersionRecord]:
        """Take all segments through the stages; return the versions of those that are not left."""
        if not self.try_out():
            return []
        self.save()
        return list(self.records(pack))

    def try_out(self) -> bool:
        """Take all segments through the stages that save nothing; return whether any is not left."""
        if self.stretch.x is None:
            self.left[:] = True
            return False
        try:
            self.fit(self.stretch.x)
        except ValueError:  # such as a negative alpha: every segment is told
            self.left[:] = True
            return False
        self.predict(self.stretch.x)
        self.judge()
        return not self.left.all()

    # ---------------------------------------------------------------- the stages

    def fit(self, x: Floats) -> None:
        """Fit all segments on their first rows."""
        common = self.common
        train: LinearTrain = common.train.function  # type: ignore[assignment]  # `Fitter` has looked
        self.y = make_y(common.model.spec, self.stretch.rows).astype(np.float64, copy=False)
        ends, hyper = self.starts + self.lengths - self.tested, common.setup.parameters
        self.models = common.timed(lambda: train.fit_all(x, self.y, self.starts, ends, **hyper))
        self.left |= ~(np.isfinite(self.models.coef).all(axis=1) & np.isfinite(self.models.intercept))

    def predict(self, x: Floats) -> None:
        """Answer the test rows of all segments."""
        self.x, self.truth = x.compress(self.test, axis=0), self.y[self.test]
        if self.common.predict is None:
            coef, intercept = (np.repeat(part, self.tested, axis=0) for part in self.models)
            self.found = Linear.scores(coef, intercept, self.x)
            self.left |= ~np.logical_and.reduceat(np.isfinite(self.found), self.test_starts)
        else:
            self.found = np.zeros(len(self.x))
            self._each(self._predict_one)

    def judge(self) -> None:
        """Compare the answers with the truth, and ask the laws."""
        common, score = self.common, self.common.model.metrics[0]
        means = np.add.reduceat(np.where(self.test, 0.0, self.y), self.starts) / (self.lengths - self.tested)
        judged = {name: (name, self.found) for name in common.metrics}
        judged[f"{score}:mean"] = (score, np.repeat(means, self.tested))
        if self.stretch.pooled is not None:
            judged[f"{score}:pooled"] = (score, self.stretch.pooled[self.test])
        self.metrics = {label: self._scores(name, answers) for label, (name, answers) in judged.items()}
        own = {
            label: (common.metrics[name], answers) for label, (name, answers) in judged.items() if name in _own(common)
        }
        if own or common.model.laws:
            asker = FleetAsker(common, self.steps, self.stretch.rows, self.starts, self.models)
            self._each(lambda place: self._judge_one(place, own, asker))

    def save(self) -> None:
        """Turn models, golden rows and histograms into bytes."""
        self.contents, self.whys = self._artifacts()
        self.extras = list(self._extras())

    def records(self, pack: PackWriter) -> Iterator[VersionRecord]:
        """Put the bytes into the pack, and yield the rows that describe them."""
        setup, score = self.common.setup, self.common.model.metrics[0]
        names, values = list(self.metrics), zip(*self.metrics.values(), strict=True)
        places, more = pack.add_all(self.contents), pack.add_all(self.extras)
        tested = self.tested.tolist()
        for place, (step, row) in enumerate(zip(self.steps, values, strict=True)):
            if self.left[place]:
                continue
            content, extras, why = self.contents[place], self.extras[place], self.whys[place]
            metrics = dict(zip(names, row, strict=True))
            compared = self.stretch.pooled is not None
            state, reason = who_answers(score, metrics[score], metrics[f"{score}:pooled"]) if compared else ("own", "")
            yield VersionRecord(
                segment=step.segment,
                artifact=digest_of(content),
                offset=places[place].offset,
                length=places[place].length,
                identity=Digests(setup.code, step.data, setup.recipe).identity,
                data=step.data,
                format=PICKLE if why else PACKED,
                runtime="python" if why else "packed",
                runtime_why=why,
                rows=step.rows,
                test_rows=tested[place],
                score=metrics[score],
                metrics=metrics,
                state=state,
                why=reason,
                extras=digest_of(extras),
                extras_offset=more[place].offset,
                extras_length=more[place].length,
            )

    # ---------------------------------------------------------------- the user's code, segment by segment

    def _each(self, function: Callable[[int], None]) -> None:
        """Call a function for every segment; those for which it raises are left."""
        for place in np.flatnonzero(~self.left).tolist():
            self._at(place)
            reseed(seed_of(self.common.model.seed, self.steps[place].segment))
            try:
                function(place)
            except Exception:  # noqa: BLE001 - the border to user code: it is built again, one by one, and told there
                self.left[place] = True
            if has_printed():
                self.left[place] |= is_too_loud()
                drain_output()
        self._at(-1)

    def _predict_one(self, place: int) -> None:
        common, step, cut = self.common, self.steps[place], self.cuts[place]
        rows = self.stretch.rows
        if common.reads_rows:
            end = int(self.starts[place]) + step.rows
            rows = rows.take(slice(end - int(self.tested[place]), end))
        fitted = self.models.one(place)
        self.found[cut] = common.timed(lambda: common.answers(fitted, self.x[cut], rows, step.segment))

    def _judge_one(self, place: int, own: dict[str, tuple[Metric, Floats]], asker: FleetAsker) -> None:
        cut, ask = self.cuts[place], asker.of(place)
        for label, (metric, answers) in own.items():
            self.metrics[label][place] = finite(metric(self.truth[cut], answers[cut]))
        for law in self.common.model.laws.values():
            self.common.timed(lambda law=law: law.call({"ask": ask}))  # type: ignore[misc]

    def _scores(self, name: str, answers: Floats) -> list[float | None]:
        """Return a built-in metric of every segment; one of the user's own comes later."""
        if name in _own(self.common):
            return [None] * len(self.steps)
        values: list[float] = of_each(name, self.truth, answers, self.test_starts).tolist()
        return [finite(value) for value in values]

    # ---------------------------------------------------------------- bytes

    def _artifacts(self) -> tuple[list[bytes], list[str]]:
        """Return the models as bytes, and why each is no plain array; empty where it is."""
        many = range(len(self.steps))
        try:
            some = self.x[self.cuts[int(self.left.argmin())]]
            programs = self.common.programs(self.stretch, some)
        except Unpackable as error:
            return [encode(self.models.one(place)).content for place in many], [f"it has {error}"] * len(many)
        contents, whys = encode_linear(*self.models, programs), [""] * len(many)
        # Without @predict the answers are the kernel's own, see `Linear.scores`; with it, each has to be proven.
        for place in many if programs.after else ():
            if not self.left[place] and not self._agrees(place, programs):
                contents[place] = encode(self.models.one(place)).content
                whys[place] = "its packed answers differ from its own"
        return contents, whys

    def _agrees(self, place: int, programs: Programs) -> bool:
        coef, intercept, cut = self.models.coef, self.models.intercept, self.cuts[place]
        body = Linear(coef[place : place + 1], intercept[place : place + 1])
        return Packed(body, coef.shape[1], programs=programs).agrees(self.x[cut], self.found[cut])

    def _extras(self) -> Iterator[bytes]:
        """Yield the golden rows - the last of those that test - and the histograms of each segment."""
        counts = np.minimum(self.tested, GOLDEN_ROWS)
        ends, last = np.cumsum(counts), np.repeat(self.starts + self.lengths, counts)
        golden = self.stretch.rows.take(last - (np.repeat(ends, counts) - np.arange(len(last))))
        columns = {name: plain_list(golden[name]) for name in golden}
        answers = self.found.tolist()
        histograms = [h.tobytes() for h in count(self.common.setup.bins, self.stretch.rows, self.lengths)]
        widths = [len(content) // len(self.steps) for content in histograms]
        encoder = msgspec.msgpack.Encoder()
        for place, (end, many, cut) in enumerate(zip(ends.tolist(), counts.tolist(), self.cuts, strict=True)):
            yield encoder.encode(
                {
                    "rows": {name: column[end - many : end] for name, column in columns.items()},
                    "answers": answers[cut.stop - many : cut.stop],
                    "histograms": [h[place * w : (place + 1) * w] for h, w in zip(histograms, widths, strict=True)],
                    "found": digest_of_answers(self.found[cut]),
                }
            )


def _own(common: Common) -> set[str]:
    """Return which metrics are the user's own."""
    return {name for name, metric in common.metrics.items() if metric is not REGRESSION.get(name)}
