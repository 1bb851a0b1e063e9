"""`labels import`, `labels show`: what was true comes back to the answers that were given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl

from modelmill.data.joining import Joined
from modelmill.data.labels import (
    KNOWN,
    REQUEST,
    On,
    check_labels,
    keep_labels,
    list_label_files,
    moment_name,
    outcome_spec,
)
from modelmill.data.predictions import journal_folder, read_predictions
from modelmill.data.sources import describe, read_address, read_table
from modelmill.errors import LabelsUnjoinable, NotFound, UsageError, did_you_mean
from modelmill.model.conditions import parse_duration
from modelmill.model.metrics import default_metrics, metrics_for
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName
from modelmill.orchestrator.champions import Place, judge_challenger, judge_champion
from modelmill.orchestrator.importing import address_of
from modelmill.orchestrator.logged import check_ending, flat, write_frame
from modelmill.orchestrator.quality import answered_by, answers_of, join_all, truth_of
from modelmill.orchestrator.served import pick_model
from modelmill.orchestrator.settling import settle_in, shapes_of
from modelmill.outcomes import (
    LabelAge,
    LabelImport,
    LabelledFacts,
    LabelsOutcome,
    Progress,
    ReleaseQuality,
    no_progress,
)
from modelmill.registry.fleet import Header, decode
from modelmill.registry.runs import newest_map
from modelmill.requests import LabelsImportRequest, LabelsShowRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

_WAYS: tuple[On, ...] = ("request_id", "keys,time")
_LAST = 1_000_000
_AGES = {"within a day": 1, "within a week": 7, "within 30 days": 30}
"""Days."""
_OLDER = "earlier"


def import_labels(settings: Settings, request: LabelsImportRequest, progress: Progress = no_progress) -> LabelsOutcome:
    """Check labels against the target's promises and keep them; labels that break one change nothing."""
    began = time.monotonic()
    with open_store(settings, create=False) as store:
        model = pick_model(store, request.model)
        header = _header(store, model)
        spec = outcome_spec(header.spec, request.outcome) if request.outcome else header.spec
        named = _names(request.columns)
        frame, source = _read(settings, request, spec, named)
        frame = _as_numbers(_renamed(frame, named, source), request.outcome)
        progress("line", {"text": f"read {source}   {len(frame):,} rows"})
        on = way_of(request, spec, frame)
        within = parse_duration(request.within) if request.within else timedelta(0)
        found = check_labels(spec, on, frame, source)
        file, new = keep_labels(store, model, on, within, found.frame, source, outcome=request.outcome)
        told = LabelImport(
            source=source,
            outcome=request.outcome,
            on=on,
            within_s=file.within.total_seconds(),
            rows=file.rows,
            new=new,
            empty=found.empty,
            repeated=found.repeated,
        )
        outcome, _ = _look(store, settings, model, request.environment, _LAST, request.outcome)
    seconds = time.monotonic() - began
    following = "modelmill ab --in ENVIRONMENT" if request.outcome else f"modelmill labels show {model}"
    return msgspec.structs.replace(outcome, imported=told, seconds=seconds, next=following)


def show_labels(settings: Settings, request: LabelsShowRequest, _progress: Progress = no_progress) -> LabelsOutcome:
    """Say how many answers have labels, how long these took, and how good the answers were."""
    began = time.monotonic()
    if request.out:
        check_ending(request.out)
    with open_store(settings, create=False) as store:
        model = pick_model(store, request.model)
        outcome, labelled = _look(store, settings, model, request.environment, request.last)
    out = ""
    if request.out:
        if labelled.is_empty():
            raise NotFound(f"no answer of `{model}` has a label yet", next="modelmill labels import FILE")
        out = str(write_frame(flat(labelled), request.out))
    return msgspec.structs.replace(outcome, out=out, seconds=time.monotonic() - began)


