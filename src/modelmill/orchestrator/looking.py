"""`status`, `search`, `show`: what is there, from the registry and from the node itself."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec

from modelmill.data.taking import get_snapshot, load_segments
from modelmill.errors import ModelmillError, NotFound, StoreUnavailable, UsageError, did_you_mean
from modelmill.model.batching import Batching
from modelmill.names import (
    ModelName,
    Parent,
    Segment,
    VersionId,
    format_segment,
    format_target,
    is_shared,
    parse_segment,
    parse_target,
)
from modelmill.orchestrator.canaries import holds_of, running_canaries
from modelmill.orchestrator.importing import describe_snapshot
from modelmill.orchestrator.serve import node_facts
from modelmill.orchestrator.served import model_names, pick_model
from modelmill.orchestrator.shadowing import running_shadows
from modelmill.orchestrator.studies import show_study
from modelmill.orchestrator.summary import failure_groups
from modelmill.outcomes import (
    FoundVersion,
    ModelStatus,
    Progress,
    SearchOutcome,
    ShowOutcome,
    StatusOutcome,
    no_progress,
)
from modelmill.registry import runs
from modelmill.registry.evidence import DETERMINISTIC, REPRODUCED, list_evidence
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.lineage import Descent, changes_of_run, descent, descent_of
from modelmill.registry.records import Run
from modelmill.registry.refusing import refusals_of
from modelmill.registry.search import search as search_versions
from modelmill.registry.versions import (
    Version,
    current_runtimes,
    current_scores,
    current_version,
    get_version,
    list_versions,
)
from modelmill.release.releasing import current_release, list_environments, republish
from modelmill.requests import SearchRequest, ShowRequest, StatusRequest
from modelmill.serving.control import find_node
from modelmill.settings import Settings
from modelmill.store.locks import find_holder
from modelmill.store.opening import Store, open_store

_PAIR = 2
_PARENT = "parent"
_RUNTIMES = 4
"""How many of the most frequent runtimes and reasons a model's page tells."""


def status(settings: Settings, _: StatusRequest, __: Progress = no_progress) -> StatusOutcome:
    """Say what was built, what is released and what runs; declared and running are told apart."""
    running = [node for place in settings.places if (node := find_node(settings.store_folder, place))]
    if not (settings.store_folder / "keys").is_dir():
        return StatusOutcome(project=str(settings.root), store=str(settings.store_folder), next="modelmill up")
    nodes = tuple(node_facts(node, settings.store_folder) for node in running)
    told = StatusOutcome(
        project=str(settings.root),
        store=str(settings.store_folder),
        node=nodes[0] if nodes else None,
        nodes=nodes,
        notices=tuple(f"the node at {node.url} does not answer as it should" for node in nodes if not node.healthy),
    )
    try:
        told = _with_rows(settings, told)
    except StoreUnavailable as error:  # nodes need no database, and who looks after them needs to see them now
        notice = f"what was built and released cannot be told: {error.code} {error.what}"
        return msgspec.structs.replace(told, notices=(*told.notices, notice), next="modelmill doctor")
    return msgspec.structs.replace(told, next=_status_next(told))


def _with_rows(settings: Settings, told: StatusOutcome) -> StatusOutcome:
    """Return what is told with what the database knows."""
    with open_store(settings, create=False) as store:
        places = list_environments(store.database)
        for place in places:  # what was ordered while the database was away is written down before it is told
            republish(store, place)
        models = tuple(_model_status(store, name) for name in model_names(store))
        holder = find_holder(store.lock_path)
        return msgspec.structs.replace(
            told,
            models=models,
            canaries=tuple(canary for place in places for canary in running_canaries(store, place)),
            shadows=tuple(one for place in places for one in running_shadows(store, place)),
            holds=holds_of(store, [(ModelName(one.model), place) for one in models for place in places]),
            holder=str(holder) if holder else "",
        )


def _status_next(told: StatusOutcome) -> str:
    """Return what to do about a model whose process is left alone, else what one most often wants to know."""
    for node in told.nodes:
        if node.quarantined and node.broken:
            return f"modelmill rollback {next(iter(node.broken))} {node.environment}"
    if not told.nodes:
        return "modelmill up"
    return f"modelmill show {told.models[0].model}" if told.models else ""


