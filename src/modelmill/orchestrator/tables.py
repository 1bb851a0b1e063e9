"""`predict --table`: each row of a table is answered as a node would answer it, without one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from modelmill.data.contract import check as check_contract
from modelmill.data.sources import describe, read_table
from modelmill.errors import ColumnMissing, NotFound, UsageError, did_you_mean
from modelmill.model.request import parser_of
from modelmill.model.values import key_text
from modelmill.names import format_segment, parse_target
from modelmill.orchestrator.batch import Answers, answer_rows, names_of_answers
from modelmill.orchestrator.logged import check_ending, write_frame
from modelmill.orchestrator.served import pick_model, served_map
from modelmill.outcomes import Answer, PredictOutcome, Progress, TableFacts, no_progress
from modelmill.registry.fleet import Header
from modelmill.requests import PredictRequest
from modelmill.settings import Settings
from modelmill.store.opening import open_store

_SHOWN = 10


def predict_table(settings: Settings, request: PredictRequest, progress: Progress = no_progress) -> PredictOutcome:
    """Answer each row of a file or a frame, in its order; with `out`, write the rows with their answers."""
    began = time.monotonic()
    name, segment = parse_target(request.target() or "") if request.target() else (None, None)
    if segment is not None or request.written():
        raise UsageError("a table names its rows itself", next="modelmill predict --table FILE [MODEL]")
    if request.out:
        check_ending(request.out)
    with open_store(settings, create=False) as store:
        model = pick_model(store, name)
        fleet, source = served_map(store, model)
        given, told = _read(settings, request, fleet.header)
        progress("line", {"text": f"read {told}   {len(given):,} rows"})
        if request.out:
            _check_names(given, fleet.header)
        rows = _checked(fleet.header, given, told)
        answers = answer_rows(store, settings, fleet, rows)
    header = fleet.header
    written = str(_write(given, answers, header, request.out)) if request.out else ""
    return PredictOutcome(
        target=header.spec.target.name,
        answers=tuple(_first(header, rows, answers)),
        source=source,
        unit=header.spec.target.unit,
        table=TableFacts(
            rows=len(rows),
            own=answers.by.count("own"),
            pooled=answers.by.count("pooled"),
            parents=sum(by not in ("own", "pooled", "safe") for by in answers.by),
            safe=answers.by.count("safe"),
            out=written,
            seconds=time.monotonic() - began,
        ),
        next="" if written else f"modelmill predict --table {request.table or 'FILE'} --out answers.parquet",
    )


def _read(settings: Settings, request: PredictRequest, header: Header) -> tuple[pl.DataFrame, str]:
    if request.frame is not None:
        return read_table(request.frame), describe(request.frame)
    assert request.table is not None  # noqa: S101 - the caller has looked
    for path in (Path.cwd() / request.table, settings.root / request.table):
        if path.is_file():
            return read_table(path, header.spec.texts), str(path)
    near = [path.name for path in Path.cwd().glob("*") if path.is_file()]
    raise NotFound(f"there is no file `{request.table}`", likely=did_you_mean(request.table, near))


def _checked(header: Header, frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """Return the request columns that the table has, typed and within their promises, as a node checks them."""
    spec = header.spec
    required = parser_of(spec, header.by, header.feature_names).required
    missing = [c.name for c in spec.request_columns if c.name in required and c.name not in frame.columns]
    if missing:
        raise ColumnMissing(
            f"column `{missing[0]}` is missing",
            where=source,
            expected=", ".join(sorted(required)),
            got=", ".join(frame.columns)[:300],
            likely=did_you_mean(missing[0], frame.columns),
        )
    columns = tuple(column for column in spec.request_columns if column.name in frame.columns)
    return check_contract(msgspec.structs.replace(spec, columns=columns, unique=()), frame, source)


def _write(given: pl.DataFrame, answers: Answers, header: Header, out: str) -> Path:
    return write_frame(given.with_columns(answers.columns(header.labels)), out)


def _check_names(given: pl.DataFrame, header: Header) -> None:
    """Refuse a table that has a column of the answers already; better before the work than after it."""
    taken = [name for name in names_of_answers(header.labels) if name in given.columns]
    if taken:
        raise UsageError(f"the table has a column `{taken[0]}` already, which the answers need", next="rename it")


def _first(header: Header, rows: pl.DataFrame, answers: Answers) -> list[Answer]:
    """Return the first few answers, as single ones are told."""
    values = answers.values(header.labels)
    return [_told(header, row, values[place], answers, place) for place, row in enumerate(rows.head(_SHOWN).to_dicts())]


def _told(header: Header, row: dict[str, Any], value: float | str, answers: Answers, place: int) -> Answer:
    why = answers.whys[place]
    chances = zip(header.labels, answers.numbers[place].tolist(), strict=True) if header.labels else ()
    return Answer(
        model=header.model,
        segment=format_segment(tuple(key_text(row[name]) for name in header.by)),
        value=value,
        answered_by=answers.by[place],
        version=int(answers.versions[place]) or None,
        why=why,
        probabilities=dict(chances),
    )
