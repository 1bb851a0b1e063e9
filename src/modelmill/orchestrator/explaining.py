"""`explain`: what answers for a model or one of its segments in an environment, since when, made of what, and on what."""

from __future__ import annotations

import time
from collections.abc import Iterator

from modelmill.data.taking import get_snapshot
from modelmill.errors import NotFound
from modelmill.names import POOLED, Segment, VersionId, format_segment, format_target, parse_target
from modelmill.orchestrator.canaries import holds_of, running_canaries
from modelmill.orchestrator.serve import node_facts
from modelmill.orchestrator.served import pick_model
from modelmill.outcomes import NodeFacts, Progress, ShowOutcome, no_progress
from modelmill.registry import runs
from modelmill.registry.fleet import SAFE, Entry, decode
from modelmill.registry.host import read_host
from modelmill.registry.lock import read_lock
from modelmill.registry.records import Run
from modelmill.registry.refusing import refusals_of
from modelmill.registry.versions import Version, get_version
from modelmill.release.moving import HOLD, RESUME, list_moves
from modelmill.release.releasing import current_release, republish
from modelmill.release.rows import Release
from modelmill.requests import ExplainRequest
from modelmill.serving.control import find_node, run_folder
from modelmill.serving.history import History
from modelmill.serving.meters import CLASSES, added, quantile
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

_RECENT_S = 3600.0


def explain(settings: Settings, request: ExplainRequest, _: Progress = no_progress) -> ShowOutcome:
    """Say what answers, from what is recorded, published and counted."""
    name, segment = parse_target(request.what) if request.what else (None, None)
    settings.environment(request.environment)
    with open_store(settings, create=False) as store:
        model = pick_model(store, name)
        republish(store, request.environment)
        current = current_release(store.database, request.environment, model)
        if current is None:
            raise NotFound(f"{request.environment} serves no `{model}`", next=f"modelmill plan {request.environment}")
        return _Explaining(store, settings, current, segment).outcome()


