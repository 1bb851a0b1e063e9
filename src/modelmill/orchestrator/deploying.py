"""`deploy`, `promote`, `hold`, `resume`, `history`: what an environment serves is moved forwards, and its node is waited for.

Each is one committed move of a pointer that is then published; the node takes it within a quarter of a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec

from modelmill.errors import (
    ApprovalNeeded,
    FloorNotMet,
    NotFound,
    OnHold,
    PlanOutdated,
    UsageError,
)
from modelmill.model.conditions import parse_duration
from modelmill.names import Digest, ModelName, Segment, format_segment, is_shared
from modelmill.orchestrator.approving import FLOOR as APPROVED
from modelmill.orchestrator.canaries import follow, holds_of, rollout_facts
from modelmill.orchestrator.champions import known_verdicts
from modelmill.orchestrator.planning import READ, Planned, make_plan, read_plan
from modelmill.orchestrator.preparing import environments_kept
from modelmill.orchestrator.rehearsing import rehearsal_text, rehearse_release
from modelmill.orchestrator.serve import wait_for_node
from modelmill.orchestrator.served import model_names, pick_model
from modelmill.outcomes import (
    DeployOutcome,
    HistoryOutcome,
    HoldOutcome,
    MoveFacts,
    PlanOutcome,
    Progress,
    no_progress,
)
from modelmill.registry.fleet import FleetMap, check_answer_alike, decode
from modelmill.registry.host import user_name
from modelmill.registry.runs import get_signature
from modelmill.release.moving import CANARY, RELEASE, ROLLBACK, STOP, Hold, list_moves
from modelmill.release.pointers import Pointer, check_packs, open_map
from modelmill.release.releasing import (
    list_environments,
    release,
)
from modelmill.release.rollouts import DONE, Rollout, check_alone
from modelmill.release.staging import lift_hold, release_beside, set_hold
from modelmill.requests import (
    DeployRequest,
    HistoryRequest,
    HoldRequest,
    PromoteRequest,
    ResumeRequest,
)
from modelmill.serving.control import find_node, run_folder
from modelmill.serving.history import History
from modelmill.serving.onnx import check_graphs_open
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

_PLAN_SUFFIXES = (".plan", ".json")


# ------------------------------------------------------------------ forwards


def deploy(settings: Settings, request: DeployRequest, progress: Progress = no_progress) -> DeployOutcome:
    """Release a version as it was planned; without ``yes`` the plan is shown and `ApprovalNeeded` raised."""
    written = read_plan(request.target) if request.target.endswith(_PLAN_SUFFIXES) else None
    with open_store(settings, create=False) as store:
        if written is None:
            planned = make_plan(store, settings, request.target, request.model, request.version)
        else:
            planned = make_plan(store, settings, written.environment, written.model, written.version)
        _check_same(planned.outcome, written, request.plan)
        if not request.yes and written is None and not planned.outcome.nothing:
            _check_allowed(planned.outcome)
            progress("plan", {"outcome": planned.outcome})
            raise _asked(planned.outcome)
        return apply_plan(store, settings, planned, request.reason or "deploy", None if request.detach else progress)


def promote(settings: Settings, request: PromoteRequest, progress: Progress = no_progress) -> DeployOutcome:
    """Release a version that was built before to another environment; its bytes are those of every other environment."""
    if request.version is None or not request.environment:
        raise UsageError("a promotion needs a version and an environment", expected="modelmill promote 2 --to prod")
    with open_store(settings, create=False) as store:
        planned = make_plan(store, settings, request.environment, request.model, request.version)
        return apply_plan(store, settings, planned, request.reason or "promotion", None if request.detach else progress)


def _check_same(found: PlanOutcome, written: PlanOutcome | None, wanted: str | None) -> None:
    """Refuse a plan that is no longer what it was, and say what of it has changed."""
    if written is None and wanted in (None, found.id):
        return
    if written is not None and written.id == found.id:
        return
    differing = [
        f"{name}: {_text(getattr(written, name))} -> {_text(getattr(found, name))}"
        for name in (*READ, "changed")
        if written is not None and getattr(written, name) != getattr(found, name)
    ]
    raise PlanOutdated(
        f"plan {written.id if written else wanted} is not what {found.environment} would get now: that is {found.id}",
        got="\n".join(differing) or "the version, or what it was compared with, is another one",
        next=f"modelmill plan {found.environment}",
        safe="nothing was moved",
    )


def _text(value: object) -> str:
    return f"{len(value):,} of them" if isinstance(value, tuple) and len(value) > 3 else str(value)


def _check_allowed(plan: PlanOutcome) -> None:
    """Raise `OnHold` or `FloorNotMet` where a plan may not be applied."""
    if plan.hold:
        raise OnHold(
            f"releases of `{plan.model}` to {plan.environment} are on hold",
            got=plan.hold,
            next=f"modelmill resume {plan.model} {plan.environment}",
            safe="nothing was moved",
        )
    if plan.unmet == (APPROVED,):
        raise ApprovalNeeded(
            f"version {plan.version} of `{plan.model}` waits for somebody's approval for {plan.environment}",
            got=next(check.text for check in plan.checks if check.floor == APPROVED),
            next=f"modelmill approve {plan.version} --for {plan.environment}      (by somebody who has not built it)",
            safe="nothing was moved",
        )
    if plan.unmet:
        texts = {check.floor: check.text for check in plan.checks}
        raise FloorNotMet(
            f"{plan.environment} requires more than version {plan.version} of `{plan.model}` has",
            got="\n".join(f"{floor}: {texts.get(floor, 'the model declares none')}" for floor in plan.unmet),
            next=f"modelmill plan {plan.environment}",
            safe=f"{plan.environment} serves what it served before",
        )


def _asked(plan: PlanOutcome) -> ApprovalNeeded:
    return ApprovalNeeded(
        f"plan {plan.id} was not applied: nobody has said yes",
        next=f"modelmill deploy {plan.environment} --yes --plan {plan.id}",
        safe="nothing was moved",
    )


def apply_plan(
    store: Store,
    settings: Settings,
    planned: Planned,
    reason: str,
    progress: Progress | None,
    *,
    rehearsal: bool = True,
) -> DeployOutcome:
    """Move the pointer as planned, and wait for the node; a canary is followed where there is somebody to tell."""
    began, plan = time.monotonic(), planned.outcome
    if not plan.nothing:
        _check_allowed(plan)
        with store.database.read() as c:
            check_alone(c, plan.environment, planned.model)
    if planned.candidate.map is None:
        raise NotFound(f"run {plan.version} of `{plan.model}` built nothing")
    with ExitStack() as kept:
        if not plan.nothing:
            fleet = _check_sound(store, planned, planned.candidate.map)
            kept.enter_context(environments_kept(store.folder, store.blobs, fleet, progress or no_progress))
        rehearsed = _rehearse(store, planned, progress or no_progress) if rehearsal and not plan.nothing else ""
        if not planned.policy.steps or plan.nothing:
            moved = _moved(store, settings, planned, planned.candidate.map, reason)
            return msgspec.structs.replace(moved, rehearsed=rehearsed, seconds=time.monotonic() - began)
        rollout, begun = _begin_canary(store, settings, planned, planned.candidate.map, reason)
    begun = msgspec.structs.replace(begun, rehearsed=rehearsed)
    # A node that is slow to open the candidate, such as one whose model runs in a child, still has it watched.
    runs = find_node(settings.store_folder, plan.environment) is not None
    return _followed(store, rollout, begun, progress) if progress and runs else begun


def _moved(store: Store, settings: Settings, planned: Planned, fleet: Digest, reason: str) -> DeployOutcome:
    """Have the version answer for everybody, and wait for the node."""
    began, plan, by = time.monotonic(), planned.outcome, user_name()
    found = release(store, plan.environment, planned.model, fleet, expected=plan.before, by=by, reason=reason)
    control_s = time.monotonic() - began
    return DeployOutcome(
        plan=plan,
        release=found.number,
        moved=not plan.nothing,
        confirmed=wait_for_node(settings, plan.environment, planned.model),
        control_s=control_s,
        next=f"modelmill rollback {plan.model} {plan.environment}" if plan.before else "modelmill status",
    )


def _rehearse(store: Store, planned: Planned, progress: Progress) -> str:
    """Have a fresh process answer with the version before anything is moved; return what came of it."""
    plan, run = planned.outcome, planned.candidate
    progress("line", {"text": f"rehearsal of version {run.number} in a fresh process"})
    found = rehearse_release(store, plan.environment, run, set(plan.changed))
    return rehearsal_text(msgspec.structs.asdict(found))


def _check_sound(store: Store, planned: Planned, fleet: Digest) -> FleetMap:
    """Return the map; raise what any node would stumble over: a byte, a signature, a runtime that is not right."""
    signature = get_signature(store.database, planned.model, fleet)
    found = open_map(store.blobs, Pointer(0, fleet, signature), store.public_key)
    check_graphs_open(found)
    known = decode(store.blobs.get(planned.current.map)).packs if planned.current else ()
    check_packs(store.blobs, set(found.packs) - set(known))
    return found


def _begin_canary(
    store: Store, settings: Settings, planned: Planned, fleet: Digest, reason: str
) -> tuple[Rollout, DeployOutcome]:
    """Have the candidate take its first step; the node's deployer takes the others, or takes it back."""
    began, plan = time.monotonic(), planned.outcome
    current, candidate = (decode(store.blobs.get(digest)) for digest in (planned.current_map, fleet))
    check_answer_alike(current, candidate)
    rollout = release_beside(
        store,
        plan.environment,
        planned.model,
        fleet,
        planned.policy,
        _traffic(settings, plan.environment, candidate),
        expected=plan.before,
        by=user_name(),
        reason=reason,
    )
    control_s = time.monotonic() - began
    confirmed = wait_for_node(settings, plan.environment, planned.model)
    return rollout, DeployOutcome(
        plan=plan,
        release=rollout.candidate,
        moved=False,
        canary=rollout_facts(store, rollout),
        confirmed=confirmed,
        control_s=control_s,
        seconds=time.monotonic() - began,
        next="modelmill status" if confirmed or plan.runs else f"modelmill serve --env {plan.environment}",
    )


