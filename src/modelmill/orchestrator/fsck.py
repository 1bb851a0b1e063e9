"""`fsck`: whether everything that was recorded is still there, byte for byte, and what lies about that nobody needs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from modelmill.errors import BlobBroken
from modelmill.names import Digest
from modelmill.orchestrator.cleaning import clean_environments
from modelmill.outcomes import FsckOutcome, Problem, Progress, no_progress
from modelmill.registry.environment import environments_in
from modelmill.registry.fsck import fsck as look_through
from modelmill.release.pointers import find_published
from modelmill.release.releasing import list_environments
from modelmill.requests import FsckRequest
from modelmill.settings import Settings
from modelmill.store.files import leftovers, sweep
from modelmill.store.opening import Store, open_store


def fsck(settings: Settings, request: FsckRequest, progress: Progress = no_progress) -> FsckOutcome:
    """Read every blob that a row leads to; with `repair` remove what interrupted runs left behind, and what nobody needs."""
    began = time.monotonic()
    progress("line", {"text": f"reading {settings.store_folder}"})
    with open_store(settings, create=False) as store:
        report = look_through(store, repair=request.repair, named=_published(store))
        places = tuple(list_environments(store.database))
        installed = tuple(clean_environments(store, places, remove=request.repair))
        left = (sweep if request.repair else leftovers)(environments_in(store.folder))
    problems = [
        Problem(code=BlobBroken.code, what=f"{damage.what}: {damage.problem}", where=damage.digest)
        for damage in report.damaged
    ]
    untidy = report.orphans or report.leftovers or left or not all(one.kept for one in installed)
    return FsckOutcome(
        checked={"blobs": report.checked} | ({"environments": len(installed)} if installed else {}),
        problems=tuple(problems),
        unreferenced=len(report.orphans),
        leftovers=len(report.leftovers) + len(left),
        removed=report.removed + (len(left) if request.repair else 0),
        environments=installed,
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
