"""Which package environments nobody needs any more, and their end: what `fsck` says of them, and with `--repair` does.

Kept is what an environment serves, or a roll-back would go back to; what a process uses, be it a node that was asked for an
older version or a deploy that is being prepared; and for a week whatever was used. All else can be made again from its lock by
whoever needs it: `deploy`, `rollback`, `serve` and `reproduce` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from modelmill.errors import ModelmillError
from modelmill.names import Digest
from modelmill.orchestrator.preparing import locks_of
from modelmill.outcomes import EnvironmentFacts
from modelmill.registry.environment import Installed, environments_in, is_used, list_installed, remove_environment
from modelmill.release.pointers import Pointer, find_published, open_map
from modelmill.store.blobs import pointers_of
from modelmill.store.opening import Store

KEPT = timedelta(days=7)
"""For how long an environment stays after it was used: an older version may be asked for now and then."""


def clean_environments(store: Store, places: Sequence[str], *, remove: bool) -> Iterator[EnvironmentFacts]:
    """Yield the package environments of a store, each with why it is kept; with `remove`, what nobody needs goes."""
    folder = environments_in(store.folder)
    needing = Needing(store, places)
    for one in list_installed(folder):
        why = needing.why(one.lock) or _why_used(folder, one)
        gone = remove and not why and remove_environment(folder, one.lock, Needing(store, places).needs)
        if remove and not why and not gone:
            why = "needed since a moment ago"
        yield EnvironmentFacts(lock=one.lock, bytes=one.bytes, used_at=one.used_at, kept=why, removed=gone)


def _why_used(folder: Path, one: Installed) -> str:
    if is_used(folder, one.lock):
        return "a process uses it"
    return "used in the last week" if datetime.now(UTC) - one.used_at < KEPT else ""


class Needing:
    """Which environments the releases of some places need, as it is when that is first asked."""

    def __init__(self, store: Store, places: Sequence[str]) -> None:
        """Look at nothing yet."""
        self._store, self._places = store, places

    def needs(self, lock: Digest) -> bool:
        """Return whether a release needs an environment."""
        return bool(self.why(lock))

    def why(self, lock: Digest) -> str:
        """Return which release needs an environment, empty where none does; where that cannot be known, each might."""
        try:
            return self._locks.get(lock, "")
        except ModelmillError as error:
            return f"what is released cannot be read: {error.what}"

    @cached_property
    def _locks(self) -> dict[Digest, str]:
        pairs = (pair for place in self._places for pair in _published(self._store.folder, place))
        maps = ((text, open_map(self._store.blobs, pointer, self._store.public_key)) for text, pointer in pairs)
        return {lock: text for text, fleet in maps for lock in locks_of(fleet)}


def _published(folder: Path, place: str) -> Iterator[tuple[str, Pointer]]:
    """Yield all that an environment serves of each model, or may go back to."""
    published = find_published(pointers_of(folder), place)
    for name, pointer in published.models.items() if published else ():
        for one in _with_all(pointer):
            yield f"{name} r{one.release} in {place}", one


def _with_all(pointer: Pointer) -> Iterator[Pointer]:
    yield pointer.alone()
    if pointer.beside is not None:
        yield Pointer(pointer.beside.release, pointer.beside.map, pointer.beside.signature)
    yield from (shadow.alone() for shadow in pointer.shadows)
    if pointer.before is not None:
        yield from _with_all(pointer.before)
