"""What is asked before a release may answer anybody: golden rows of its segments, in a fresh process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from modelmill.errors import NotFound, RehearsalFailed
from modelmill.names import ModelName, VersionId, format_segment
from modelmill.registry.evidence import REHEARSAL, record_evidence
from modelmill.registry.fleet import Entry, FleetMap
from modelmill.registry.host import user_name
from modelmill.registry.records import Run
from modelmill.registry.versions import Version, get_versions
from modelmill.release.pointers import Pointer, open_map
from modelmill.serving.rehearsal import Question, RehearsalOrder, Rehearsed, rehearse
from modelmill.store.opening import Store
from modelmill.store.packs import PackReader

T = TypeVar("T")
MOST = 400
"""Segments that are asked, of those that change first: the bytes of all others are verified all the same."""


def rehearse_release(store: Store, environment: str, run: Run, changed: set[str]) -> Rehearsed:
    """Have a fresh process open a version and answer golden rows; raises `RehearsalFailed` where it answers otherwise.

    `changed` are segments that an environment would answer otherwise with it: they are asked first. What came of it is kept
    as evidence of the version.
    """
    if run.map is None or run.signature is None:
        raise NotFound(f"run {run.number} of `{run.model}` built nothing", next=f"modelmill show {run.model}")
    pointer = Pointer(0, run.map, run.signature)
    fleet = open_map(store.blobs, pointer, store.public_key)
    questions = list(golden_questions(store, run.model, _chosen(fleet, changed)))
    found = rehearse(RehearsalOrder(str(store.folder), pointer, questions))
    facts = {
        **msgspec.to_builtins(found),
        "environment": environment,
        "segments": len(fleet),
        "user": user_name(),
        "host": os.uname().nodename,
    }
    record_evidence(store.database, run.model, REHEARSAL, number=run.number, verdict=found.ok, facts=facts)
    if not found.ok:
        raise RehearsalFailed(
            f"version {run.number} of `{run.model}` does not answer in a fresh process as it did when it was built",
            got=found.error or "\n".join(found.wrong),
            next="modelmill fsck" if found.error else f"modelmill reproduce {run.number}",
            safe=f"{environment} serves what it served before",
        )
    return found


def rehearsal_text(facts: Mapping[str, Any]) -> str:
    """Return what came of a rehearsal, as it is shown."""
    if facts["error"]:
        return f"it could not be opened: {facts['error']}"
    if facts["failed"]:
        return f"{facts['failed']:,} of {facts['asked']:,} segments answered otherwise than at their build"
    return f"{facts['asked']:,} segments answered as at their build, {facts['identical']:,} of them to the bit"


def _chosen(fleet: FleetMap, changed: set[str]) -> list[Entry]:
    """Return what is asked: evenly drawn from the segments that change, and where these are few from all."""
    own = [entry for entry in fleet if entry.state == "own"]
    first = [entry for entry in own if format_segment(entry.segment) in changed]
    others = [entry for entry in own if format_segment(entry.segment) not in changed]
    return [*choose_evenly(first, MOST), *choose_evenly(others, max(0, MOST - len(first)))]


def choose_evenly(entries: Sequence[T], most: int) -> Sequence[T]:
    """Return so many of a sequence at most, from all of its length."""
    if len(entries) <= most:
        return entries
    return [entries[place * len(entries) // most] for place in range(most)]


def golden_questions(store: Store, model: ModelName, entries: Sequence[Entry]) -> Iterator[Question]:
    """Yield what the versions recorded of themselves; one that recorded nothing is not asked."""
    readers: dict[str, PackReader] = {}
    for version in get_versions(store.database, [VersionId(model, one.segment, one.number) for one in entries]):
        if version.extras is None:
            continue
        pack = readers.get(version.pack) or readers.setdefault(version.pack, PackReader(store.blobs.open(version.pack)))
        golden = _golden(pack, version)
        names = list(golden["rows"])
        rows = [dict(zip(names, row, strict=True)) for row in zip(*golden["rows"].values(), strict=True)]
        yield Question(format_segment(version.id.segment), rows, golden["answers"])


def _golden(pack: PackReader, version: Version) -> dict[str, Any]:
    if version.extras is None:
        raise AssertionError("looked at before")
    found: dict[str, Any] = msgspec.msgpack.decode(
        pack.entry(version.extras_offset, version.extras_length, version.extras)
    )
    return found
