"""Many rows at once: each by its segment's model, in supervised workers, by the code that is archived with the versions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelmill.build.batch import BatchAnswers, BatchPart, BatchSetup
from modelmill.build.builder import start_template
from modelmill.compute.compute import Limits, Lost, Task
from modelmill.compute.forks import Template
from modelmill.compute.local import LocalCompute
from modelmill.data.build_table import write_build_table
from modelmill.data.snapshot import Segments, starts_of
from modelmill.errors import ModelReturned
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import key_text
from modelmill.names import Digest, Segment, format_target
from modelmill.registry.facts import extract_code
from modelmill.registry.fleet import SAFE, Beyond, FleetMap, why_after
from modelmill.settings import Settings
from modelmill.store.opening import Store

_TASK_ROWS = 16_384
_TASK_PARTS = 256
_DUMMIES = {"bool": False, "float": 0.0, "int": 0}


class Answers(NamedTuple):
    """The answers to the rows of a frame, in its order."""

    numbers: NDArray[np.float64]
    """(rows,), or (rows, classes)."""
    versions: NDArray[np.int64]
    by: list[str]
    """Who answered each row: ``own``, ``carrier=UA``, ``pooled`` or ``safe``."""
    whys: list[str]
    """Why that was not its segment's own model; empty where it was."""

    def columns(self, labels: Sequence[str]) -> list[pl.Series]:
        """Return the answers as columns, named as `names_of_answers` says."""
        chances = self.numbers.T if labels else ()
        columns = [self.values(labels), *chances, self.by, self.versions, self.whys]
        return [pl.Series(name, values) for name, values in zip(names_of_answers(labels), columns, strict=True)]

    def values(self, labels: Sequence[str]) -> list[float] | list[str]:
        """Return the predicted numbers, or the likeliest labels."""
        if not labels:
            return self.numbers.tolist()  # type: ignore[no-any-return]  # numpy does not know
        return [labels[place] for place in self.numbers.argmax(axis=1).tolist()]


def names_of_answers(labels: Sequence[str]) -> list[str]:
    """Return the columns of answers: the number or the likeliest label, a probability a class, and who answered."""
    return ["answer", *(f"probability_{label}" for label in labels), "answered_by", "version", "why"]


def answer_rows(store: Store, settings: Settings, fleet: FleetMap, frame: pl.DataFrame) -> Answers:
    """Answer checked rows of a fleet's request columns; columns that it can do without may be missing.

    Raises what the models raise where the pooled model, too, has no answer.
    """
    by = list(fleet.header.by)
    keys = [*by, *(name for name in fleet.beyond if name in frame.columns)]
    ordered = frame.with_row_index("__row").sort([*keys, "__row"]) if by else frame.with_row_index("__row")
    numbers = np.empty((len(frame), *((len(fleet.header.labels),) if fleet.header.labels else ())))
    versions, told = np.empty(len(frame), dtype=np.int64), [("", "")] * len(frame)
    places = ordered["__row"].to_numpy()
    for part, answers in _answered(store, settings, fleet, ordered.drop("__row"), keys):
        rows = places[part.start : part.start + part.rows]
        numbers[rows] = answers.numbers
        tellings = list(_tellings(part, has_segments=bool(by)))
        for place, row in enumerate(rows.tolist()):
            versions[row], by_whom, why = tellings[answers.fell_back.get(place, 0)]
            told[row] = by_whom, why
    return Answers(numbers, versions, [by for by, _ in told], [why for _, why in told])


def _tellings(part: BatchPart, *, has_segments: bool) -> Iterator[tuple[int, str, str]]:
    """Yield what is told of an answer by each of a chain: the version, who it is, and why not the segment's own model."""
    why = part.why
    for entry in part.chain:
        is_own = not has_segments and entry.state != SAFE
        yield entry.number, "own" if is_own else entry.answers_as(part.segment), why
        why = why_after(part.segment, entry.segment, why)