class _Explaining:
    """One release of one model, and the segment that is asked about."""

    def __init__(self, store: Store, settings: Settings, current: Release, segment: Segment | None) -> None:
        self.store, self.settings, self.current = store, settings, current
        self.fleet = decode(store.blobs.get(current.map))
        self.asked = segment
        self.entry, self.why = self._answering(segment)
        self.version: Version = get_version(
            store.database, VersionId(current.model, self.entry.segment, self.entry.number)
        )
        self.run: Run = runs.get_run(store.database, current.model, self.entry.number)
        info = find_node(settings.store_folder, current.environment)
        self.node: NodeFacts | None = node_facts(info, settings.store_folder) if info else None

    def _answering(self, segment: Segment | None) -> tuple[Entry, str]:
        chain, why = self.fleet.chain(segment if segment is not None else POOLED)
        models = [entry for entry in chain if entry.state != SAFE]
        if models:
            return models[0], why
        if segment is None:
            return self.fleet.at(0), ""
        raise NotFound(
            f"no model answers for `{format_target(self.current.model, segment)}`",
            likely="the declared safe answer does" if chain else "",
            next=f"modelmill search {self.current.model}",
        )

    def outcome(self) -> ShowOutcome:
        """Return everything, under labels that are always in the same order."""
        name = format_target(self.current.model, self.asked)
        texts = {
            "answers": self._answers(),
            "refused": self._refused(),
            "made by": self._made_by(),
            "from data": self._data(),
            "env": self._lock(),
            "runs on": self._node(),
            "kept in": self._kept(),
            "traffic": self._traffic(),
            "canary": "; ".join(self._canaries()),
            "on hold": "; ".join(holds_of(self.store, [(self.current.model, self.current.environment)]).values()),
            "reads": self._reads(),
            "falls back": self._falls_back(),
            "subjects": self._subjects(),
        }
        return ShowOutcome(
            kind="answer",
            name=f"{name} in {self.current.environment}",
            facts={label: text for label, text in texts.items() if text},
            details={
                "release": self.current,
                "version": self.version,
                "why": self.why,
                "node": self.node,
                "segments": len(self.fleet),
            },
            next=f"modelmill history {self.current.model} {self.current.environment}",
        )

    def _answers(self) -> str:
        moves = list_moves(self.store.database, self.current.environment, self.current.model)
        move = next((one for one in moves if one.kind not in (HOLD, RESUME) and one.after == self.current.number), None)
        other = format_segment(self.entry.segment)
        who = (
            f"{'the pooled model' if self.entry.segment == POOLED else f'the model of {other}'}, {self.why}: "
            if self.why
            else ""
        )
        several = f" ({len(self.fleet):,} segments)" if self.asked is None and len(self.fleet) > 1 else ""
        at, by, reason = (move.at, move.by, move.reason) if move else (self.current.created_at, self.current.by, "")
        since = f"since {at:%Y-%m-%d %H:%M} UTC by {by or 'nobody named'}{f': {reason}' if reason else ''}"
        # Of the whole fleet the version is its map's; the pooled model may be an older one, where a gate has kept it.
        number = self.fleet.header.run if self.asked is None else self.entry.number
        return f"{who}version {number}, in release r{self.current.number}{several}, {since}"

    def _refused(self) -> str:
        """Return what a gate has kept from answering here: the newest version that was made after the one that does."""
        if self.asked is None:
            return ""
        refused = refusals_of(self.store.database, self.current.model, self.asked)
        newest = max(refused, default=0)
        own = self.entry.number if self.entry.segment == self.asked else 0
        if newest <= own:
            return ""
        condition, why = refused[newest]
        return f"version {newest}, by the gate: {condition}, {why}"

    def _made_by(self) -> str:
        run = self.run
        host = read_host(self.store.blobs, run.host).get("host", "")
        commit = f"commit {run.commit[:12]}{' with changes' if run.diff else ''}" if run.commit else "no commit"
        parameters = "".join(f", {name}={value}" for name, value in run.parameters.items())
        file, model = self.fleet.header.entry
        return f"run {run.number} on {host}; {file}: {model}, {commit}{parameters}; seed {run.seed}"

    def _data(self) -> str:
        snapshot = get_snapshot(self.store, self.run.snapshot)
        rows = f"{self.version.rows:,} of its {snapshot.manifest.rows:,} rows"
        return f"{snapshot.label}, {rows}, of which the last {self.version.test_rows:,} test; from {snapshot.source}"

    def _lock(self) -> str:
        lock = read_lock(self.store.blobs, self.run.lock)
        return f"lock {self.run.lock[:8]}: python {lock.python}, {len(lock.packages)} packages"

    def _node(self) -> str:
        if self.node is None:
            return "no node runs there now"
        behind = self.node.releases.get(self.current.model)
        lag = "" if behind == self.current.number else f"; it still answers with r{behind}"
        return f"{self.node.url}, pid {self.node.pid}, {self.node.workers} of {self.node.declared_workers} workers{lag}"

    def _kept(self) -> str:
        entry = self.entry
        return f"pack {entry.pack[:12]}, {entry.length:,} bytes at {entry.offset:,}; {entry.runtime} runtime"

    def _traffic(self) -> str:
        history = History(run_folder(self.settings.store_folder, self.current.environment))
        if not history.exists:
            return "nothing was asked yet"
        since = time.time() - _RECENT_S
        if self.asked is None:
            minutes = [sides.get(self.current.number) for sides in history.sides(self.current.model, since).values()]
            seen = [one for one in minutes if one is not None]
            asked, failed = sum(one.asked for one in seen), sum(one.failed for one in seen)
            classes = added(one.classes for one in seen)
        else:
            points = history.of(self.current.model, format_segment(self.asked), since)
            asked, failed = sum(one.asked for one in points), sum(one.failed for one in points)
            classes = [0] * CLASSES
        p99 = quantile(classes, 0.99) if classes and asked else None
        slow = f", p99 {1000 * p99:.3g} ms" if p99 is not None else ""
        return f"{asked:,} requests in the last hour, {failed:,} without an answer of its own{slow}"

    def _canaries(self) -> Iterator[str]:
        for one in running_canaries(self.store, self.current.environment):
            if one.model == self.current.model:
                yield f"r{one.release} at {one.steps[one.step]} of {one.of}, {one.verdict}"

    def _reads(self) -> str:
        header = self.fleet.header
        fields = ", ".join(dict.fromkeys([*header.by, *header.feature_names]))
        return f"POST /{header.model} {{{fields}}} -> {header.spec.target.name}"

    def _falls_back(self) -> str:
        levels = [f"the model of its {' and '.join(level)}" for level in self.fleet.levels]
        pooled = ["the pooled model"] if self.fleet.header.by and self.fleet.find(POOLED) else []
        safe = ["the declared safe answer"] if self.fleet.safe else []
        return ", then ".join([*levels, *pooled, *safe]) or "nothing: what has no model is refused"

    def _subjects(self) -> str:
        named = [column.name for column in self.fleet.header.spec.columns if column.role == "subject"]
        return f"a person's rows are found by {', '.join(named)}" if named else "people's data: none declared"
