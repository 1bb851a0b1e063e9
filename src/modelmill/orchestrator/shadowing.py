"""`shadow`: a version that answers copies of an environment's requests, and how far its answers are from those given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import msgspec

from modelmill.errors import NotFound, UsageError
from modelmill.names import Digest, ModelName
from modelmill.orchestrator.preparing import environments_kept
from modelmill.orchestrator.serve import wait_for_node
from modelmill.orchestrator.served import pick_model, pick_run
from modelmill.outcomes import ApartFacts, Progress, ShadowFacts, ShadowOutcome, no_progress
from modelmill.registry.fleet import check_answer_alike, decode
from modelmill.registry.host import user_name
from modelmill.release.releasing import current_release, get_release
from modelmill.release.rollouts import Rollout
from modelmill.release.shadows import ShadowRow, keep_seen, list_shadows
from modelmill.release.staging import begin_copies, end_copies
from modelmill.requests import ShadowRequest
from modelmill.serving.compared import Compared
from modelmill.serving.control import run_folder
from modelmill.serving.tallies import Apart
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

_WORST = 5


def shadow(settings: Settings, request: ShadowRequest, progress: Progress = no_progress) -> ShadowOutcome:
    """Begin, end or show shadows; what serves is never changed by it."""
    began, place = time.monotonic(), request.environment
    settings.environment(place)
    with open_store(settings, create=False) as store:
        model = pick_model(store, request.model)
        if request.stop:
            return _ended(store, settings, request, model, began)
        if request.version is None:
            shown = tuple(one for one in running_shadows(store, place) if one.model == model)
            return ShadowOutcome(environment=place, model=model, done="", shadows=shown, next="modelmill status")
        fleet = _map_of(store, model, request.version)
        with environments_kept(store.folder, store.blobs, decode(store.blobs.get(fleet)), progress):
            return _begun(store, settings, request, model, began)


def _begun(store: Store, settings: Settings, request: ShadowRequest, model: ModelName, began: float) -> ShadowOutcome:
    place, fleet = request.environment, _map_of(store, model, request.version)
    current = current_release(store.database, place, model)
    if current is not None:
        check_answer_alike(decode(store.blobs.get(current.map)), decode(store.blobs.get(fleet)))
    row = begin_copies(
        store, place, model, fleet, share=share_of(request.share), by=user_name(), reason=request.reason or "shadow"
    )
    return ShadowOutcome(
        environment=place,
        model=model,
        done="begun",
        shadows=(_facts(store, row),),
        confirmed=wait_for_node(settings, place, model),
        seconds=time.monotonic() - began,
        next=f"modelmill shadow --in {place}",
    )


def _ended(store: Store, settings: Settings, request: ShadowRequest, model: ModelName, began: float) -> ShadowOutcome:
    """End shadows, and keep what they came to once every worker has written down the last of it."""
    place = request.environment
    running = [row for row in list_shadows(store.database, place) if row.model == model and row.ended_at is None]
    if request.version is not None:
        wanted = _map_of(store, model, request.version)
        running = [row for row in running if get_release(store.database, place, model, row.release).map == wanted]
    if not running:
        raise NotFound(f"no such shadow of `{model}` runs in {place}", next=f"modelmill shadow --in {place}")
    by, reason = user_name(), request.reason or "shadow"
    ended = [end_copies(store, place, model, row.release, by=by, reason=reason) for row in running]
    confirmed = wait_for_node(settings, place, model)
    found = tuple(_facts(store, row) for row in ended)
    for row, facts in zip(ended, found, strict=True):
        keep_seen(store.database, row, msgspec.to_builtins(facts))
    return ShadowOutcome(
        environment=place,
        model=model,
        done="ended",
        shadows=found,
        confirmed=confirmed,
        seconds=time.monotonic() - began,
        next=f"modelmill plan {place}",
    )


def running_shadows(store: Store, environment: str) -> Iterator[ShadowFacts]:
    """Yield the shadows of an environment that somebody has begun and nobody has ended."""
    for row in list_shadows(store.database, environment):
        if row.ended_at is None:
            yield _facts(store, row)


def copies_of_canary(store: Store, rollout: Rollout) -> ShadowFacts | None:
    """Return what the candidate of a canary answered to copies; None where its first step is no shadow."""
    if not rollout.policy.has_shadow:
        return None
    ended = rollout.ended_at if rollout.is_shadow else rollout.step_at
    return _compared(store, rollout.environment, rollout.model, rollout.candidate, 1.0, (rollout.began_at, ended))


def _facts(store: Store, row: ShadowRow) -> ShadowFacts:
    return _compared(store, row.environment, row.model, row.release, row.share, (row.began_at, row.ended_at))


def _compared(
    store: Store,
    environment: str,
    model: ModelName,
    release: int,
    share: float,
    time: tuple[datetime, datetime | None],
) -> ShadowFacts:
    compared = Compared(run_folder(store.folder, environment))
    since = time[0].timestamp()
    tally = compared.whole(model, release, since)
    return ShadowFacts(
        environment=environment,
        model=model,
        release=release,
        version=decode(store.blobs.get(get_release(store.database, environment, model, release).map)).header.run,
        share=share,
        began_at=time[0],
        ended_at=time[1],
        apart=tuple(map(_apart, compared.apart(model, release, since, _WORST))),
        **tally.as_dict(),
    )


def _apart(found: Apart) -> ApartFacts:
    tally = found.tally
    return ApartFacts(
        segment=found.segment,
        copies=tally.count,
        failed=tally.failed,
        equal=tally.equal,
        mean_difference=tally.mean,
        largest_difference=tally.largest,
    )


def _map_of(store: Store, model: ModelName, version: int | None) -> Digest:
    found = pick_run(store, model, version).map
    assert found is not None  # noqa: S101 - `pick_run` has looked
    return found


def share_of(text: str) -> float:
    """Return a share that is written as one, such as 10%."""
    number = text.removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not (text.endswith("%") and 0 < share <= 1):
        raise UsageError(f"`{text}` is no share", expected="such as 10% or 100%")
    return share
