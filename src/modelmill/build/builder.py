"""The builder: it hands chunks to workers, records each as one transaction, and signs what came of it all.

Whatever kills it, the next build of the same plan goes on with the same run: what is recorded is not fitted again.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmill.build.failing import lost_failure
from modelmill.build.plan import Plan, Step
from modelmill.build.work import Chunk, ChunkResult, Compare, Pooled, Setup
from modelmill.compute.compute import Compute, Done, Limits, Lost, Task
from modelmill.compute.forks import Template
from modelmill.compute.local import LocalCompute
from modelmill.errors import NotFound
from modelmill.model.loading import imported_files
from modelmill.names import POOLED, Digest, Parent, Segment, is_shared
from modelmill.registry import runs
from modelmill.registry.fleet import Entry, FleetMap, Header, sign, with_locks
from modelmill.registry.records import GATE, ChunkRecord, FailureRecord, Run, RunState
from modelmill.registry.refusing import Refusal, settle_versions
from modelmill.registry.versions import candidate_entries, candidate_version, current_entries
from modelmill.settings import BuildSettings
from modelmill.store.opening import Store
from modelmill.store.packs import PackReader

CHUNK_S = 0.5
"""How much work a chunk should be: long against a commit, short against a crash."""
SMALLEST_CHUNK = 72
"""At least 64, and so many that a commit's seven flushes are less than a tenth of one a model."""
_LARGEST_CHUNK = 2048
_LARGEST_TOGETHER = 1024
"""Segments that are fitted together take as long to record as to build: one chunk is recorded while the next is built."""
_PATIENCE = 20.0
"""The pooled model sees all rows at once: it may take so many times longer than a segment."""
_WAITING_EACH = 4
"""How many chunks a worker may build ahead of the pooled model."""
_COMPARED_AGAIN = 3
_LIBRARIES = ("sklearn.linear_model", "sklearn.ensemble", "lightgbm")
"""Imported once for all workers where the model uses them. Not polars: its import starts a thread, which no fork has."""

NOT_BUILT = "its own model could not be built"
NOT_PASSED = "its own model did not pass the gate"

Progress = Callable[[str, dict[str, Any]], None]
Judge = Callable[[list[Entry]], list[Refusal]]
"""Looks at what would answer from now on, and says which versions may not."""


@dataclass(slots=True)
class BuildResult:
    """What a build did."""

    run: Run
    map_digest: Digest | None
    built: int = 0
    parents: int = 0
    """Of these, the models of levels."""
    failures: list[FailureRecord] = field(default_factory=list)
    startup_s: float = 0.0
    """Until the workers were ready."""
    seconds: float = 0.0
    """From the first chunk sent to the last one recorded."""
    cpu_s: float = 0.0
    """CPU seconds of the workers."""
    worker_s: float = 0.0
    """Seconds of the workers, all added."""
    user_s: float = 0.0
    """Of those, the seconds in the user's own functions and the objects they returned."""
    steady: tuple[Segment, bool] | None = None
    """The segment that was fitted twice, and whether both were the same."""


