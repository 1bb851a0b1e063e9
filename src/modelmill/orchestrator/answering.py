"""`predict`: the running node answers; without one, the newest version; without that, one segment trained for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec

from modelmill.artifact.saving import decode as decode_artifact
from modelmill.errors import NodeNotReady, NotFound, RequestError, UsageError, every_error
from modelmill.model.declaration import Model
from modelmill.model.fitted import answer, make_x
from modelmill.model.request import parser_of
from modelmill.model.safe import safe_answers
from modelmill.model.values import value_of_text
from modelmill.names import POOLED, Segment, format_segment, format_target, parse_target
from modelmill.orchestrator.checking import fit_one
from modelmill.orchestrator.project import Project, open_project
from modelmill.orchestrator.tables import predict_table
from modelmill.outcomes import Answer, PredictOutcome, Progress, no_progress
from modelmill.registry.fleet import NOT_BETTER, NOT_BUILT, SAFE, answered_by, beyond_of, parents_of, why_after
from modelmill.registry.versions import Version, current_version
from modelmill.requests import PredictRequest
from modelmill.serving.control import NodeInfo, find_node
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.packs import PackReader

_TIMEOUT_S = 30.0
_ERRORS = {kind.code: kind for kind in every_error()}


def predict(settings: Settings, request: PredictRequest, progress: Progress = no_progress) -> PredictOutcome:
    """Answer rows; fields written as text take the type that the schema declares."""
    if request.table is not None or request.frame is not None:
        return predict_table(settings, request, progress)
    named, segment = parse_target(request.target() or "") if request.target() else (None, None)
    project = open_project(settings, request.file, named)
    model = project.model
    rows = [_complete(model, segment, row) for row in request.rows or (typed_fields(model, request.written()),)]
    node = find_node(settings.store_folder)
    if node is not None:
        return _outcome(model, _ask_node(node, model, rows), f"node {node.url}")
    try:
        with open_store(settings, create=False) as store:
            return _outcome(model, _ask_registry(store, model, rows), "the newest version, in this process")
    except NotFound:
        progress("line", {"text": "nothing was built yet: one segment is trained for this answer and not kept"})
        return _outcome(model, _ask_unsaved(project, rows), "unsaved")


def typed_fields(model: Model, written: Mapping[str, str]) -> dict[str, Any]:
    """Return fields written as text with the types of the schema; unknown ones are left for the parser to refuse."""
    columns = {column.name: column for column in model.spec.request_columns}
    if not written:
        example = " ".join(f"{name}=..." for name in columns)
        raise UsageError("which row?", next=f"modelmill predict {example}")
    return {name: value_of_text(columns[name], text) if name in columns else text for name, text in written.items()}


def _complete(model: Model, segment: Segment | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the key fields that the target's segment names."""
    if not segment:
        return dict(row)
    if len(segment) != len(model.by):
        raise UsageError(
            f"`{format_segment(segment)}` is no segment of `{model.name}`",
            expected=f"{model.name}[{','.join(model.by)}]",
        )
    keys = {name: value_of_text(model.spec.column(name), text) for name, text in zip(model.by, segment, strict=True)}
    return {**keys, **row}


# ------------------------------------------------------------------ who answers


