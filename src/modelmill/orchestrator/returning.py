"""`rollback`: an environment goes back to what it served before, and its node is waited for.

It is one committed move of a pointer that is then published; nothing stands before it. It needs no database: what it goes
back to is named in what was published last. Where the node then lacks an environment, that is made, and the node takes it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase

from modelmill.errors import EnvironmentRefused, ModelmillError, NodesLagging, NotFound, PlatformError, UsageError
from modelmill.model.conditions import parse_duration
from modelmill.names import ModelName, Segment, format_segment, parse_target
from modelmill.orchestrator.deploying import target_and_environment
from modelmill.orchestrator.preparing import environments_kept
from modelmill.orchestrator.serve import wait_for_node
from modelmill.orchestrator.served import pick_model
from modelmill.outcomes import Progress, RollbackOutcome, no_progress
from modelmill.registry.fleet import FleetMap, compose, decode, sign
from modelmill.registry.host import user_name
from modelmill.release.pointers import find_published, open_map, order_rollback
from modelmill.release.releasing import current_release, get_release, previous_release, republish
from modelmill.release.rows import SignedDigest
from modelmill.release.staging import roll_back
from modelmill.requests import RollbackRequest
from modelmill.settings import Settings
from modelmill.store.blobs import blobs_of, pointers_of
from modelmill.store.opening import Store, open_store
from modelmill.store.signing import public_key
from modelmill.store.tables import now

_TRIES_S = 30.0
"""How long the node may take for an environment that was made for it: it looks again every five seconds."""
_LOOK_S = 0.25


def rollback(settings: Settings, request: RollbackRequest, progress: Progress = no_progress) -> RollbackOutcome:
    """Go back to what was served before, wholly or for some segments, and hold the model there."""
    began = time.monotonic()
    target, environment = target_and_environment(settings, request.what)
    name, pattern = _split(target)
    try:
        store = open_store(settings, create=False)
    except PlatformError as error:
        return _without_database(settings, request, error, progress)
    with store:
        republish(store, environment)
        model = pick_model(store, name)
        current = current_release(store.database, environment, model)
        to = _number(request.to) if request.to else None
        segments: tuple[Segment, ...] = ()
        composed = None
        if pattern is not None and current is not None:
            earlier = to or previous_release(store.database, environment, model, current.number)
            base, other = (
                decode(store.blobs.get(get_release(store.database, environment, model, number).map))
                for number in (current.number, earlier)
            )
            segments = _matching(base, other, pattern)
            composed = _composed(store, base, other, segments)
        until = now() + parse_duration(request.hold) if request.hold else None
        move = roll_back(
            store, environment, model, to=to, composed=composed, by=user_name(), reason=request.reason, until=until
        )
        control_s = time.monotonic() - began
        progress("line", {"text": f"{environment} points to r{move.after}; waiting for its node"})
        fleet = decode(store.blobs.get(get_release(store.database, environment, model, move.after).map))
        return RollbackOutcome(
            environment=environment,
            model=model,
            before=move.before,
            after=move.after,
            version=fleet.header.run,
            segments=tuple(map(format_segment, segments)),
            confirmed=_confirm(settings, environment, model, fleet, progress),
            control_s=control_s,
            seconds=time.monotonic() - began,
            next=f"modelmill resume {model} {environment}      (releases are on hold until then)",
        )


def _without_database(
    settings: Settings, request: RollbackRequest, error: ModelmillError, progress: Progress
) -> RollbackOutcome:
    """Order the roll-back past the database: nodes take it as any other, and the database learns of it later."""
    began = time.monotonic()
    target, environment = target_and_environment(settings, request.what)
    name, pattern = _split(target)
    pointers = pointers_of(settings.store_folder)
    published = find_published(pointers, environment)
    served = list(published.models) if published else []
    if pattern is not None or request.to or not served or (name is None and len(served) > 1):
        raise error
    model = ModelName(name or served[0])
    order = order_rollback(
        pointers, environment, model, user_name(), request.reason or "rolled back without the database"
    )
    control_s = time.monotonic() - began
    back = find_published(pointers, environment)
    blobs = blobs_of(settings.store_folder)
    fleet = open_map(blobs, back.models[model], public_key(settings.store_folder)) if back else None
    return RollbackOutcome(
        environment=environment,
        model=model,
        before=order.before,
        after=order.after,
        version=fleet.header.run if fleet else 0,
        confirmed=_confirm(settings, environment, model, fleet, progress),
        control_s=control_s,
        seconds=time.monotonic() - began,
        without_database=True,
        next="modelmill status      (once the database is back: it then learns of this)",
    )


def _confirm(settings: Settings, environment: str, model: ModelName, fleet: FleetMap | None, progress: Progress) -> int:
    """Wait for the node; where it lacks an environment, make that, and wait again. Return how many workers have confirmed.

    The pointer was moved before: a package index that is down must not keep anybody from going back. Raises `NodesLagging`
    where the node cannot open what it is to go back to, `EnvironmentRefused` where that is for want of an environment.
    """
    try:
        return wait_for_node(settings, environment, model)
    except NodesLagging:
        if fleet is None:
            raise
        try:
            with environments_kept(settings.store_folder, blobs_of(settings.store_folder), fleet, progress) as made:
                if not made:
                    raise
        except EnvironmentRefused as error:
            error.parts["safe"] = "the pointer is moved; the node serves on what it served before"
            error.parts["next"] = (
                f"modelmill rollback {model} {environment} --to rN      (another release; or: {error.parts['next']})"
            )
            raise
    return _wait_again(settings, environment, model)


def _wait_again(settings: Settings, environment: str, model: ModelName) -> int:
    """Wait until the node has tried again what it could not open."""
    deadline = time.monotonic() + _TRIES_S
    while time.monotonic() < deadline:
        try:
            return wait_for_node(settings, environment, model)
        except NodesLagging:
            time.sleep(_LOOK_S)
    return wait_for_node(settings, environment, model)


def _matching(base: FleetMap, other: FleetMap, pattern: str) -> tuple[Segment, ...]:
    """Return the segments of two maps that a pattern names, such as ``UA,*``, and that they answer differently."""
    one, two = base.answers(), other.answers()
    known = {format_segment(entry.segment): entry.segment for fleet in (base, other) for entry in fleet}
    found = [known[text] for text in sorted(known) if fnmatchcase(text, pattern)]
    if not found:
        raise NotFound(
            f"no segment of `{base.header.model}` is called `{pattern}`", next=f"modelmill search {base.header.model}"
        )
    return tuple(segment for segment in found if one.get(format_segment(segment)) != two.get(format_segment(segment)))


def _composed(store: Store, base: FleetMap, other: FleetMap, segments: Sequence[Segment]) -> SignedDigest:
    signed = sign(store.key, compose(base, other, segments))
    return SignedDigest(store.blobs.put([signed.content])[0], signed.signature)


def _split(target: str | None) -> tuple[str | None, str | None]:
    """Return the model and the pattern of segments that ``MODEL[SEGMENT]`` names."""
    if target is None:
        return None, None
    if "*" not in target:
        model, segment = parse_target(target)
        return model, None if segment is None else format_segment(segment)
    name, bracket, rest = target.partition("[")
    if not bracket or not rest.endswith("]"):
        raise UsageError(f"`{target}` is not written as MODEL[SEGMENT]", expected="such as 'air-time[JFK,*]'")
    return name, rest[:-1]


def _number(text: str) -> int:
    if not (text.startswith("r") and text[1:].isdecimal()):
        raise UsageError(f"`{text}` is not a release", expected="such as r11", next="modelmill history")
    return int(text[1:])