def _model_status(store: Store, name: ModelName) -> ModelStatus:
    run = runs.get_run(store.database, name)
    states = _states(store, run)
    scores = [row for row in current_scores(store.database, name) if not is_shared(row.segment)]
    metric = next(iter(scores[0].metrics), "") if scores else ""
    values = [value for row in scores if (value := row.metrics.get(metric)) is not None]
    return ModelStatus(
        model=name,
        version=run.number,
        segments=sum(count for state, count in states.items() if state != _PARENT),
        own=states.get("own", 0),
        pooled=states.get("pooled", 0),
        failed=run.counts.get("failed", 0),
        refused=run.counts.get("refused", 0),
        parents=states.get(_PARENT, 0),
        refused_parents=run.counts.get("refused_parents", 0),
        run=run.number,
        run_state=str(run.state),
        finished_at=run.finished_at,
        snapshot=run.snapshot[:12],
        metric=metric,
        score=statistics.median(values) if values else None,
        releases=_releases(store, name),
    )


def _states(store: Store, run: Run) -> Counter[str]:
    """Return how many segments are answered by whom, and how many models of levels answer."""
    found: Counter[str] = Counter()
    for entry in decode(store.blobs.get(run.map)) if run.map else ():
        if not is_shared(entry.segment):
            found[entry.state] += 1
        elif isinstance(entry.segment, Parent) and entry.state == "own":
            found[_PARENT] += 1
    return found


def _releases(store: Store, name: ModelName) -> dict[str, int]:
    current = {place: current_release(store.database, place, name) for place in list_environments(store.database)}
    return {place: found.number for place, found in current.items() if found}


# ------------------------------------------------------------------ search


def search(settings: Settings, request: SearchRequest, _: Progress = no_progress) -> SearchOutcome:
    """Return one page of the versions that fulfil all conditions."""
    name, segment = parse_target(request.model) if request.model else (None, None)
    text = format_segment(segment) if segment is not None else f"{request.segment}*" if request.segment else None
    if request.every and segment is None:
        raise UsageError("the history is that of one segment", next="modelmill search 'MODEL[SEGMENT]' --all")
    with open_store(settings, create=False) as store:
        if name is None and len(known := model_names(store)) == 1:
            name = known[0]  # then a condition on its score is answered from the best match on
        if request.every and name is not None and segment is not None:
            page = list_versions(store.database, name, segment, after=request.after, limit=request.limit)
        else:
            page = search_versions(
                store.database,
                name,
                text,
                tag=request.tag,
                metric=request.where,
                after=request.after,
                limit=request.limit,
            )
        found = tuple(_found(version) for version in page.items)
        if request.every:
            found = _with_refusals(store, _with_changes(store, page.items, found))
    return SearchOutcome(versions=found, after=page.after, next=_search_next(found))


def _search_next(found: tuple[FoundVersion, ...]) -> str:
    return f"modelmill show '{found[0].model}[{found[0].segment}]'" if found else "modelmill status"


def _found(version: Version) -> FoundVersion:
    return FoundVersion(
        model=version.id.model,
        segment=format_segment(version.id.segment),
        number=version.id.number,
        state=version.state,
        score=version.score,
        metric=next(iter(version.metrics), ""),
        rows=version.rows,
        run=version.id.number,
        made_at=version.recorded_at,
    )


def _with_changes(
    store: Store, versions: tuple[Version, ...], found: tuple[FoundVersion, ...]
) -> tuple[FoundVersion, ...]:
    """Add to the versions of one segment, the newest first, what each is in the eyes of the next one in the list."""
    changes = [descent(earlier, later).change for later, earlier in itertools.pairwise(versions)]
    if versions:
        changes.append(descent_of(store.database, versions[-1]).change)
    return tuple(msgspec.structs.replace(one, change=str(change)) for one, change in zip(found, changes, strict=True))


def _with_refusals(store: Store, found: tuple[FoundVersion, ...]) -> tuple[FoundVersion, ...]:
    """Tell of the versions of one segment which a gate has refused."""
    if not found:
        return found
    refused = refusals_of(store.database, ModelName(found[0].model), parse_segment(found[0].segment))
    return tuple(msgspec.structs.replace(one, state="refused") if one.number in refused else one for one in found)


