"""The rebuilding of versions, in an environment of its own: ``python -m modelmill.build.rerun ORDER``.

It knows no store and no database. An order names the recorded code, the rows, and what came of them then; the answer is a
comparison for each segment, and what this machine is. Whoever asks may be another version of modelmill: an order and its
answer are JSON with a format number, rows are Parquet.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from modelmill.build.levels import places_of
from modelmill.build.plan import Step
from modelmill.build.segment import write_tests
from modelmill.build.work import Setup
from modelmill.compute.compute import Compute, Done, Limits, Task
from modelmill.compute.forks import Template
from modelmill.compute.local import LocalCompute
from modelmill.compute.worker import die_with
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.snapshot import Segments, decode_segments
from modelmill.errors import ComputeLost, ModelmillError
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import value_of_record
from modelmill.names import POOLED, Digest, Parent, format_segment, is_shared
from modelmill.registry.host import host_facts

FORMAT = 1
_CHUNK = 64
_HASH_SEEDS = ("1", "2")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built again."""

    format: int = FORMAT
    root: str
    """The folder of the recorded code."""
    file: str
    """The model file in it."""
    model: str
    parameters: dict[str, str]
    """As Python writes them."""
    spec: SchemaSpec
    test_share: float
    rows: list[str]
    """Parquet files, one after the other in the order of the segments."""
    segments: str
    """A file that says where each segment lies in them, as `data.snapshot.encode_segments` writes it."""
    recorded: str
    """A file with a list of `comparing.Recorded`."""
    libraries: list[str]
    """What the workers need imported."""
    scratch: str
    answer: str
    """The file that the answer is written to."""
    asker: int
    """The pid of who asks: this process ends with it."""
    workers: int = 1
    seconds: float = 60.0
    memory_mb: int = 4096


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Why a segment's model is not the same twice."""

    segment: str
    cause: str
    lines: list[str]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an order."""

    comparisons: list[Any]
    host: dict[str, str]
    finding: Finding | None = None
    failed: str = ""
    """Why nothing could be built again: the recorded code does not even get to its first segment."""
    seconds: float = 0.0


def main() -> None:
    """Do what the order says, and write the reply."""
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    threading.Thread(target=die_with, args=(order.asker,), daemon=True).start()
    try:
        reply = Rerun(order).run()
    except ModelmillError as error:
        reply = Reply(comparisons=[], host=host_facts(), failed="  ".join(error.lines()))
    Path(order.answer).write_bytes(msgspec.json.encode(reply))


class Rerun:
    """One order."""

    def __init__(self, order: Order) -> None:
        """Start the workers' template: its imports take as long as everything else here."""
        self.order, self.began = order, time.monotonic()
        self.template = self._template()
        # Imported behind the template's start, which goes on meanwhile.
        from modelmill.build.comparing import DIFFERENT, decode_recorded

        self.recorded = {one.segment: one for one in decode_recorded(Path(order.recorded).read_bytes())}
        self.different = DIFFERENT

    def run(self) -> Reply:
        """Fit everything again and compare; where something differs, find out why."""
        labelled = self._write_table()
        steps = self._steps(labelled)
        comparisons = list(self._compared(steps))
        order = {format_segment(step.segment): step for step in steps}
        differs = [one for one in comparisons if one.verdict == self.different]
        smallest = min(differs, key=lambda one: order[one.segment].rows, default=None)
        finding = self._looked_into(order[smallest.segment]) if smallest else None
        seconds = time.monotonic() - self.began
        return Reply(comparisons=comparisons, host=host_facts(), finding=finding, seconds=seconds)

    def _template(self, hash_seed: str = "") -> Template:
        environ = {"PYTHONHASHSEED": hash_seed} if hash_seed else {}
        return Template(["modelmill.build.comparing", *self.order.libraries], environ)

    def _write_table(self) -> Segments:
        import polars as pl

        order, scratch = self.order, Path(self.order.scratch)
        frame = pl.concat([pl.read_parquet(path) for path in order.rows])
        segments = decode_segments(Path(order.segments).read_bytes())
        labelled = write_build_table(scratch / "table", order.spec, segments, frame)
        write_tests(scratch / "tests", labelled.rows, order.test_share)
        return labelled

    def _steps(self, labelled: Segments) -> list[Step]:
        pooled = [Step(POOLED, 0, int(labelled.rows.sum()), labelled.whole(), "")] if POOLED in self.recorded else []
        own = [
            Step(segment, start, rows, Digest(digest.hex()), "")
            for segment, start, rows, digest in labelled
            if segment in self.recorded and segment != POOLED
        ]
        return [*pooled, *self._parents(int(labelled.rows.sum())), *own]

    def _parents(self, labelled: int) -> Iterator[Step]:
        """Yield a step for each model of a level: its rows lie wherever a segment has some of its values."""
        parents = [segment for segment in self.recorded if isinstance(segment, Parent)]
        if parents:
            rows = BuildTable(Path(self.order.scratch) / "table", self.order.spec).rows(0, labelled)
            columns = {column.name: column for column in self.order.spec.keys}
            for parent in parents:
                yield Step(parent, 0, len(places_of(rows, columns, parent)), Digest("0" * 64), "")

    def _setup(self) -> Setup:
        order, scratch = self.order, Path(self.order.scratch)
        return Setup(
            file=Path(order.root) / order.file,
            root=Path(order.root),
            model=order.model,
            table=scratch / "table",
            blobs=scratch / "blobs",
            parameters={name: value_of_record(name, text) for name, text in order.parameters.items()},
            bins=[],
            code=Digest("0" * 64),
            recipe=Digest("0" * 64),
            tests=scratch / "tests",
        )

    def _compute(self, entry: str, template: Template, workers: int) -> LocalCompute:
        limits = Limits(self.order.seconds, self.order.memory_mb)
        return LocalCompute(entry, self._setup(), workers=workers, template=template, limits=limits)

    # ---------------------------------------------------------------- comparing

    def _compared(self, steps: list[Step]) -> Iterator[Any]:
        tasks = list(self._tasks(steps))
        workers = min(self.order.workers, len(tasks))
        with self._compute("modelmill.build.comparing:open_comparer", self.template, workers) as compute:
            yield from self._work_off(compute, tasks)

    def _tasks(self, steps: list[Step]) -> Iterator[Task]:
        from modelmill.build.comparing import Again

        shared = [[step] for step in steps if is_shared(step.segment)]
        own = [step for step in steps if not is_shared(step.segment)]
        parts = [own[begin : begin + _CHUNK] for begin in range(0, len(own), _CHUNK)]
        for number, some in enumerate([*shared, *parts]):
            yield Task(number, Again(steps=some, recorded=[self.recorded[step.segment] for step in some]), 20.0)

    def _work_off(self, compute: Compute, tasks: list[Task]) -> Iterator[Any]:
        """Hand out all tasks; a segment at which its worker is lost has failed, the others of its task go on."""
        from modelmill.build.comparing import FAILED, Again, Comparison

        waiting, out = tasks[::-1], 0
        while waiting or out:
            while waiting and compute.capacity() > 0:
                compute.submit(waiting.pop())
                out += 1
            ended = compute.wait()
            out -= 1
            if isinstance(ended, Done):
                yield from ended.result
                continue
            again: Again = ended.task.payload
            guilty = max(ended.item, 0)
            yield Comparison(format_segment(again.steps[guilty].segment), FAILED, text=ended.detail)
            rest = [place for place in range(len(again.steps)) if place != guilty]
            if rest:
                left = Again(steps=[again.steps[i] for i in rest], recorded=[again.recorded[i] for i in rest])
                waiting.append(Task(ended.task.id, left, ended.task.patience))

    # ---------------------------------------------------------------- why

    def _looked_into(self, step: Step) -> Finding:
        """Find out why a segment is not the same twice: by taking causes away, and with other orders of sets."""
        from modelmill.build.probing import SETS, lines_with_sets

        one, other = (self._probed(step, seed) for seed in _HASH_SEEDS)
        segment = format_segment(step.segment)
        for cause, lines in one.causes.items():
            return Finding(segment=segment, cause=cause, lines=lines)
        if one.steady and other.steady and one.digest != other.digest:
            return Finding(segment=segment, cause=SETS, lines=lines_with_sets(Path(self.order.root)))
        for cause, lines in one.noted.items():
            return Finding(segment=segment, cause=f"{cause}, perhaps", lines=lines)
        return Finding(
            segment=segment, cause="" if one.steady else "several causes, or one that is not known", lines=[]
        )

    def _probed(self, step: Step, hash_seed: str) -> Any:
        from modelmill.build.probing import Probe

        probe = Probe(step=step, format=self.recorded[step.segment].format)
        template = self._template(hash_seed)
        with self._compute("modelmill.build.probing:open_prober", template, 1) as compute:
            compute.submit(Task(0, probe, 20.0))
            ended = compute.wait()
        if not isinstance(ended, Done):
            raise ComputeLost(f"the worker that looks for the cause was lost: {ended.detail}")
        return ended.result


if __name__ == "__main__":
    os.umask(0o077)
    main()
