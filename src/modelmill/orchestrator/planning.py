"""`plan`: what a release would change, what was checked, what it costs, how it takes traffic and how it is taken back.

A plan is read from the store and the node alone, and nothing is changed. It has an id, the digest of all that it was made
from: `deploy` applies exactly what was planned, or refuses and says what has changed since.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from modelmill.data.taking import get_snapshot
from modelmill.errors import GateRefused, LawFailed, UsageError
from modelmill.names import POOLED_WORD, Digest, ModelName, digest_of
from modelmill.orchestrator.approving import FLOOR as APPROVED
from modelmill.orchestrator.approving import approval_check
from modelmill.orchestrator.diffing import declared_differences
from modelmill.orchestrator.loadtest import FLOOR as LOAD
from modelmill.orchestrator.loadtest import load_check
from modelmill.orchestrator.preparing import needed_environments
from modelmill.orchestrator.rehearsing import rehearsal_text
from modelmill.orchestrator.served import pick_model, pick_run
from modelmill.orchestrator.slo import declared_slo
from modelmill.outcomes import CheckFacts, PlanOutcome, Progress, no_progress
from modelmill.registry import runs
from modelmill.registry.change import Change, change_of
from modelmill.registry.evidence import REHEARSAL, RETRAINING, Evidence, list_evidence
from modelmill.registry.facts import read_archive
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.lock import lock_differences, read_lock
from modelmill.registry.records import Run
from modelmill.release.moving import find_hold
from modelmill.release.policy import REFUSED, Policy, policy_of, unmet
from modelmill.release.releasing import current_release, republish
from modelmill.release.rollouts import open_rollout
from modelmill.release.rows import Release
from modelmill.requests import PlanRequest
from modelmill.serving.control import find_node
from modelmill.settings import Settings
from modelmill.store.files import write_durably
from modelmill.store.opening import Store, open_store

_SHOWN = 8
_MEGABYTE = 2**20


def plan(settings: Settings, request: PlanRequest, _: Progress = no_progress) -> PlanOutcome:
    """Say what `deploy` would do; nothing is changed."""
    began = time.monotonic()
    with open_store(settings, create=False) as store:
        found = make_plan(store, settings, request.environment, request.model, request.version).outcome
    if request.out is not None:
        content = msgspec.json.format(msgspec.json.encode(found, order="deterministic"))
        place = Path(request.out)
        write_durably(place, content, place.parent)
    shown = found if request.every else _folded(found)
    return msgspec.structs.replace(shown, seconds=time.monotonic() - began)


class Planned(NamedTuple):
    """A plan with what `deploy` needs to apply it."""

    outcome: PlanOutcome
    model: ModelName
    current: Release | None
    candidate: Run
    policy: Policy

    @property
    def current_map(self) -> Digest:
        """Return the map that is current; there is one wherever a canary is planned."""
        if self.current is None:
            raise AssertionError("nothing serves beside a first release")
        return self.current.map


def make_plan(store: Store, settings: Settings, environment: str, name: str | None, version: int | None) -> Planned:
    """Compare what an environment serves of a model with a version, the newest if none is named."""
    settings.environment(environment)
    model = pick_model(store, name)
    republish(store, environment)  # what was ordered while the database was away is written down before it is read
    return _Planning(store, settings, environment, model, pick_run(store, model, version)).plan()


def read_plan(path: str) -> PlanOutcome:
    """Return a plan that was written to a file."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=PlanOutcome)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"`{path}` is no plan", likely=str(error), next="modelmill plan ENVIRONMENT -o FILE"
        ) from error


def _folded(found: PlanOutcome) -> PlanOutcome:
    """Return a plan whose long lists end after a few, with how many more there are."""

    def short(texts: tuple[str, ...]) -> tuple[str, ...]:
        return texts if len(texts) <= _SHOWN else (*texts[:_SHOWN], f"+{len(texts) - _SHOWN:,} more (--all)")

    return msgspec.structs.replace(
        found, changed=short(found.changed), what={k: short(v) for k, v in found.what.items()}
    )


