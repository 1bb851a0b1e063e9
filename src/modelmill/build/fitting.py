"""In the worker: a chunk of segments becomes fitted models, tested, as one pack and the rows that describe it.

What can be done once for a chunk is: features (proven to be row by row first), the pooled model's answers, histograms.
What remains for a segment is the user's fit, one predict over its test rows, its laws, and the writing of its bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from modelmill.artifact.saving import PACKED
from modelmill.build.batched import Batch, batches
from modelmill.build.failing import failure_of, lost_failure
from modelmill.build.plan import Step
from modelmill.build.printing import drain_output, is_too_loud
from modelmill.build.segment import Common, SegmentFit, beside_pooled
from modelmill.build.work import Chunk, ChunkResult, Compare, Setup
from modelmill.compute.compute import OUTPUT_MB
from modelmill.data.histogram import count
from modelmill.model.fitted import make_y
from modelmill.model.linear import LinearTrain
from modelmill.names import Digest, Segment, is_shared
from modelmill.registry.records import FailureRecord, VersionRecord
from modelmill.store.blobs import FolderBlobs
from modelmill.store.packs import PackWriter

ABREAST = 8
"""How many segments go through a stage together: measured, 8 save what 32 save, and few models are held at once."""
ABREAST_ROWS = 16_384
_TWICE_S = 10.0
"""A chunk that takes longer has no segment that is fitted twice."""
STAGES = ("fit", "predict", "judge", "save")


def open_fitter(setup: Setup) -> Callable[[Chunk | Compare, Callable[[int], None]], ChunkResult]:
    """Import the user's file in this worker and return what fits chunks; `LocalCompute` calls this once a worker."""
    return Fitter(setup).work


