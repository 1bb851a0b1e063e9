"""The answers of the verbs as text: short, aligned, ending in the next command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelmill import outcomes as o
from modelmill.cli.arms import compared_lines, render_arms, render_study
from modelmill.cli.infra import render_infra
from modelmill.cli.labels import render_labels
from modelmill.cli.layout import count, line, lines, moment, number, seconds, size, table
from modelmill.cli.load import render_loadtest
from modelmill.cli.local import CompletionOutcome, InitOutcome
from modelmill.cli.measuring import render_ab
from modelmill.cli.proof import render_audit, render_diff, render_reproduce
from modelmill.cli.releases import (
    render_approval,
    render_canary,
    render_change,
    render_copies,
    render_deploy,
    render_history,
    render_hold,
    render_plan,
    render_rollback,
    render_shadow,
)
from modelmill.cli.worth import render_feasibility


def render(outcome: o.Outcome) -> Iterator[str]:
    """Yield the lines of any verb's answer."""
    yield from RENDERERS[type(outcome)](outcome)
    if following := getattr(outcome, "next", ""):
        yield line("next", following)


# ------------------------------------------------------------------ train, up, down


def render_train(train: o.TrainOutcome) -> Iterator[str]:
    """Yield what a build did: the rows, the counts, who answers, how well, at what cost, what failed."""
    yield from _made(train)
    yield from _left(train)


def _made(train: o.TrainOutcome) -> Iterator[str]:
    yield line("snapshot", *_snapshot_parts(train.snapshot))
    yield from lines("note", train.snapshot.notices)
    yield from _explained(train)
    yield from _run(train)
    if any(change != "first" for change in train.changes):
        yield line("change", *(f"{how_many:,} {change}" for change, how_many in train.changes.items()))
    yield from _answers(train)
    if train.comparison:
        yield line("error", *_comparison_parts(train.comparison))
    if train.platform_ms is not None:
        own = f"{number(train.user_ms, 2)} ms of your own functions" if train.user_ms is not None else ""
        yield line("cost", f"{number(train.platform_ms, 2)} ms of modelmill per model", own)
    yield from lines(
        "laws", (f"{law.name} {law.asked - law.failed:,}/{law.asked:,}" for law in train.laws if law.asked)
    )
    yield line("version", f"{train.model} {train.version}")
    if train.unsteady:
        yield line(
            "unsteady",
            f"{train.unsteady} was fitted twice, and came out otherwise",
            f"modelmill reproduce {train.version} says why",
        )


def _left(train: o.TrainOutcome) -> Iterator[str]:
    yield from render_failures(train.failures)
    yield from lines("not yet", (f"{text} (declared, not active yet)" for text in train.inactive))


def render_retrain(retrain: o.RetrainOutcome) -> Iterator[str]:
    """Yield what the new rows made, and what the gate said of it beside the champion."""
    yield from _made(retrain.train)
    before, after = retrain.before, retrain.train.snapshot.label
    yield line("data", f"{before} -> {after}", "code, parameters, packages: the same")
    if retrain.train.run is not None:
        yield from _judged(retrain)
    yield from _left(retrain.train)


def _judged(retrain: o.RetrainOutcome) -> Iterator[str]:
    levels = f"{count(retrain.judged_parents, 'model')} of levels" if retrain.judged_parents else ""
    yield line("gate", *retrain.gate, count(retrain.judged, "segment") + " judged", levels)
    if found := retrain.compared:
        unit = retrain.train.comparison.unit if retrain.train.comparison else ""
        yield line("champion", f"version {retrain.champion} of each segment, on the same test rows")
        yield from compared_lines(found, unit)


def render_up(up: o.UpOutcome) -> Iterator[str]:
    """Yield the build, the release and where the node answers."""
    yield from render_train(up.train)
    release = up.release
    state = f"r{release.number} = version {release.version}" + ("" if release.new else ", as before")
    confirmed = f"confirmed by {release.confirmed}/{release.workers} workers" if release.workers else ""
    yield from render_change(up.plan)
    yield line(release.environment, state, confirmed)
    yield line("answers", up.url, f"pid {up.node.pid}", f"ready after {seconds(up.seconds)}" if up.seconds else "")
    if up.node.grpc:
        yield line("gRPC", up.node.grpc)
    yield line("try", up.curl)
    if not up.detached:
        yield line("", "Ctrl-C ends it")