class _Planning:
    """One comparison, block by block."""

    def __init__(self, store: Store, settings: Settings, environment: str, model: ModelName, candidate: Run) -> None:
        self.store, self.settings, self.environment, self.model = store, settings, environment, model
        self.candidate = candidate
        self.current = current_release(store.database, environment, model)
        self.new = self._open(candidate.map)
        self.old = self._open(self.current.map) if self.current else None
        self.before = runs.get_run(store.database, model, self.old.header.run) if self.old else None
        self.declared = msgspec.json.decode(store.blobs.get(candidate.declaration))

    def _open(self, digest: Digest | None) -> FleetMap:
        return decode(self.store.blobs.get(digest)) if digest else FleetMap.build(self.new.header, [])

    def plan(self) -> Planned:
        """Return the plan."""
        # A first release has nothing beside which it could serve a little: it is enough that the model declares how.
        declared = policy_of(self.declared["canary"])
        policy = self._policy(declared)
        checks = tuple(self._checks())
        old, new = (fleet.answers() if fleet else {} for fleet in (self.old, self.new))
        moved = [key for key in new if key in old and old[key] != new[key]]
        node = find_node(self.settings.store_folder, self.environment)
        serving = self.settings.serving(self.environment)
        with self.store.database.read() as c:
            hold = find_hold(c, self.environment, self.model)
            running = open_rollout(c, self.environment, self.model)
        floors = self.settings.environment(self.environment).requires
        same = self.current is not None and self.current.map == self.candidate.map
        outcome = PlanOutcome(
            environment=self.environment,
            model=self.model,
            before=self.current.number if self.current else 0,
            before_version=self.old.header.run if self.old else 0,
            version=self.new.header.run,
            kind=str(self._kind()),
            what={name: tuple(texts) for name, texts in self._what().items()},
            changed=tuple(sorted(moved)),
            new=len(new.keys() - old.keys()),
            gone=len(old.keys() - new.keys()),
            same=len(new.keys() & old.keys()) - len(moved),
            pooled_changes=POOLED_WORD in moved,
            checks=checks,
            unmet=tuple(unmet(floors, {check.floor: check.ok for check in checks}, declared)) if not same else (),
            rehearsed=self._rehearsed(),
            environments=tuple(one.text for one in needed_environments(self.store.folder, self.store.blobs, self.new)),
            load_mb=self._load() / _MEGABYTE,
            url=node.url if node else f"http://{serving.host}:{serving.port}",
            workers=node.workers if node else serving.workers,
            runs=node is not None,
            unseen=self._unseen(runs=node is not None),
            steps=tuple(policy.texts()),
            of=policy.of,
            hold_s=policy.hold_s,
            abort=tuple(map(str, policy.abort)) if policy.steps else (),
            hold=f"{hold.reason} ({hold.by})" if hold else "",
            taking=f"r{running.candidate}" if running else "",
            undo=f"modelmill rollback {self.model} {self.environment}" if self.current else "",
            nothing=same,
        )
        outcome = msgspec.structs.replace(outcome, id=self._id(outcome))
        outcome = msgspec.structs.replace(outcome, next=self._next(outcome))
        return Planned(outcome, self.model, self.current, self.candidate, policy)

    def _next(self, outcome: PlanOutcome) -> str:
        if outcome.nothing:
            return f"modelmill status      ({self.environment} serves it already)"
        if outcome.hold:
            return f"modelmill resume {self.model} {self.environment}"
        return f"modelmill deploy {self.environment}"

    def _id(self, outcome: PlanOutcome) -> str:
        """Return the digest of what the plan was made from: not of where its node runs, nor of its memory."""
        facts = {
            "environment": self.environment,
            "model": self.model,
            "before": self.current.map if self.current else "",
            "after": self.candidate.map,
            **{name: getattr(outcome, name) for name in READ},
        }
        return digest_of(msgspec.json.encode(facts, order="deterministic"))[:8]

    # ---------------------------------------------------------------- what and why

    def _kind(self) -> Change:
        before, after = self.before, self.candidate
        if before is None:
            return Change.FIRST
        recipe = (before.code, before.model_digest) != (after.code, after.model_digest)
        return change_of(data=before.snapshot != after.snapshot, recipe=recipe, same_place=before.id == after.id)

    def _what(self) -> dict[str, list[str]]:
        before, after = self.before, self.candidate
        if before is None:
            return {"data": [self._label(after)]}
        found = {
            "code": list(self._code(before)),
            "model": list(self._declared(before)),
            "data": [f"{self._label(before)} -> {self._label(after)}"] if before.snapshot != after.snapshot else [],
            "lock": self._lock(before),
        }
        return {name: texts for name, texts in found.items() if texts}

    def _label(self, run: Run) -> str:
        snapshot = get_snapshot(self.store, run.snapshot)
        return f"{snapshot.label}, {snapshot.manifest.rows:,} rows"

    def _code(self, before: Run) -> Iterator[str]:
        if before.code != self.candidate.code:
            old, new = (read_archive(self.store.blobs, run.code).files for run in (before, self.candidate))
            yield from (name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))

    def _declared(self, before: Run) -> Iterator[str]:
        if before.model_digest != self.candidate.model_digest:
            yield from declared_differences(
                msgspec.json.decode(self.store.blobs.get(before.declaration)), self.declared
            )

    def _lock(self, before: Run) -> list[str]:
        if before.lock == self.candidate.lock:
            return []
        return lock_differences(*(read_lock(self.store.blobs, run.lock) for run in (before, self.candidate)))

    # ---------------------------------------------------------------- checks and how

    def _checks(self) -> Iterator[CheckFacts]:
        run, laws = self.candidate, self.declared["laws"]
        dirty = run.diff is not None
        commit = f"commit {run.commit[:12]}{', with changes that were not committed' if dirty else ''}"
        yield CheckFacts(
            floor="clean commit", ok=bool(run.commit) and not dirty, text=commit if run.commit else "no git"
        )
        failures = Counter(failure.code for failure in runs.list_failures(self.store.database, run))
        broken, refused = failures[LawFailed.code], failures[LawFailed.code] + failures[GateRefused.code]
        told = f"{len(laws)} laws hold" if len(laws) != 1 else f"`{laws[0]}` holds"
        if broken:
            told = f"{broken:,} segments break a law, and keep what they had"
        yield CheckFacts(floor="law", ok=bool(laws), text=told if laws else "the model declares none")
        yield self._gate()
        if refused:
            yield self._share(refused)
        requires = self.settings.environment(self.environment).requires
        slo = declared_slo(self.settings, self.environment)
        load = load_check(self.store, run, slo)
        if load is not None or LOAD in requires:
            yield load or CheckFacts(
                floor=LOAD, ok=None, text=f"no load test of it{f' at {slo}' if slo else ''} was recorded"
            )
        approval = approval_check(self.store, self.model, run, self.environment)
        if approval.ok is not None or APPROVED in requires:
            yield approval

    def _share(self, refused: int) -> CheckFacts:
        """Return whether so few segments were refused that the others may be released."""
        most, share = self.settings.environment(self.environment).most_refused, refused / max(1, len(self.new))
        limit = f", where at most {100 * most:g} % may" if most < 1 else ""
        text = f"{refused:,} of {len(self.new):,} segments keep what they had ({100 * share:.3g} %){limit}"
        return CheckFacts(floor=REFUSED, ok=share <= most, text=text)

    def _gate(self) -> CheckFacts:
        if not self.declared["gate"]:
            return CheckFacts(floor="gate", ok=False, text="the model declares none")
        judged = self._evidence(RETRAINING)
        if not judged:
            return CheckFacts(floor="gate", ok=None, text="not judged: only a retraining is put before the gate")
        facts: Mapping[str, Any] = judged[-1].facts
        # Evidence of earlier versions of modelmill says nothing of levels: their models were not judged.
        parents, refused = facts.get("judged_parents", 0), facts.get("refused_parents", 0)
        levels = f"; of levels {parents:,} judged, {refused:,} refused" if parents else ""
        text = f"{facts['judged']:,} judged, {facts['refused']:,} refused, which keep what they had{levels}"
        return CheckFacts(floor="gate", ok=judged[-1].verdict, text=text)

    def _evidence(self, kind: str) -> list[Evidence]:
        found = list_evidence(self.store.database, self.model, self.candidate.number)
        return [one for one in found if one.kind == kind]

    def _rehearsed(self) -> str:
        found = self._evidence(REHEARSAL)
        return rehearsal_text(found[-1].facts) if found else ""

    def _policy(self, declared: Policy) -> Policy:
        """Return how the release takes traffic: at once where nothing serves beside it, or where dev asks for no more."""
        if self.current is None:
            return Policy()
        asked = "canary" in self.settings.environment(self.environment).requires
        return declared if asked or self.environment != "dev" else Policy()

    def _unseen(self, *, runs: bool) -> tuple[str, ...]:
        """Return the machines that should run a node, but for this one where it does."""
        declared = self.settings.environment(self.environment).nodes
        return tuple(host for host in declared if not (runs and host == platform.node()))

    def _load(self) -> int:
        """Return how many bytes of packs the node has not mapped yet: its workers share them, and map each as a whole."""
        known = self.old.answering_packs() if self.old else set()
        return sum(len(self.store.blobs.open(pack)) for pack in self.new.answering_packs() - known)


READ = ("before", "version", "checks", "unmet", "steps", "of", "hold_s", "abort", "hold")
"""What has to be the same when a plan is applied; the two fleet maps besides."""
