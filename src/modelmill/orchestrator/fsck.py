"""`fsck`: whether everything that was recorded is still there, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Iterator

from modelmill.errors import BlobBroken
from modelmill.names import Digest
from modelmill.outcomes import FsckOutcome, Problem, Progress, no_progress
from modelmill.registry.fsck import fsck as look_through
from modelmill.release.pointers import find_published
from modelmill.release.releasing import list_environments
from modelmill.requests import FsckRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store


def fsck(settings: Settings, request: FsckRequest, progress: Progress = no_progress) -> FsckOutcome:
    """Read every blob that a row leads to; with `repair` remove what interrupted runs left behind."""
    began = time.monotonic()
    progress("line", {"text": f"reading {settings.store_folder}"})
    with open_store(settings, create=False) as store:
        report = look_through(store, repair=request.repair, named=_published(store))
    problems = [
        Problem(code=BlobBroken.code, what=f"{damage.what}: {damage.problem}", where=damage.digest)
        for damage in report.damaged
    ]
    untidy = report.orphans or report.leftovers
    return FsckOutcome(
        checked={"blobs": report.checked},
        problems=tuple(problems),
        unreferenced=len(report.orphans),
        leftovers=len(report.leftovers),
        removed=report.removed,
        seconds=time.monotonic() - began,
        next="modelmill train --rebuild"
        if problems
        else "modelmill fsck --repair"
        if untidy and not request.repair
        else "",
    )


def _published(store: Store) -> Iterator[tuple[Digest, str]]:
    """Yield the blobs that only a published pointer names: nodes find earlier versions by them."""
    for environment in list_environments(store.database):
        published = find_published(store.pointers, environment)
        for pointer in published.models.values() if published else ():
            if pointer.versions is not None:
                yield pointer.versions, "list of versions"