def render_serve(serve: o.ServeOutcome) -> Iterator[str]:
    """Yield where the node answers, and what it needs to be asked."""
    replaced = f"{count(serve.restarted, 'worker')} replaced" if serve.restarted else ""
    served = ", ".join(f"{model} r{number}" for model, number in serve.node.releases.items())
    yield line("serves", served, count(serve.node.workers, "worker"), replaced, seconds(serve.seconds))
    for name, what in serve.node.broken.items():
        yield line("broken", name, what)
    yield line("answers", serve.node.url, f"pid {serve.node.pid}")
    if serve.node.grpc:
        yield line("gRPC", serve.node.grpc)
    if serve.token_file:
        yield line("token", f"requests carry  Authorization: Bearer $(cat {serve.token_file})")
    if not serve.detached:
        yield line("", "Ctrl-C ends it")


def render_down(down: o.DownOutcome) -> Iterator[str]:
    """Yield whether a node was stopped."""
    yield line("down", f"pid {down.pid} has ended", seconds(down.seconds)) if down.stopped else "no node runs here"


def render_failures(groups: Iterable[o.FailureGroup]) -> Iterator[str]:
    """Yield the causes for which segments failed, with up to three examples each."""
    for group in groups:
        more = ", ..." if group.count > len(group.segments) else ""
        examples = f"e.g. {', '.join(group.segments)}{more}" if group.segments else ""
        label = "refused" if group.stage == "gate" else "failed"
        yield line(label, count(group.count, "segment"), f"{group.code} {group.cause}", examples)
        for label in ("where", "got", "next", "safe"):
            if text := getattr(group, label):
                yield line("", f"{label:<6} {text}")


def _run(train: o.TrainOutcome) -> Iterator[str]:
    counts = train.counts
    if train.run is None:
        yield line("run", "nothing to build", f"{_models(counts)} unchanged", seconds(train.seconds))
        return
    names = ("built", "unchanged", "failed", "refused")
    done = [f"{getattr(counts, name):,} {name}" for name in names if getattr(counts, name)]
    refused = f", {counts.refused_parents:,} refused" if counts.refused_parents else ""
    levels = f"{count(counts.parents, 'model')} of levels{refused}" if counts.parents else ""
    went_on = "went on after an interruption" if train.resumed else ""
    yield line(f"run {train.run}", _models(counts), *done, levels, seconds(train.seconds), went_on)


def _models(counts: o.Counts) -> str:
    return count(counts.segments, "segment") if counts.segments else "one model"


def _answers(train: o.TrainOutcome) -> Iterator[str]:
    counts = train.counts
    if not counts.segments:
        return
    why = ", ".join(f"{how_many:,} {reason}" for reason, how_many in train.pooled_because.items())
    pooled = f"{counts.pooled:,} by the pooled one" + (f": {why}" if why else "") if counts.pooled else ""
    yield line("answers", f"{counts.own:,} by their own model", pooled)


def _explained(train: o.TrainOutcome) -> Iterator[str]:
    yield from lines("plan", [f"{segment:<24} {reason}" for segment, reason in train.explained])
    if train.reasons:
        yield line("plan", *(f"{how_many:,} {reason}" for reason, how_many in train.reasons.items()))


def _comparison_parts(found: o.Comparison) -> list[str]:
    named = [("pooled model", found.pooled), ("mean", found.mean)]
    others = [f"{name} {number(value)}" for name, value in named if value is not None]
    rows = f"on the same {count(found.rows, 'test row')}"
    return [f"{found.metric} {number(found.own)} {found.unit}".rstrip(), *others, rows]


def _snapshot_parts(snapshot: o.SnapshotFacts) -> list[str]:
    unknown = snapshot.rows_without_label
    return [
        snapshot.label,
        count(snapshot.rows, "row"),
        f"{unknown:,} without a label" if unknown else "",
        f"sha {snapshot.digest[:8]}",
        "contract holds" if snapshot.new else "the same as before",
    ]