def _followed(store: Store, rollout: Rollout, begun: DeployOutcome, progress: Progress) -> DeployOutcome:
    """Tell of a canary until it has ended; whoever interrupts that stops listening, not the canary."""
    try:
        canary = follow(store, rollout, progress)
    except KeyboardInterrupt:
        progress("line", {"text": "the canary goes on; modelmill status tells of it"})
        return begun
    done = canary.state == DONE
    following = f"modelmill rollback {rollout.model} {rollout.environment}" if done else "modelmill history"
    return msgspec.structs.replace(begun, moved=done, canary=canary, next=following)


def _traffic(settings: Settings, environment: str, fleet: FleetMap) -> dict[Segment, int]:
    """Return the segments among which a canary is drawn, each with how often it was asked in the last hour."""
    history = History(run_folder(settings.store_folder, environment))
    asked = history.asked(fleet.header.model, time.time() - 3600) if history.exists else {}
    return {
        entry.segment: asked.get(format_segment(entry.segment), 0) for entry in fleet if not is_shared(entry.segment)
    }


# ------------------------------------------------------------------ hold, resume, history


def hold(settings: Settings, request: HoldRequest, _: Progress = no_progress) -> HoldOutcome:
    """Have nothing of a model released to an environment."""
    target, environment = target_and_environment(settings, request.what)
    with open_store(settings, create=False) as store:
        model = pick_model(store, target)
        moment = now()
        until = moment + parse_duration(request.length) if request.length else None
        wanted = Hold(moment, until, user_name(), request.reason)
        move = set_hold(store, environment, model, wanted)
    return HoldOutcome(
        environment=environment,
        model=model,
        held=True,
        release=move.after,
        until=until,
        reason=request.reason,
        next=f"modelmill resume {model} {environment}",
    )