def _segments(ordered: pl.DataFrame, fleet: FleetMap, keys: Sequence[str]) -> tuple[Segments, list[Beyond]]:
    """Return the segments of sorted rows, one twice where it has several values beyond it, and those values."""
    by = fleet.header.by
    if not by:
        return Segments([()], np.zeros(1, dtype=np.int64), np.array([len(ordered)]), [b""]), [()]
    groups = ordered.group_by(keys, maintain_order=True).len()
    texts = {name: [None if v is None else key_text(v) for v in groups[name].to_list()] for name in keys}
    rows = groups["len"].cast(pl.Int64).to_numpy()
    unsaid = [None] * len(groups)
    beyond = list(zip(*(texts.get(name, unsaid) for name in fleet.beyond), strict=True)) or [()] * len(groups)
    segments = list(zip(*(texts[name] for name in by), strict=True))
    return Segments(segments, starts_of(rows), rows, [b""] * len(rows)), beyond


def _answered(
    store: Store,
    settings: Settings,
    fleet: FleetMap,
    ordered: pl.DataFrame,
    keys: Sequence[str],
) -> Iterator[tuple[BatchPart, BatchAnswers]]:
    """Yield the answers to each segment, one code archive after the other."""
    segments, every = _segments(ordered, fleet, keys)
    parts: dict[Digest, list[BatchPart]] = {}
    for (segment, start, rows, _), beyond in zip(segments, every, strict=True):
        chain, why = fleet.chain(segment, beyond)
        if not chain:
            raise fleet.unknown(segment)
        parts.setdefault(chain[0].code or fleet.header.code, []).append(BatchPart(start, rows, segment, chain, why))
    with tempfile.TemporaryDirectory(dir=_made(store.scratch)) as scratch:
        table = Path(scratch) / "table"
        _write_table(table, fleet.header.spec, ordered, segments)
        for code, some in parts.items():
            root = extract_code(store.blobs, code, _made(store.folder / "cache" / "code"))
            file, model = fleet.header.entry
            setup = BatchSetup(
                file=root / file,
                root=root,
                model=model,
                table=table,
                blobs=store.blobs.folder,
                safe=fleet.safe,
            )
            yield from answer_parts(settings, setup, some)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_table(path: Path, spec: SchemaSpec, ordered: pl.DataFrame, segments: Segments) -> None:
    """Write the table that workers map; rows to be answered have no target, which the format asks for."""
    columns = tuple(c for c in spec.columns if c.name in ordered.columns or c.role == "target")
    target = pl.lit(_dummy(spec.target)).alias(spec.target.name)
    frame = ordered.drop(spec.target.name, strict=False).with_columns(target)
    write_build_table(path, msgspec.structs.replace(spec, columns=columns, unique=()), segments, frame)


def _dummy(target: Column) -> float | int | bool | str:
    return target.values[0] if target.values else _DUMMIES[target.kind]


def answer_parts(
    settings: Settings, setup: BatchSetup, parts: Sequence[BatchPart], template: Template | None = None
) -> Iterator[tuple[BatchPart, BatchAnswers]]:
    """Yield each part with its answers, in the order in which workers end; all parts are of one code archive.

    A template that the caller has started already saves the seconds of its imports, and stays the caller's.
    """
    tasks = [Task(number, some) for number, some in enumerate(_tasks(parts))]
    build = settings.build
    compute = LocalCompute(
        "modelmill.build.batch:open_batch",
        setup,
        workers=min(build.processes, len(tasks)),
        template=template or start_template(setup.root),
        keep=template is not None,
        limits=Limits(build.segment_timeout_s, build.worker_memory_mb),
    )
    try:
        for task in tasks:
            compute.submit(task)
        for _ in tasks:
            ended = compute.wait()
            if isinstance(ended, Lost):
                raise _lost(setup.model, ended)
            yield from zip(ended.task.payload, ended.result, strict=True)
    finally:
        compute.close()


def _tasks(parts: Sequence[BatchPart]) -> Iterator[list[BatchPart]]:
    some: list[BatchPart] = []
    rows = 0
    for part in parts:
        some.append(part)
        rows += part.rows
        if rows >= _TASK_ROWS or len(some) >= _TASK_PARTS:
            yield some
            some, rows = [], 0
    if some:
        yield some


def _lost(model: str, lost: Lost) -> ModelReturned:
    segment: Segment = lost.task.payload[max(lost.item, 0)].segment
    return ModelReturned(
        f"`{format_target(model, segment)}` ended the process that asked it",
        got=lost.detail or lost.reason,
        next=f"modelmill show '{format_target(model, segment)}'",
    )