def render_experiment(experiment: o.ExperimentOutcome) -> Iterator[str]:
    """Yield what was tried on which rows, how much it differs from the champion, and whether that is more than noise."""
    rows = count(experiment.snapshot.rows, "row")
    yield line("snapshot", experiment.snapshot.label, rows, "those of the current version")
    yield from render_arms(experiment)
    for arm in experiment.arms:
        yield from render_failures(arm.failures)
    yield line("served", "nothing: an experiment makes no version")


# ------------------------------------------------------------------ check, status


def render_check(check: o.CheckOutcome) -> Iterator[str]:
    """Yield what was tried."""
    for step in check.steps:
        yield line("ok", step.text, f"({seconds(step.seconds)})" if step.seconds >= 0.05 else "")
    if check.comparison:
        yield line("error", *_comparison_parts(check.comparison))
    yield from _drilled(check.drill)
    yield from lines("note", check.notices)
    yield from lines("not yet", (f"{text} (declared, not active yet)" for text in check.inactive))


def _drilled(drill: Sequence[o.DrillFacts]) -> Iterator[str]:
    """Yield what was planted, and first of all what was not caught."""
    if not drill:
        return
    words = {True: "caught", False: "NOT CAUGHT", None: "not noticed: it may look for something else"}
    rows = [(words[one.caught], one.promise, one.bad) for one in sorted(drill, key=lambda one: one.caught is True)]
    yield from table(("planted", "promise", "bad row"), rows)
    yield line("drill", f"{sum(one.caught is True for one in drill)} of {count(len(drill), 'bad row')} caught")


def render_adopt(adopted: o.AdoptOutcome) -> Iterator[str]:
    """Yield what was adopted, what was written and that it holds."""
    rows = f"answers {count(adopted.rows, 'row')} of the sample"
    yield line("adopted", adopted.model, adopted.what, count(adopted.columns, "column"), rows)
    for name in adopted.written:
        yield line("written", name)
    for step in adopted.steps:
        yield line("ok", step.text, f"({seconds(step.seconds)})" if step.seconds >= 0.05 else "")
    if adopted.comparison:
        yield line("error", *_comparison_parts(adopted.comparison))
    yield from lines("note", adopted.notices)


def render_status(status: o.StatusOutcome) -> Iterator[str]:
    """Yield the models, the node and who is writing."""
    yield line("project", status.project, f"store {status.store}")
    for model in status.models:
        yield line("model", *_model_parts(model))
    for node in status.nodes:
        yield line("node", *_node_parts(node))
        yield line("", *_declared_parts(node))
        for name, what in node.broken.items():
            yield line("broken", name, what)
        yield from _trouble(node)
    if not status.nodes:
        yield line("node", "none runs")
    for canary in status.canaries:
        yield from render_canary(canary)
    for shadow in status.shadows:
        yield from render_copies(shadow)
    for name, why in status.holds.items():
        yield line("on hold", name, why)
    if status.holder:
        yield line("busy", f"the store is being written by {status.holder}")
    yield from lines("note", status.notices)


def _model_parts(model: o.ModelStatus) -> list[str]:
    names = ("own", "pooled", "failed", "refused")
    who = [f"{getattr(model, name):,} {name}" for name in names if getattr(model, name)]
    refused = f", {model.refused_parents:,} refused" if model.refused_parents else ""
    levels = f"{count(model.parents, 'model')} of levels{refused}" if model.parents or refused else ""
    run = f"run {model.run} {model.run_state}".rstrip() if model.run is not None else ""
    releases = [f"{environment} r{release}" for environment, release in model.releases.items()]
    score = f"{model.metric} {number(model.score)}" if model.score is not None else ""
    segments = count(model.segments, "segment") if model.segments else ""
    when = moment(model.finished_at)
    return [f"{model.model} {model.version}", segments, *who, levels, run, when, model.snapshot, score, *releases]


def _node_parts(node: o.NodeFacts) -> list[str]:
    health = "" if node.healthy else "does not answer as it should" if node.workers else "does not answer"
    missing = f" of {node.declared_workers}" if node.workers != node.declared_workers else ""
    counts = [f"{count(node.workers, 'worker')}{missing}", count(node.requests, "request"), count(node.errors, "error")]
    grpc = f"gRPC {node.grpc}" if node.grpc else ""
    return [node.url, grpc, f"pid {node.pid}", node.environment, *counts, *_pace_parts(node), health]


