"""The package environments that a release needs on its node, made before anything is moved: a node installs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from modelmill.errors import EnvironmentRefused, ModelmillError, ReproductionError
from modelmill.names import Digest
from modelmill.outcomes import Progress
from modelmill.registry.environment import Use, environment_for, environments_in, has_environment, wanted_by
from modelmill.registry.fleet import FleetMap
from modelmill.registry.lock import differences_here, read_lock
from modelmill.release.pointers import Pointer, Published, open_map
from modelmill.store.blobs import Blobs, blobs_of
from modelmill.store.signing import public_key


class Needed(NamedTuple):
    """A package environment that answers for some versions of a map, and is not the node's own."""

    lock: Digest
    differences: list[str]
    """What the node's own packages are instead, a line each."""
    is_made: bool

    @property
    def text(self) -> str:
        """Return what it is, as a plan shows it."""
        made = "is there" if self.is_made else "will be made"
        shown = "; ".join(self.differences[:_SHOWN])
        return f"environment {self.lock[:8]} {made}   {shown}{' ...' if len(self.differences) > _SHOWN else ''}"


_SHOWN = 3


def needed_environments(store: Path, blobs: Blobs, fleet: FleetMap) -> Iterator[Needed]:
    """Yield the environments that a map's versions need besides the packages of the node itself."""
    for lock in sorted(locks_of(fleet)):
        differences = differences_here(read_lock(blobs, lock))
        if differences:
            yield Needed(lock, differences, has_environment(environments_in(store), lock))


def locks_of(fleet: FleetMap) -> set[Digest]:
    """Return the locks of what answers for a map in a child process."""
    return {home.lock for home in fleet.homes() if home.lock is not None}


def prepare_environments(store: Path, blobs: Blobs, fleet: FleetMap, progress: Progress) -> int:
    """Make what is missing and return how many that were; raises `EnvironmentRefused` where one cannot be made."""
    with environments_kept(store, blobs, fleet, progress) as made:
        return made


@contextmanager
def environments_kept(store: Path, blobs: Blobs, fleet: FleetMap, progress: Progress) -> Iterator[int]:
    """Do the same, and have nobody remove any of them for a block: until what needs them is published."""
    uses, made = [], 0
    try:
        for one in needed_environments(store, blobs, fleet):
            uses.append(Use(environments_in(store), one.lock))  # first: what was there a moment ago may go just now
            if not has_environment(environments_in(store), one.lock):
                _make(store, blobs, fleet, one, progress)
                made += 1
        yield made
    finally:
        for use in uses:
            use.end()


def prepare_published(store: Path, published: Published, progress: Progress) -> int:
    """Make what is missing for all that is published: another machine may have released it, or a cache was emptied.

    What cannot be made, or not even be opened, is told and left to the node, which answers for all other models.
    """
    blobs, public, made = blobs_of(store), public_key(store), 0
    for pointer in (one for found in published.models.values() for one in _all_of(found)):
        try:
            made += prepare_environments(store, blobs, open_map(blobs, pointer, public), progress)
        except ModelmillError as error:
            progress("line", {"text": "   ".join(error.lines())})
    return made


def _all_of(pointer: Pointer) -> Iterator[Pointer]:
    """Yield what a node opens for a pointer."""
    yield pointer.alone()
    if pointer.beside is not None:
        yield Pointer(pointer.beside.release, pointer.beside.map, pointer.beside.signature)
    yield from (shadow.alone() for shadow in pointer.shadows)


def _make(store: Path, blobs: Blobs, fleet: FleetMap, one: Needed, progress: Progress) -> None:
    def tell(text: str) -> None:
        progress("line", {"text": f"{text}   ({'; '.join(one.differences[:_SHOWN])})"})

    try:
        environment_for(environments_in(store), wanted_by(blobs, one.lock), tell)
    except ReproductionError as error:
        raise EnvironmentRefused(
            f"the packages that `{fleet.header.model}` was built with cannot be installed here: {error.what}",
            got="\n".join(filter(None, ("; ".join(one.differences), error.parts.get("got", "")))),
            likely=error.parts.get("likely", ""),
            next=error.parts.get("next", ""),
            safe="nothing was moved",
        ) from error