class Fitter:
    """Fits the segments of one model, chunk after chunk."""

    def __init__(self, setup: Setup) -> None:
        """Import the model file, map the table."""
        self.setup, self.common = setup, Common(setup)
        self.blobs = FolderBlobs(setup.blobs)

    def work(self, task: Chunk | Compare, at: Callable[[int], None]) -> ChunkResult:
        """Do one task: fit a chunk, or compare one that is fitted."""
        return self.fit_chunk(task, at) if isinstance(task, Chunk) else self.compare(task)

    # ---------------------------------------------------------------- a chunk

    def fit_chunk(self, chunk: Chunk, at: Callable[[int], None]) -> ChunkResult:
        """Build the segments of a chunk; what fails is returned beside what was built."""
        began = time.perf_counter()
        self.common.begin()
        self.common.open_pooled(chunk.pooled)
        versions: list[VersionRecord] = []
        failures: list[FailureRecord] = []
        with PackWriter(self.blobs.scratch) as pack:
            for built in self._fit_all(chunk.steps, pack, at):
                if isinstance(built, VersionRecord):
                    versions.append(built)
                else:
                    failures.append(built)
            digest, size = self._keep(pack) if versions else self._drop(pack)
        is_quick = time.perf_counter() - began < _TWICE_S
        steady = self._fitted_twice(chunk.steps, versions) if chunk.twice and is_quick else None
        return ChunkResult(
            pack=digest,
            pack_bytes=size,
            versions=versions,
            failures=failures,
            seconds=time.perf_counter() - began,
            user_s=self.common.user_s,
            steady=steady,
        )

    def _fitted_twice(self, steps: list[Step], versions: list[VersionRecord]) -> tuple[Segment, bool] | None:
        """Fit the first segment that was built once more, after all others; return whether it is the same again.

        It is built in the way it was: alone, or as a batch of one. Nothing of it is kept.
        """
        first = {step.segment: step for step in steps}.get(versions[0].segment) if versions else None
        if first is None:
            return None
        with PackWriter(self.blobs.scratch) as pack:
            again = list(self._fit_all([first], pack, lambda _: None))
            pack.abandon()
        same = isinstance(again[0], VersionRecord) and self._same(again[0], versions[0])
        return first.segment, same

    @staticmethod
    def _same(one: VersionRecord, other: VersionRecord) -> bool:
        # Golden rows with their answers, and a digest of all answers. The bytes of a pickle say less: they may hold an order.
        same_answers = (one.format, one.extras) == (other.format, other.extras)
        return same_answers and (one.artifact == other.artifact or one.format != PACKED)

    def compare(self, task: Compare) -> ChunkResult:
        """Return the result of a chunk with the pooled model's score beside that of every version."""
        began = time.perf_counter()
        self.common.begin()
        self.common.open_pooled(task.pooled)
        scores = dict(self._pooled_scores(task.chunk.steps))
        name = self.common.model.metrics[0]
        result = task.result
        return msgspec.structs.replace(
            result,
            versions=[
                beside_pooled(version, name, scores[version.segment]) if version.segment in scores else version
                for version in result.versions
            ],
            seconds=result.seconds + time.perf_counter() - began,
            user_s=result.user_s + self.common.user_s,
        )

    def _pooled_scores(self, steps: list[Step]) -> Iterator[tuple[Segment, float | None]]:
        for group in neighbours(steps):
            stretch = self.common.stretch(group)
            for step in group if stretch.pooled is not None else ():
                segment = SegmentFit(self.common, step, stretch, 0, [])
                segment.y = make_y(self.common.model.spec, segment.rows)
                yield step.segment, segment.pooled_score()

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
        """Build segments together where their train function can, and one by one what is left."""
        if is_shared(steps[0].segment) or not isinstance(self.common.train.function, LinearTrain):
            yield from self._fit_each(steps, 0, pack, at)
            return
        for first, some in batches(steps):
            batch = Batch(self.common, some, lambda place, first=first: at(max(place + first, place)))  # type: ignore[misc]
            yield from batch.build(pack)
            for place in np.flatnonzero(batch.left).tolist():
                yield from self._fit_each([some[place]], first + place, pack, at)

    def _fit_each(
        self, steps: list[Step], place: int, pack: PackWriter, at: Callable[[int], None]
    ) -> Iterator[VersionRecord | FailureRecord]:
        """Build segments one by one; the first is the chunk's at `place`."""
        for group in neighbours(steps):
            stretch = self.common.stretch(group)
            histograms = count(self.setup.bins, stretch.rows, np.array([step.rows for step in group]))
            segments = (
                SegmentFit(self.common, step, stretch, place + inside, [h[inside].tobytes() for h in histograms])
                for inside, step in enumerate(group)
            )
            for some in abreast(segments):
                yield from self._fit_abreast(some, pack, at)
            place += len(group)
            # Between groups, and while the pack is put away, no segment is to blame.
            at(-1)

    def _fit_abreast(
        self, some: list[SegmentFit], pack: PackWriter, at: Callable[[int], None]
    ) -> Iterator[VersionRecord | FailureRecord]:
        """Take a few segments through the stages together: what a stage runs is then warm for all but the first."""
        for stage in STAGES:
            for segment in some:
                if segment.failure is None:
                    at(segment.place)
                    segment.failure = fail_at(stage, segment, self.setup.root)
        for segment in some:
            yield segment.failure or segment.record(pack)


def fail_at(stage: str, segment: SegmentFit, root: Path) -> FailureRecord | None:
    """Run one stage of a segment; return its failure, if it fails."""
    try:
        getattr(segment, stage)()
        loud = f"it printed more than {OUTPUT_MB} MB" if is_too_loud() else ""
        return lost_failure(segment.step.segment, "output", loud) if loud else None
    except Exception as error:  # noqa: BLE001 - the border to user code: anything it raises is this segment's failure
        return failure_of(segment.step.segment, segment.stage, error, root, drain_output())
    finally:
        drain_output()


def abreast(segments: Iterable[SegmentFit]) -> Iterator[list[SegmentFit]]:
    """Yield the few segments that go through the stages together; large ones, with large models, go alone."""
    some: list[SegmentFit] = []
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