def resume(settings: Settings, request: ResumeRequest, _: Progress = no_progress) -> HoldOutcome:
    """Lift what holds a model in an environment."""
    target, environment = target_and_environment(settings, request.what)
    with open_store(settings, create=False) as store:
        model = pick_model(store, target)
        move = lift_hold(store, environment, model, by=user_name(), reason=request.reason)
    return HoldOutcome(
        environment=environment, model=model, held=False, release=move.after, next=f"modelmill plan {environment}"
    )


def history(settings: Settings, request: HistoryRequest, _: Progress = no_progress) -> HistoryOutcome:
    """Say what was current when, who moved it and why."""
    words = list(request.what)
    environment = words.pop() if words and words[-1] in settings.places else None
    with open_store(settings, create=False) as store:
        models = [pick_model(store, words[0])] if words else model_names(store)
        places = [environment] if environment else list_environments(store.database)
        pairs = [(model, place) for place in places for model in models]
        moves = [move for model, place in pairs for move in _moves(store, place, model, request.limit)]
        held = holds_of(store, pairs)
    newest = sorted(moves, key=lambda move: move.at, reverse=True)[: request.limit]
    return HistoryOutcome(
        moves=tuple(newest),
        holds=held,
        next="modelmill status",
    )


def _moves(store: Store, environment: str, model: ModelName, limit: int) -> Iterator[MoveFacts]:
    """Yield the moves of a model, the newest first, each with what labels said of the release that it is about."""
    verdicts = known_verdicts(store, environment, model)
    for move in list_moves(store.database, environment, model, limit):
        about = {RELEASE: move.after, CANARY: move.after, STOP: move.before, ROLLBACK: move.before}.get(move.kind, 0)
        facts = msgspec.structs.asdict(move)
        yield MoveFacts(environment=environment, model=model, quality=verdicts.get(about), **facts)


# ------------------------------------------------------------------ words


def target_and_environment(settings: Settings, words: Sequence[str]) -> tuple[str | None, str]:
    """Return what is meant by ``[MODEL[SEGMENT]] ENVIRONMENT``."""
    if not 1 <= len(words) <= 2:
        raise UsageError("an environment is needed", expected="[MODEL] ENVIRONMENT, such as: air-time prod")
    settings.environment(words[-1])
    return (words[0] if len(words) > 1 else None), words[-1]