def _declared_parts(node: o.NodeFacts) -> list[str]:
    """Return what should run there since when, and what does where that is another."""
    declared = ", ".join(f"{model} r{number}" for model, number in node.declared.items()) or "nothing"
    since = f"declared since {moment(node.declared_at)}" if node.declared_at else ""
    if node.behind_s is None:
        return [f"{declared} runs", since]
    runs = ", ".join(f"{model} r{number}" for model, number in node.releases.items()) or "not known"
    return [f"{declared} is declared", f"not taken by all workers for {seconds(node.behind_s)}", f"what runs: {runs}"]


_REFUSED = {
    "busy": "because too many waited",
    "deadline": "because their callers wait for less",
    "late": "because their callers waited no more",
    "batch": "because they were large, and others waited",
    "canary": "that a canary would have answered, and others waited",
}


def _trouble(node: o.NodeFacts) -> Iterator[str]:
    """Yield what a node has refused since it began, and what became of its models' processes, each with what to do next."""
    refused = [f"{how_many:,} {_REFUSED.get(why, why)}" for why, how_many in node.refused.items() if how_many]
    if refused:
        yield line("refused", ", ".join(refused), "next: modelmill infra, or more [serve] workers")
    if node.children_ended:
        over = f"{node.children_over_memory:,} of them at their limit of memory" if node.children_over_memory else ""
        ended = f"{count(node.children_ended, 'process', 'processes')} of models by themselves"
        yield line("ended", ended, over, f"next: less {node.log_file}")
    if node.quarantined:
        yield line("", f"{node.quarantined:,} in quarantine: ended again and again, and not started for a while")


def _pace_parts(node: o.NodeFacts) -> list[str]:
    """Return how fast a node answers, and what it holds."""
    pace = f"{node.requests_per_s:,.0f}/s" if node.requests_per_s >= 1 else ""
    times = [f"{name} {value:.3g} ms" for name, value in (("p50", node.p50_ms), ("p99", node.p99_ms)) if value]
    opened = f"{count(node.opened, 'model')} open" if node.opened else ""
    closed = f"{node.evictions:,} closed for others" if node.evictions else ""
    memory = f"{node.memory_mb:,.0f} MB" if node.memory_mb is not None else ""
    logged = f"{node.logged:,} logged" if node.logged else ""
    dropped = f"{node.log_dropped:,} not logged" if node.log_dropped else ""
    return [pace, *times, opened, closed, memory, logged, dropped]


# ------------------------------------------------------------------ predict, search, show


_WHO = {"own": "own model", "pooled": "pooled model", "safe": "safe answer"}


def render_predict(predict: o.PredictOutcome) -> Iterator[str]:
    """Yield one line an answer: the value, who answered and why."""
    if predict.table is not None:
        yield from _table_parts(predict.table)
    for answer in predict.answers:
        value = number(answer.value) if isinstance(answer.value, float) else str(answer.value)
        version = f" {answer.version}" if answer.version is not None else ""
        who = _WHO.get(answer.answered_by) or f"model of {answer.answered_by}"
        why = f"{who}: {answer.why}" if answer.why else who
        chances = "   ".join(f"{label} {share:.3f}" for label, share in answer.probabilities.items())
        head = f"{predict.target} {value} {predict.unit}".rstrip()
        yield "   ".join(
            part
            for part in (head, chances, f"{answer.model}[{answer.segment}]{version}", why, f"({predict.source})")
            if part
        )


def _table_parts(found: o.TableFacts) -> Iterator[str]:
    shares = [f"{found.own:,} by their own model", f"{found.pooled:,} by the pooled one"]
    if found.parents:
        shares.append(f"{found.parents:,} by models of levels")
    if found.safe:
        shares.append(f"{found.safe:,} by the safe answer")
    yield line("answered", f"{found.rows:,} rows", *shares, seconds(found.seconds))
    if found.out:
        yield line("written", found.out)