def _ask_node(node: NodeInfo, model: Model, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
    try:
        content = msgspec.json.encode(list(rows))
        reply = httpx.post(f"{node.url}/{model.name}", content=content, headers=node.headers, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise NodeNotReady(f"the node at {node.url} does not answer: {error}", next="modelmill status") from error
    told = reply.json()
    if not reply.is_success:
        kind = _ERRORS.get(told.pop("code", ""), RequestError)
        raise kind(told.pop("error", "refused"), **told)
    return [_told(model, item) for item in told]


def _told(model: Model, item: dict[str, Any]) -> Answer:
    return Answer(
        model=model.name,
        segment=item["segment"],
        value=item[model.spec.target.name],
        answered_by=item["answered_by"],
        version=item["version"],
        why=item.get("why", ""),
        probabilities=item.get("probabilities", {}),
    )


def _ask_registry(store: Store, model: Model, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
    return [_ask_version(store, model, row) for row in rows]


def _ask_version(store: Store, model: Model, row: Mapping[str, Any]) -> Answer:
    """Ask whoever a node would ask, one after the other; the last of them has the last word."""
    segment, _ = _segment_of(model, row)
    versions, why = _versions_for(store, model, row)
    for version in versions:
        try:
            return _by_version(store, model, version, row, segment, why)
        except Exception:
            if version is versions[-1] and not model.safe:
                raise
        why = why_after(segment, version.id.segment, why)
    return _safely(model, segment, why)


def _by_version(
    store: Store, model: Model, version: Version, row: Mapping[str, Any], segment: Segment, why: str
) -> Answer:
    pack = PackReader(store.blobs.open(version.pack))
    fitted = decode_artifact(version.format, pack.entry(version.offset, version.length, version.artifact))
    numbers = _numbers(model, fitted, row, segment)
    return _answered(model, numbers, segment, answered_by(segment, version.id.segment), version.id.number, why)


def _versions_for(store: Store, model: Model, row: Mapping[str, Any]) -> tuple[list[Version], str]:
    """Return the versions that are asked for a row, as a fleet map has them, and why its segment's own is not the first.

    Raises `NotFound` where there are none.
    """
    segment, beyond = _segment_of(model, row)
    own, pooled = _find(store, model, segment), _find(store, model, POOLED)
    why = NOT_BUILT if own is None else own.why if own.state != "own" else ""
    versions = [own] if own is not None and not why else []
    if segment and (why != NOT_BETTER or pooled is None):
        parents = parents_of(model.levels, (*zip(model.by, segment, strict=True), *beyond.items()))
        found = (_find(store, model, parent) for parent in parents)
        versions += [version for version in found if version is not None and version.state == "own"]
    if segment and pooled is not None:
        versions.append(pooled)
    if not versions:
        raise NotFound(f"`{format_target(model.name, segment)}` has no version, and there is no pooled model")
    return versions, why


def _find(store: Store, model: Model, segment: Segment) -> Version | None:
    try:
        return current_version(store.database, model.name, segment)
    except NotFound:
        return None


def _safely(model: Model, segment: Segment, why: str) -> Answer:
    return _answered(model, safe_answers(model.safe, 1)[0], segment, SAFE, None, why)


def _ask_unsaved(project: Project, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
    answers = []
    for row in rows:
        segment, _ = _segment_of(project.model, row)
        tried = fit_one(project, segment)
        why = "" if tried.step.segment == segment else "too few rows of this segment"
        numbers = _numbers(project.model, tried.fitted, row, segment)
        by = answered_by(segment, tried.step.segment)
        answers.append(_answered(project.model, numbers, segment, by, None, why))
    return answers


def _segment_of(model: Model, row: Mapping[str, Any]) -> tuple[Segment, dict[str, str | None]]:
    """Return a row's segment, and what it says of the columns of levels beyond it."""
    batch = parser_of(model.spec, model.by, model.feature_names).batch([row])
    beyond = beyond_of(model.levels, model.by)
    return batch.segments()[0], dict(zip(beyond, batch.texts(beyond)[0], strict=True))


def _numbers(model: Model, fitted: Any, row: Mapping[str, Any], segment: Segment) -> Any:
    """Return what a fitted object answers to a row: a number, or a probability a class."""
    rows = parser_of(model.spec, model.by, model.feature_names).parse_rows([row])
    x = make_x(model.role("features"), model.spec, rows)
    return answer(fitted, model.role("predict"), len(model.labels), x, rows, segment)[0]


def _answered(model: Model, numbers: Any, segment: Segment, by: str, number: int | None, why: str) -> Answer:
    chances = dict(zip(model.labels, numbers.tolist(), strict=True)) if model.labels else {}
    return Answer(
        model=model.name,
        segment=format_segment(segment),
        value=model.labels[int(numbers.argmax())] if model.labels else float(numbers),
        answered_by=by,
        version=number,
        why=why,
        probabilities=chances,
    )


def _outcome(model: Model, answers: list[Answer], source: str) -> PredictOutcome:
    target = model.spec.target
    return PredictOutcome(
        target=target.name,
        answers=tuple(answers),
        source=source,
        unit=target.unit,
        next="modelmill up" if source == "unsaved" else "",
    )