# ------------------------------------------------------------------ show


def show(settings: Settings, request: ShowRequest, _: Progress = no_progress) -> ShowOutcome:
    """Show a model, a version, a run, a snapshot or a study, whichever the words name."""
    words = request.what
    with open_store(settings, create=False) as store:
        known = model_names(store)
        if not words:
            return _show_model(store, pick_model(store, None))
        if words[0] == "study":
            return show_study(store, pick_model(store, None), words[1] if len(words) > 1 else None)
        if words[0] == "run":
            return _show_run(store, pick_model(store, None) if len(words) <= _PAIR else words[2], _number(words, 1))
        if "@s" in words[0]:
            snapshot = get_snapshot(store, words[0])
            return describe_snapshot(snapshot, load_segments(store, snapshot).rows.tolist())
        name, segment = parse_target(words[0])
        if name not in known:
            raise NotFound(
                f"no version of `{name}` was built here", likely=did_you_mean(name, known), next="modelmill status"
            )
        if segment is not None:
            return _show_version(store, name, segment, _number(words, 1))
        return _show_model(store, name) if len(words) == 1 else _show_run(store, name, _number(words, 1))


def _number(words: tuple[str, ...], place: int) -> int | None:
    if len(words) <= place:
        return None
    if not words[place].isdecimal():
        raise UsageError(f"`{words[place]}` is no number of a version", next="modelmill search")
    return int(words[place])


def _show_model(store: Store, name: ModelName) -> ShowOutcome:
    run = runs.get_run(store.database, name)
    declared = msgspec.json.decode(store.blobs.get(run.declaration))
    model = _model_status(store, name)
    releases = ", ".join(f"{place} r{number}" for place, number in model.releases.items())
    facts = {
        "purpose": declared.get("purpose", ""),
        "owner": declared.get("owner", ""),
        "version": f"{model.version}, {model.segments:,} segments by {', '.join(declared['by']) or 'nothing'}",
        "answers": f"{model.own:,} by their own model, {model.pooled:,} by the pooled one{_troubles(model)}",
        model.metric: f"{model.score:.4g} (median of the segments' own models)" if model.score is not None else "",
        "runtime": "; ".join(
            f"{count:,} {_runtime_text(*runtime)}"
            for runtime, count in itertools.islice(current_runtimes(store.database, name).items(), _RUNTIMES)
        ),
        "batching": str(msgspec.convert(declared["batching"], Batching)) if declared.get("batching") else "",
        "released": releases or "nowhere yet",
        **_proven(store, run),
        **_policies(declared),
    }
    return ShowOutcome(
        kind="model",
        name=name,
        facts={label: text for label, text in facts.items() if text},
        details={"declaration": declared, "status": model},
        failures=tuple(failure_groups(runs.list_failures(store.database, run))),
        next=f"modelmill search {name}",
    )


def _troubles(model: ModelStatus) -> str:
    """Return what the last run left as it was."""
    failed = f", {model.failed:,} failed" if model.failed else ""
    return failed + (f", {model.refused:,} kept their champion" if model.refused else "")


def _runtime_text(runtime: str, why: str) -> str:
    return f"{runtime}: not packed, {why}" if why else runtime


def _policies(declared: dict[str, Any]) -> dict[str, str]:
    found = {
        name: ", ".join(f"{c['left']} {c['op']} {c['right']}".strip() for c in declared.get(name) or ())
        for name in ("needs", "gate", "retrain")
    }
    found["canary"] = ", ".join((declared.get("canary") or {}).get("steps", ()))
    return {
        name: f"{text}{'' if name != 'retrain' else '      (not active yet)'}" for name, text in found.items() if text
    }


def _show_run(store: Store, name: str, number: int | None) -> ShowOutcome:
    run = runs.get_run(store.database, ModelName(name), number)
    changes = changes_of_run(store.database, run)
    facts = {
        "state": str(run.state),
        "started": _moment(run.started_at),
        "finished": _moment(run.finished_at),
        "counts": ", ".join(f"{count:,} {what}" for what, count in run.counts.items()),
        "change": ", ".join(f"{count:,} {change}" for change, count in changes.items()),
        **_made_of(run),
        **_proven(store, run),
    }
    return ShowOutcome(
        kind="run",
        name=f"{run.model} run {run.number}",
        facts={label: text for label, text in facts.items() if text},
        details={"run": run, "changes": changes},
        failures=tuple(failure_groups(runs.list_failures(store.database, run))),
        next=f"modelmill show {run.model}",
    )