class Builder:
    """One build of one plan."""

    def __init__(
        self, store: Store, limits: BuildSettings, setup: Setup, plan: Plan, run: Run, template: Template | None = None
    ) -> None:
        """Take everything that is decided, and the template where one was started early, which stays the caller's."""
        self.store, self.limits, self.setup, self.plan, self.run = store, limits, setup, plan, run
        self._template = template
        self.result = BuildResult(run, None)
        self._next_chunk = max(runs.recorded_chunks(store.database, run), default=-1) + 1
        self._ids = itertools.count()
        self._segment_s = 0.0
        self._together = _LARGEST_TOGETHER
        """How many segments are fitted together at most: fewer, while it is looked for the one that ends its worker."""
        self._total = 0
        self._todo: deque[Step] = deque()
        self._parents: deque[Step] = deque()
        self._pooled_step: Step | None = None
        """The pooled model, while it is not built yet."""
        self._pooled_next = False
        """Whether it is to be handed out."""
        self._pooled: Pooled | None = None
        self._waiting: list[tuple[Chunk, ChunkResult]] = []
        """What was built while the pooled model was not: it is not recorded before it is compared."""
        self._compares: deque[Compare] = deque()
        self._lost_compares: Counter[int] = Counter()
        self._twice = False
        """Whether a segment was chosen to be fitted twice."""
        self._suspected: set[Segment] = set()
        """Segments at which a signal ended the worker once."""

    def build(self, header: Header, progress: Progress, judge: Judge | None = None) -> BuildResult:
        """Build what the plan says, have it judged, and close the run; a segment's failure is part of the result."""
        if not self.plan.empty:
            asked = time.monotonic()
            with self._compute() as compute:
                began = time.monotonic()
                self.result.startup_s = began - asked
                self._plan_tasks()
                self._work_off(compute, progress)
                self.result.seconds = time.monotonic() - began
        return self._close(header, judge)

    def _compute(self) -> LocalCompute:
        limits = Limits(self.limits.segment_timeout_s, self.limits.worker_memory_mb)
        template = self._template or start_template(self.setup.root, together=self.setup.together > 0)
        return LocalCompute(
            "modelmill.build.fitting:open_fitter",
            self.setup,
            workers=self._processes(),
            template=template,
            keep=self._template is not None,
            limits=limits,
        )

    def _processes(self) -> int:
        """Return how many workers there are work for: segments that are fitted together take little time."""
        if not self.setup.together:
            return self.limits.processes
        rows = sum(step.rows for step in self.plan.steps)
        return max(1, min(self.limits.processes, rows // self.setup.together))

    # ---------------------------------------------------------------- the pooled model

    def _plan_tasks(self) -> None:
        """Decide what is to be done: the pooled model first, since every segment is compared with it."""
        done_before, failed_before = runs.recorded_segments(self.store.database, self.run)
        done = done_before | failed_before
        self._todo.extend(step for step in self.plan.steps if step.segment not in done)
        self._parents.extend(step for step in self.plan.parents if step.segment not in done)
        self._total = len(self._todo) + len(self._parents)
        if self.plan.pooled is not None and POOLED not in done:
            self._pooled_step, self._pooled_next = self.plan.pooled, True
        else:
            self._pooled = self._pooled_file()

    def _pooled_file(self) -> Pooled | None:
        if not self._total:
            return None
        try:
            version = candidate_version(self.store.database, self.run.model, POOLED)
        except NotFound:
            return None
        pack = PackReader(self.store.blobs.open(version.pack))
        path = self.setup.table.with_name("pooled")
        path.write_bytes(pack.entry(version.offset, version.length, version.artifact))
        return version.format, path

    def _end_pooled(self, progress: Progress) -> None:
        """Go on from the pooled model, built or failed: what waited for it is compared with it, and recorded."""
        self._pooled_step = None
        self._pooled = self._pooled_file()
        for chunk, result in self._waiting:
            if self._pooled is None:
                self._finish(chunk, result, progress)
            else:
                self._compares.append(Compare(chunk=chunk, result=result, pooled=self._pooled))
        self._waiting.clear()

    # ---------------------------------------------------------------- the segments

    def _work_off(self, compute: Compute, progress: Progress) -> None:
        """Hand out what is to be done until all of it is recorded."""
        outstanding = 0
        while outstanding or self._compares or self._todo or self._parents or self._pooled_next:
            while compute.capacity() > 0 and (task := self._next_task()) is not None:
                compute.submit(task)
                outstanding += 1
            self._take(compute.wait(), progress)
            outstanding -= 1

    def _next_task(self) -> Task | None:
        if self._pooled_step is not None and self._pooled_next:
            self._pooled_next = False
            return Task(next(self._ids), self._chunk([self._pooled_step]), _PATIENCE)
        if self._compares:
            return Task(next(self._ids), self._compares.popleft())
        if self._parents and self._pooled_step is None:
            # Each sees the rows of many segments: it is begun before them, so that no worker waits for it in the end.
            return Task(next(self._ids), self._chunk([self._parents.popleft()]), _PATIENCE)
        # A crash would lose what waits for the pooled model: there may not be much of it.
        ahead = 0 if self.setup.together else _WAITING_EACH * self.limits.processes
        waits_enough = self._pooled_step is not None and len(self._waiting) >= ahead
        return Task(next(self._ids), self._chunk(self._cut())) if self._todo and not waits_enough else None

    def _cut(self) -> list[Step]:
        """Take the next steps: about `CHUNK_S` of work, but such that all workers end together."""
        if self.setup.together:
            return self._cut_together()
        wanted = int(CHUNK_S / self._segment_s) if self._segment_s else SMALLEST_CHUNK
        share = math.ceil(len(self._todo) / (2 * max(self.limits.processes, 2)))
        size = max(
            1 if self._segment_s > CHUNK_S / SMALLEST_CHUNK else SMALLEST_CHUNK, min(wanted, share, _LARGEST_CHUNK)
        )
        return [self._todo.popleft() for _ in range(min(size, len(self._todo)))]

    def _cut_together(self) -> list[Step]:
        """Take as many steps as are fitted together."""
        steps, rows = [self._todo.popleft()], 0
        while self._todo and len(steps) < self._together:
            rows += steps[-1].rows
            if rows + self._todo[0].rows > self.setup.together:
                break
            steps.append(self._todo.popleft())
        return steps

    def _chunk(self, steps: list[Step]) -> Chunk:
        number = self._next_chunk
        self._next_chunk += 1
        twice = not self._twice and self._may_be_fitted_twice(steps)
        self._twice = self._twice or twice
        return Chunk(number=number, steps=steps, pooled=self._pooled, twice=twice)

    def _may_be_fitted_twice(self, steps: list[Step]) -> bool:
        """Return whether the first of these is a segment like others; the pooled model only where it is the only one."""
        return not is_shared(steps[0].segment) or (steps[0].segment == POOLED and not self.plan.steps)

    def _take(self, ended: Done | Lost, progress: Progress) -> None:
        if isinstance(ended, Lost):
            self._take_lost(ended, progress)
        else:
            self._take_done(ended, progress)

    def _take_done(self, ended: Done, progress: Progress) -> None:
        self.result.cpu_s += ended.cpu_s
        payload: Chunk | Compare = ended.task.payload
        result: ChunkResult = ended.result
        if isinstance(payload, Compare):
            self._finish(payload.chunk, result, progress)
        elif payload.steps[0].segment == POOLED:
            self._finish(payload, result, progress)
            self._end_pooled(progress)
        elif is_shared(payload.steps[0].segment):
            self._finish(payload, result, progress)
        else:
            self._segment_s = max(result.seconds / len(payload.steps), 1e-6)
            self._together = min(2 * self._together, _LARGEST_TOGETHER)
            self._take_chunk(payload, result, progress)

    def _take_chunk(self, chunk: Chunk, result: ChunkResult, progress: Progress) -> None:
        if chunk.pooled is None and self._pooled_step is not None:
            self._waiting.append((chunk, result))
        elif chunk.pooled is None and self._pooled is not None:
            self._compares.append(Compare(chunk=chunk, result=result, pooled=self._pooled))
        else:
            self._finish(chunk, result, progress)

    def _finish(self, chunk: Chunk, result: ChunkResult, progress: Progress) -> None:
        self._record(chunk.number, result)
        self.result.worker_s += result.seconds
        self.result.user_s += result.user_s
        self._tell(result, progress)

    def _take_lost(self, ended: Lost, progress: Progress) -> None:
        """Give up the segment at which the worker was lost, and put the others of its chunk back."""
        if isinstance(ended.task.payload, Compare):
            self._take_lost_compare(ended.task.payload, progress)
            return
        steps = list(ended.task.payload.steps)
        if ended.item < 0 and len(steps) > 1:
            # It was lost before any segment began: halves are tried until the guilty one stands alone.
            middle = len(steps) // 2
            self._todo.extendleft(reversed(steps[middle:]))
            self._todo.extendleft(reversed(steps[:middle]))
            self._segment_s, self._together = CHUNK_S / middle, middle
            return
        guilty = steps.pop(max(ended.item, 0))
        self._todo.extendleft(reversed(steps))
        if ended.reason == "signal" and guilty.segment not in self._suspected:
            # It may have been killed from outside, for nothing that this segment did: it gets a second chance.
            self._suspected.add(guilty.segment)
            if guilty.segment == POOLED:
                self._pooled_next = True
            else:
                (self._parents if is_shared(guilty.segment) else self._todo).append(guilty)
            return
        failure = lost_failure(guilty.segment, ended.reason, ended.detail)
        lost = ChunkResult(pack=None, pack_bytes=0, versions=[], failures=[failure], seconds=0.0, user_s=0.0)
        self._finish(self._chunk([guilty]), lost, progress)
        if guilty.segment == POOLED:
            self._end_pooled(progress)

    def _take_lost_compare(self, task: Compare, progress: Progress) -> None:
        """Compare again, unless it is the pooled model itself that ends workers: then there is nothing to compare with."""
        self._lost_compares[task.chunk.number] += 1
        if self._lost_compares[task.chunk.number] < _COMPARED_AGAIN:
            self._compares.append(task)
        else:
            self._finish(task.chunk, task.result, progress)

    def _record(self, number: int, result: ChunkResult) -> None:
        record = ChunkRecord(
            chunk=number,
            pack=result.pack,
            pack_bytes=result.pack_bytes,
            versions=tuple(result.versions),
            failures=tuple(result.failures),
        )
        runs.record_chunk(self.store.database, self.run, record)
        self.result.built += len(result.versions)
        self.result.parents += sum(isinstance(version.segment, Parent) for version in result.versions)
        self.result.steady = self.result.steady or result.steady
        self.result.failures += result.failures

    def _tell(self, result: ChunkResult, progress: Progress) -> None:
        for failure in result.failures:
            progress("failure", {"segment": failure.segment, "code": failure.code, "summary": failure.summary})
        built, failed = self.result.built, len(self.result.failures)
        done = built + failed - (self.plan.pooled is not None and bool(self._total))
        facts = {"done": done, "total": self._total, "built": built, "failed": failed}
        progress("build", facts | {"unchanged": len(self.plan.unchanged), "pooled": len(self.plan.without)})

    # ---------------------------------------------------------------- the end

    def _close(self, header: Header, judge: Judge | None) -> BuildResult:
        # Before the map is signed: nothing that a gate refuses ever answers anybody.
        refusals = judge(list(candidate_entries(self.store.database, self.run.model))) if judge is not None else []
        settle_versions(self.store.database, self.run, refusals)
        entries = [entry for entry in current_entries(self.store.database, self.run.model) if _is_named(header, entry)]
        failures = list(runs.list_failures(self.store.database, self.run))
        failed = [failure.segment for failure in failures if failure.stage != GATE]
        refused = [failure.segment for failure in failures if failure.stage == GATE]
        header = with_locks(header, entries, runs.list_locks(self.store.database, self.run.model))
        fleet = FleetMap.build(header, [*entries, *self._answered_by_pooled(entries, failed, refused)])
        counts = {
            "built": len(self.plan.steps) + len(self.plan.parents) + bool(self.plan.pooled) - len(failed),
            "failed": len(failed),
            "unchanged": len(self.plan.unchanged),
            "without": len(self.plan.without),
            **({"refused": len(refused)} if judge is not None else {}),
            **({"refused_parents": parents} if (parents := sum(isinstance(one, Parent) for one in refused)) else {}),
        }
        if not entries:
            self.result.run = runs.finish_run(self.store.database, self.run, RunState.FAILED, counts)
            return self.result
        signed = sign(self.store.key, fleet)
        (digest,) = self.store.blobs.put([signed.content])
        state = RunState.PARTIAL if failed else RunState.DONE
        self.result.run = runs.finish_run(self.store.database, self.run, state, counts, (digest, signed.signature))
        self.result.map_digest = digest
        return self.result

    def _answered_by_pooled(
        self, entries: list[Entry], failed: list[Segment], refused: list[Segment]
    ) -> Iterator[Entry]:
        """Yield an entry for every segment that is known but has no model: the pooled one answers, and says why.

        A parent that a gate has refused has one as well, which answers nobody: who is asked in its place is told why.
        """
        pooled = next((entry for entry in entries if entry.segment == POOLED), None)
        if pooled is None:
            return
        known = {entry.segment for entry in entries}
        why: Mapping[Segment, str] = {
            **self.plan.without,
            **dict.fromkeys(failed, NOT_BUILT),
            **dict.fromkeys(refused, NOT_PASSED),
        }
        for segment, reason in why.items():
            if segment not in known and (reason == NOT_PASSED or not isinstance(segment, Parent)):
                yield pooled._replace(segment=segment, state="pooled", why=reason)


def _is_named(header: Header, entry: Entry) -> bool:
    """Return whether an entry can be asked: the model of a level that is no longer declared is left out."""
    segment = entry.segment
    return not isinstance(segment, Parent) or tuple(segment.values()) in (header.levels or ())


def start_template(root: Path, *, together: bool = False) -> Template:
    """Start the process that the workers are forked from, with the libraries that the user's files need."""
    # What fits all segments together answers in numpy: it seldom needs the kernels, whose import takes a second.
    kernels = [] if together else ["modelmill.artifact.kernels"]
    return Template(["modelmill.build.fitting", *kernels, *used_libraries(root)])


def used_libraries(root: Path) -> list[str]:
    """Return the heavy libraries that the user's imported files name, or have brought in."""
    source = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in imported_files(root))
    return [name for name in _LIBRARIES if name.partition(".")[0] in sys.modules or name in libraries_named(source)]


def libraries_named(source: str) -> list[str]:
    """Return the heavy libraries that a source text names."""
    return [name for name in _LIBRARIES if name.partition(".")[0] in source]