def render_parity(parity: o.ParityOutcome) -> Iterator[str]:
    """Yield how many logged answers training gives, too, and the worst of those that it does not give."""
    verdict = "the same answers" if parity.equal == parity.rows else f"{parity.rows - parity.equal:,} other answers"
    yield line(
        "parity",
        f"{parity.rows:,} logged rows of {parity.model}",
        verdict,
        f"{parity.identical:,} identical",
        f"largest difference {parity.largest:.3g}" if parity.largest else "",
        seconds(parity.seconds),
    )
    if not parity.skewed:
        return
    rows = [
        (s.request_id, str(s.row), s.segment, str(s.version), _value(s.logged), _value(s.replayed))
        for s in parity.skewed
    ]
    yield from table(("request", "row", "segment", "version", "logged", "replayed"), rows)
    for version, how_many in parity.by_version.items():
        yield line("skewed", version, count(how_many, "row"))


def _value(value: float | str) -> str:
    return number(value) if isinstance(value, float) else value


def render_search(search: o.SearchOutcome) -> Iterator[str]:
    """Yield a table of versions."""
    if not search.versions:
        yield "nothing found"
        return
    metric = next((found.metric for found in search.versions if found.metric), "score")
    header = ("version", "number", metric, "rows", "answers", "run", "made")
    history = any(found.change for found in search.versions)
    rows = [(*_version_row(found), *([found.change] if history else [])) for found in search.versions]
    yield from table((*header, "change") if history else header, rows)
    if search.after:
        yield line("more", f"--after {search.after}")


def _version_row(found: o.FoundVersion) -> tuple[str, ...]:
    state = found.state if found.current else "old"
    run = "" if found.run is None else str(found.run)
    name = f"{found.model}[{found.segment}]"
    return name, str(found.number), number(found.score), f"{found.rows:,}", state, run, moment(found.made_at)


def render_show(show: o.ShowOutcome) -> Iterator[str]:
    """Yield a name and, aligned, all that is known of it."""
    yield line(show.kind, show.name)
    yield from facts(show.facts)
    if show.study:
        yield from render_study(show.study)
    yield from render_failures(show.failures)


def facts(found: Mapping[str, str]) -> Iterator[str]:
    """Yield one line a fact; labels may be longer than usual."""
    width = max((len(label) for label in found), default=0)
    for label, text in found.items():
        yield line(label.ljust(width), text)


# ------------------------------------------------------------------ data


def render_import(imported: o.ImportOutcome) -> Iterator[str]:
    """Yield the snapshot that rows became."""
    checks = f"{imported.checks} checks" if imported.checks else ""
    yield line("snapshot", *_snapshot_parts(imported.snapshot), checks, seconds(imported.seconds))
    yield from lines("note", imported.snapshot.notices)
    if imported.before:
        added = (
            f"{count(imported.added, 'row')} more than {imported.before}" if imported.added else "all rows were there"
        )
        yield line("appended", added, size(imported.added_bytes) if imported.added else "")
    if imported.added and imported.repeated:
        yield line("note", f"{count(imported.repeated, 'row')} equal one that was there in every column: kept twice")


def render_infer(inferred: o.InferOutcome) -> Iterator[str]:
    """Yield the source, or where it was written."""
    if inferred.out:
        yield line("written", inferred.out, count(inferred.columns, "column"), f"from {count(inferred.rows, 'row')}")
    else:
        yield inferred.source
    yield from lines("note", inferred.notices)


def render_export(export: o.ExportOutcome) -> Iterator[str]:
    """Yield the file that was written."""
    told = f"{export.snapshot.rows:,} rows of {export.snapshot.label}"
    yield line("written", export.out, told, size(export.bytes), seconds(export.seconds))


def render_listing(listing: o.SnapshotListing) -> Iterator[str]:
    """Yield a table of snapshots."""
    header = ("snapshot", "rows", "segments", "size", "digest", "taken", "source")
    rows = [
        (s.label, f"{s.rows:,}", f"{s.segments:,}", size(s.bytes), s.digest[:8], moment(s.taken_at), s.source)
        for s in listing.snapshots
    ]
    yield from table(header, rows) if rows else ["no snapshots yet"]
    if listing.predictions:
        titles = ("predictions", "rows", "size", "first", "last", "just asked")
        yield from table(titles, [_logged_parts(logged) for logged in listing.predictions])