def _header(store: Store, model: ModelName) -> Header:
    run = newest_map(store.database, model)
    assert run.map is not None  # noqa: S101 - that is what it was looked for
    return decode(store.blobs.get(run.map)).header


# ------------------------------------------------------------------ reading


def _names(columns: Sequence[str]) -> dict[str, str]:
    """Return what columns are called in the file, by what they are here."""
    pairs = [text.partition("=") for text in columns]
    for name, equals, column in pairs:
        if not (name and equals and column):
            raise UsageError(f"`{name}{equals}{column}` names no column", expected="such as request_id=id")
    return {name: column for name, _, column in pairs}


def _read(
    settings: Settings, request: LabelsImportRequest, spec: SchemaSpec, named: dict[str, str]
) -> tuple[pl.DataFrame, str]:
    if request.frame is not None:
        return read_table(request.frame), describe(request.frame)
    if request.source is None:
        raise UsageError("labels come from a file or a connection", next="modelmill labels import FILE")
    texts = {named.get(name, name) for name in (*spec.texts, REQUEST)}
    address, name = address_of(settings, request.source)
    wanted = {"table": request.table or "", "query": request.query or ""}
    found = read_address(request.source, address, settings.root, texts, **wanted)
    return found, f"{Path(name).name} {request.table or ''}".strip()


def _renamed(frame: pl.DataFrame, named: dict[str, str], source: str) -> pl.DataFrame:
    for name, column in named.items():
        if column not in frame.columns:
            raise UsageError(
                f"{source} has no column `{column}`", likely=did_you_mean(column, frame.columns), expected=name
            )
    others = [column for column in frame.columns if column in named and column not in named.values()]
    return frame.drop(others).rename({column: name for name, column in named.items()})