def _made_of(run: Run) -> dict[str, str]:
    parameters = ", ".join(f"{name}={value}" for name, value in run.parameters.items())
    commit = f"{run.commit[:12]}{' with changes' if run.diff else ''}" if run.commit else "no commit"
    return {
        "code": f"{run.code[:12]}, {commit}",
        "data": f"snapshot {run.snapshot[:12]}",
        "model": f"{run.model_digest[:12]}, {parameters or 'no parameters'}, seed {run.seed}",
        "lock": run.lock[:12],
        "host": run.host[:12],
    }


def _proven(store: Store, run: Run) -> dict[str, str]:
    """Return what was found out about a run: whether it is the same twice, and whether it was built again."""
    facts = {}
    for one in list_evidence(store.database, run.model, run.number):
        if one.kind == DETERMINISTIC and one.verdict is False:
            facts["unsteady"] = f"{one.facts['segment']} was fitted twice, and came out otherwise"
        elif one.kind == REPRODUCED:
            who = f"by {one.facts['user']} on {one.facts['host']}, {_moment(one.recorded_at)}"
            facts["reproduced"] = f"{one.facts['verdict']}, {one.facts['target']}, {who}"
    return facts


def _show_version(store: Store, name: ModelName, segment: Segment, number: int | None) -> ShowOutcome:
    database = store.database
    try:
        found = (
            get_version(database, VersionId(name, segment, number))
            if number
            else current_version(database, name, segment)
        )
    except NotFound as error:
        raise _unknown_segment(store, name, segment, error) from error
    run = runs.get_run(database, name, found.id.number)
    change = descent_of(database, found)
    metrics = ", ".join(f"{m} {v:.4g}" for m, v in found.metrics.items() if v is not None)
    condition, why = refusals_of(database, name, segment).get(found.id.number, ("", ""))
    answers = "its own model" if found.state == "own" else f"the pooled model: {found.why}"
    if condition:
        answers = f"not this version: the gate has refused it, {condition}"
    facts = {
        "answers": answers,
        "gate": why,
        "metrics": f"{metrics}      (on the last {found.test_rows:,} of {found.rows:,} rows)",
        "made by": f"run {run.number}, {_moment(found.recorded_at)}",
        "change": _change_text(change),
        **_made_of(run),
        "data": f"{found.rows:,} rows of snapshot {run.snapshot[:12]}, digest {found.digests.data[:12]}",
        "runtime": _runtime_text(found.runtime, found.runtime_why),
        "kept in": f"pack {found.pack[:12]}, {found.length:,} bytes at {found.offset:,}",
        "identity": found.digests.identity,
        **_proven(store, run),
    }
    return ShowOutcome(
        kind="version",
        name=str(found.id),
        facts={label: text for label, text in facts.items() if text},
        details={"version": found, "change": change._asdict()},
        next=f"modelmill show {name}",
    )


def _change_text(change: Descent) -> str:
    if change.earlier is None:
        return "the first version of this segment"
    differs = f"differs in {' and '.join(change.differs)}" if change.differs else "nothing differs"
    return f"{change.change} of version {change.earlier}: {differs}"


def _unknown_segment(store: Store, name: ModelName, segment: Segment, error: ModelmillError) -> NotFound:
    run = runs.get_run(store.database, name)
    fleet = decode(store.blobs.get(run.map)) if run.map else None
    entry = fleet.find(segment) if fleet is not None else None
    if fleet is not None and entry is not None and entry.why:
        return NotFound(
            f"`{format_target(name, segment)}` has no model of its own: {entry.why}",
            likely=f"it is answered by {_others(fleet)}",
            next=f"modelmill show '{name}[pooled]'",
        )
    return NotFound(error.what, next=f"modelmill search {name}")


def _others(fleet: FleetMap) -> str:
    levels = [f"that of its {' and '.join(level)}" for level in fleet.levels]
    return f"the first that there is: {', '.join(levels)}, the pooled model" if levels else "the pooled model"


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "not yet"