def _logged_parts(logged: o.LoggedFacts) -> tuple[str, ...]:
    span = moment(logged.first_at), moment(logged.last_at)
    return logged.label, f"{logged.rows:,}", size(logged.bytes), *span, f"{logged.pending:,}"


# ------------------------------------------------------------------ fsck, doctor, init, completion


def render_fsck(fsck: o.FsckOutcome) -> Iterator[str]:
    """Yield what was looked at and what is broken."""
    looked = [f"{how_many:,} {kind}" for kind, how_many in fsck.checked.items()]
    yield line("checked", *looked, seconds(fsck.seconds))
    for problem in fsck.problems:
        yield line("broken", f"{problem.code} {problem.what}", problem.where)
        if problem.next:
            yield line("", f"next   {problem.next}")
    if fsck.leftovers:
        yield line("unused", f"{count(fsck.leftovers, 'temporary file')} whose writer is gone")
    if fsck.unreferenced:
        yield line(
            "unused", f"{count(fsck.unreferenced, 'blob')} that no row leads to: left by interrupted runs, harmless"
        )
    for label, some in (("removed", _gone(fsck)), ("unused", _unneeded(fsck))):
        if some:
            held = f"{size(sum(one.bytes for one in some))} beside uv's cache"
            yield line(label, f"{count(len(some), 'package environment')} that no release needs", held)
    if fsck.removed:
        yield line("removed", count(fsck.removed, "file"))
    if not fsck.problems:
        yield line("ok", "nothing is lost, every digest is right")


def _gone(fsck: o.FsckOutcome) -> list[o.EnvironmentFacts]:
    return [one for one in fsck.environments if one.removed]


def _unneeded(fsck: o.FsckOutcome) -> list[o.EnvironmentFacts]:
    return [one for one in fsck.environments if not (one.kept or one.removed)]


def render_doctor(doctor: o.DoctorOutcome) -> Iterator[str]:
    """Yield one line a check, and what to do where one is not well."""
    width = max(len(check.name) for check in doctor.checks)
    for check in doctor.checks:
        yield line(check.state, f"{check.name:<{width}}   {check.text}")
        if check.next:
            yield line("", f"{'':<{width}}   next   {check.next}")


def render_init(init: InitOutcome) -> Iterator[str]:
    """Yield what was written and what was left alone."""
    yield line("created", *init.created) if init.created else line("created", "nothing: all of it is here")
    if init.kept:
        yield line("kept", *init.kept)
    yield from lines("note", init.notices)


def render_completion(completion: CompletionOutcome) -> Iterator[str]:
    """Yield the script alone: it is evaluated by a shell."""
    yield completion.script


RENDERERS: dict[type[o.Outcome], Callable[[Any], Iterator[str]]] = {
    o.TrainOutcome: render_train,
    o.RetrainOutcome: render_retrain,
    o.FeasibilityOutcome: render_feasibility,
    o.ReproduceOutcome: render_reproduce,
    o.DiffOutcome: render_diff,
    o.AuditOutcome: render_audit,
    o.ExperimentOutcome: render_experiment,
    o.UpOutcome: render_up,
    o.DownOutcome: render_down,
    o.ServeOutcome: render_serve,
    o.PlanOutcome: render_plan,
    o.DeployOutcome: render_deploy,
    o.LoadtestOutcome: render_loadtest,
    o.RollbackOutcome: render_rollback,
    o.ApproveOutcome: render_approval,
    o.HoldOutcome: render_hold,
    o.AbOutcome: render_ab,
    o.ShadowOutcome: render_shadow,
    o.HistoryOutcome: render_history,
    o.CheckOutcome: render_check,
    o.AdoptOutcome: render_adopt,
    o.StatusOutcome: render_status,
    o.InfraOutcome: render_infra,
    o.PredictOutcome: render_predict,
    o.ParityOutcome: render_parity,
    o.LabelsOutcome: render_labels,
    o.SearchOutcome: render_search,
    o.ShowOutcome: render_show,
    o.ImportOutcome: render_import,
    o.ExportOutcome: render_export,
    o.InferOutcome: render_infer,
    o.SnapshotListing: render_listing,
    o.FsckOutcome: render_fsck,
    o.DoctorOutcome: render_doctor,
    InitOutcome: render_init,
    CompletionOutcome: render_completion,
}