def _as_numbers(frame: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """Return a table whose outcome is a number also where it was yes or no."""
    is_flag = outcome in frame.columns and frame[outcome].dtype == pl.Boolean
    return frame.with_columns(pl.col(outcome).cast(pl.Float64)) if is_flag else frame


def way_of(request: LabelsImportRequest, spec: SchemaSpec, frame: pl.DataFrame) -> On:
    """Return by what labels find their answers; raises `LabelsUnjoinable` where that cannot be."""
    ways = {str(way): way for way in _WAYS}
    if request.on is not None and request.on not in ways:
        raise UsageError(f"labels do not join on `{request.on}`", expected=" or ".join(ways))
    on = ways[request.on] if request.on else "request_id" if REQUEST in frame.columns else "keys,time"
    if on == "request_id":
        return on
    if not spec.keys and spec.time is None:
        raise LabelsUnjoinable(
            f"`{spec.name}` has neither keys nor a time: labels find its answers by the request's id alone",
            next="add a column `request_id`: an answer carries it in its header x-request-id",
        )
    if spec.time is None and not request.within:
        raise LabelsUnjoinable(
            f"`{spec.name}` has no time: a label's moment is compared with when the answer was asked for",
            expected=f"a column `{moment_name(spec)}`, and how long before it that may have been",
            next="modelmill labels import FILE --on keys,time --within 10m",
        )
    return on


# ------------------------------------------------------------------ looking


def _look(
    store: Store, settings: Settings, model: ModelName, environment: str | None, last: int, outcome: str = ""
) -> tuple[LabelsOutcome, pl.DataFrame]:
    """Join all labels anew, or all of an outcome; return what is known, and the answers that have one."""
    if environment is not None:
        settings.environment(environment)
    settle_in(store, settings)
    files = list_label_files(store, model, outcome)
    has_any = journal_folder(store).is_dir()
    answers = read_predictions(store, shapes_of(store), model, last) if has_any else pl.DataFrame()
    header = _header(store, model)
    facts, labelled = [], []
    for place in _places(answers, environment):
        some = answered_by(answers, place)
        joined = join_all(some, store, files, header)
        counted = _counted(place, some, joined)
        facts.append(counted if outcome else _judged(store, settings, counted, joined.answers, header))
        labelled.append(joined.answers)
    found = LabelsOutcome(
        model=model,
        imports=len(files),
        environments=tuple(facts),
        next="" if files else f"modelmill labels import FILE {model}",
    )
    return found, pl.concat(labelled, how="diagonal_relaxed") if labelled else pl.DataFrame()


def _places(answers: pl.DataFrame, wanted: str | None) -> list[str]:
    if answers.is_empty():
        return []
    found: list[str] = answers["environment"].fill_null("").unique().sort().to_list()
    return found if wanted is None else [wanted] if wanted in found else []


def _counted(place: str, answers: pl.DataFrame, joined: Joined) -> LabelledFacts:
    """Return how many answers have a label, and how long these took."""
    labelled = joined.answers
    return LabelledFacts(
        environment=place,
        answers=len(answers),
        labelled=len(labelled),
        labels=joined.labels,
        parked=joined.parked,
        ambiguous=joined.ambiguous,
        corrected=joined.corrected,
        repeated=joined.repeated,
        delay_s=delay_of(labelled, 0.5),
        delay_p90_s=delay_of(labelled, 0.9),
        ages=tuple(ages_of(answers, labelled)),
    )


def _judged(
    store: Store, settings: Settings, counted: LabelledFacts, labelled: pl.DataFrame, header: Header
) -> LabelledFacts:
    """Return the same with how good the labelled answers were."""
    metric, found = _metric(store, header), counted
    if counted.environment and len(labelled):
        judged = Place(store, settings, counted.environment, header.model, metric)
        champion, challenger = judge_champion(judged, labelled), judge_challenger(judged, labelled)
        found = msgspec.structs.replace(counted, champion=champion, challenger=challenger)
    return msgspec.structs.replace(found, releases=tuple(_releases(labelled, header, metric)))


def delay_of(labelled: pl.DataFrame, share: float) -> float | None:
    """Return after how long a share of the labels had come, at most; None without any."""
    if labelled.is_empty():
        return None
    delays = labelled[KNOWN] - labelled["asked_at"]
    return delays.dt.total_seconds(fractional=True).quantile(share, "lower")


def ages_of(answers: pl.DataFrame, labelled: pl.DataFrame) -> Iterator[LabelAge]:
    """Yield how many answers of each age have a label; an age with no answers says nothing."""
    moment = now().replace(tzinfo=None)
    asked, found = _by_age(answers, moment), _by_age(labelled, moment)
    for text in (*_AGES, _OLDER):
        if text in asked:
            yield LabelAge(asked=text, answers=asked[text], labelled=found.get(text, 0))


def _by_age(frame: pl.DataFrame, moment: datetime) -> dict[str, int]:
    """Return how many rows there are of each age."""
    if frame.is_empty():
        return {}
    named = pl.lit(_OLDER)
    for text, days in reversed(_AGES.items()):
        named = pl.when(pl.col("asked_at") > moment - timedelta(days=days)).then(pl.lit(text)).otherwise(named)
    return dict(frame.select(named.alias("age")).group_by("age").len().iter_rows())


def _metric(store: Store, header: Header) -> str:
    """Return the metric that orders the model's versions, or, where that is one of its own, the task's first."""
    run = newest_map(store.database, header.model)
    declared = msgspec.json.decode(store.blobs.get(run.declaration))["metrics"][0]
    return declared if declared in metrics_for(header.task) else default_metrics(header.task)[0]


def _releases(labelled: pl.DataFrame, header: Header, metric: str) -> Iterator[ReleaseQuality]:
    """Yield how good the labelled answers of each release were, the newest last."""
    if labelled.is_empty():
        return
    for (release, run), some in sorted(labelled.group_by(["release", "run"]), key=lambda pair: pair[0]):
        truth, answers = truth_of(some, header.labels), answers_of(some, header.labels)
        value = metrics_for(header.task)[metric](truth, answers)
        yield ReleaseQuality(release=release, version=run, rows=len(some), metric=metric, value=value)
