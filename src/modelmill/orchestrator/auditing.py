"""`audit`: at which level a model is, from what is recorded and nothing else.

Facts are looked up where they are kept - runs, the fleet map, snapshots, releases, logged predictions, evidence - by a fixed
number of queries, however many segments a fleet has. `registry/audit` says what they amount to.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from modelmill.data.predictions import list_files
from modelmill.data.snapshot import Manifest, Snapshot
from modelmill.data.taking import get_snapshot
from modelmill.errors import ModelmillError, NotFound
from modelmill.names import Digest, ModelName
from modelmill.orchestrator.served import model_names, pick_model
from modelmill.outcomes import AuditOutcome, ModelAudit, Progress, no_progress
from modelmill.registry import runs
from modelmill.registry.audit import EMPTY, MOVEMENTS, PROMOTION, Cell, Fact, Rules, fill, level_of, read_rules
from modelmill.registry.evidence import AUDIT, REHEARSAL, REPRODUCED, Evidence, all_evidence, record_evidence
from modelmill.registry.facts import read_archive
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.lock import read_lock
from modelmill.registry.records import Run
from modelmill.registry.runs import newest_map
from modelmill.release.moving import ROLLBACK, list_moves
from modelmill.release.releasing import current_release, list_environments, list_places
from modelmill.release.rollouts import DONE, list_rollouts
from modelmill.requests import AuditRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

_ENOUGH_ROWS = 100
_MOST_WITHOUT_LAW = 0.05


def audit(settings: Settings, request: AuditRequest, _: Progress = no_progress) -> AuditOutcome:
    """Audit one model, or each of them, and keep the result: the next audit says what has changed."""
    with open_store(settings, create=False) as store:
        names = [pick_model(store, request.model)] if request.model else model_names(store)
        if not names:
            raise NotFound("nothing was built here yet", next="modelmill train")
        audits = tuple(_audit(store, name) for name in names)
    return AuditOutcome(
        rules=read_rules().version,
        audits=audits,
        fail_under=request.fail_under or 0,
        next=_next_of(audits[0]) if len(audits) == 1 else f"modelmill audit {audits[0].model}",
    )


def _audit(store: Store, name: ModelName) -> ModelAudit:
    rules = read_rules()
    run = newest_map(store.database, name)
    found = all_evidence(store.database, name)
    facts = dict(_Facts(store, run, found).all())
    cells = fill(rules, facts, now(), {"name": name.replace("-", "_"), "version": str(run.number)})
    movements = _movements(store, name, found)
    level, lacking, missing = level_of(rules, cells, movements)
    before = next((one for one in reversed(found) if one.kind == AUDIT), None)
    record_evidence(store.database, name, AUDIT, facts=_kept(rules, level, cells))
    return ModelAudit(
        model=name,
        version=run.number,
        segments=len(runs.recorded_segments(store.database, run)[0]),
        level=level,
        cells=tuple(cells),
        blocked_by=tuple(_text_of(cell) for cell in lacking) + tuple(f"no {one} was recorded" for one in missing),
        emptied=tuple(_emptied(before, cells)) if before else (),
        level_before=before.facts["level"] if before else None,
        rules_before=before.facts["rules"] if before else None,
    )


def _kept(rules: Rules, level: int, cells: list[Cell]) -> dict[str, Any]:
    return {"level": level, "rules": rules.version, "cells": {f"{c.row} {c.column}": c.state for c in cells}}


def _emptied(before: Evidence, cells: list[Cell]) -> Iterator[str]:
    for cell in cells:
        was = before.facts["cells"].get(f"{cell.row} {cell.column}", EMPTY)
        if was != EMPTY and cell.state == EMPTY:
            yield f"{cell.row} x {cell.column} was {was}"


def _movements(store: Store, name: ModelName, found: list[Evidence]) -> list[str]:
    """Return the movements that were seen: a promotion is one map, and so the same bytes, in two environments."""
    promoted = any(len(places) > 1 for places in list_places(store.database, name).values())
    return [one for one in MOVEMENTS if any(e.kind == one for e in found) or (one == PROMOTION and promoted)]


def _text_of(cell: Cell) -> str:
    told = cell.why or (f"{cell.next}   ({cell.minutes} min)" if cell.next else "")
    return (
        f"{cell.row} x {cell.column}   {cell.state}: {told}" if told else f"{cell.row} x {cell.column}   {cell.state}"
    )


def _next_of(audited: ModelAudit) -> str:
    """Return the first command that would fill a cell which the next level needs."""
    can = [cell for cell in audited.cells if cell.next.startswith("modelmill") and cell.level <= audited.level + 1]
    return can[0].next if can else f"modelmill show {audited.model}"


class _Facts:
    """What is recorded of a model's newest version."""

    def __init__(self, store: Store, run: Run, found: list[Evidence]) -> None:
        self.store, self.run, self.found = store, run, found
        self.declared: Mapping[str, Any] = msgspec.json.decode(store.blobs.get(run.declaration))

    def all(self) -> Iterator[tuple[str, Fact]]:
        """Yield every fact that holds; what is missing or unreadable is none."""
        for look in (
            self._code,
            self._lock,
            self._host,
            self._data,
            self._map,
            self._laws,
            self._release,
            self._answers,
        ):
            try:
                yield from list(look())
            except ModelmillError:  # bytes that are gone prove nothing
                continue
        yield from self._told()
        yield from self._from_evidence()

    def _code(self) -> Iterator[tuple[str, Fact]]:
        archive = read_archive(self.store.blobs, self.run.code)
        sources = {name: self.store.blobs.get(d) for name, d in archive.files.items() if name.endswith(".py")}
        yield "code kept", Fact(f"archive {self.run.code[:12]}")
        # A build imports it in processes of their own, by its recorded name.
        yield "imported elsewhere", Fact(f"run {self.run.number}")
        if self.run.commit and self.run.diff is None:
            yield "clean commit", Fact(f"commit {self.run.commit[:12]}")
        if all(
            ast.get_docstring(ast.parse(text)) for name, text in sources.items() if not name.endswith("__init__.py")
        ):
            yield "file described", Fact(f"archive {self.run.code[:12]}")

    def _lock(self) -> Iterator[tuple[str, Fact]]:
        lock = read_lock(self.store.blobs, self.run.lock)
        self.store.blobs.open(lock.wheel)
        yield "lock kept", Fact(f"lock {self.run.lock[:12]}, {len(lock.packages)} packages")
        yield "seed and parameters kept", Fact(f"run {self.run.number}, seed {self.run.seed}")

    def _host(self) -> Iterator[tuple[str, Fact]]:
        self.store.blobs.get(self.run.host)
        yield "host kept", Fact(f"host {self.run.host[:12]}")

    def _data(self) -> Iterator[tuple[str, Fact]]:
        snapshot = get_snapshot(self.store, self.run.snapshot)
        for file in (snapshot.manifest.index, *(file.digest for file in snapshot.manifest.files)):
            self.store.blobs.open(Digest(file))
        proof = Fact(f"{snapshot.label} {snapshot.id[:12]}")
        yield "snapshot kept", proof
        yield "contract checked", proof  # no snapshot is taken of rows that break it
        if snapshot.source.startswith("@data"):
            yield "read by @data", proof
        yield from self._dictionary(snapshot)

    def _dictionary(self, snapshot: Snapshot) -> Iterator[tuple[str, Fact]]:
        manifest: Manifest = snapshot.manifest
        columns = manifest.spec.columns
        described = [c for c in columns if c.doc and (c.unit or c.kind not in ("int", "float"))]
        proof = Fact(f"{len(described)} of {len(columns)} columns of {snapshot.label}")
        if any(column.doc or column.unit for column in columns):
            yield "some columns described", proof
        if len(described) == len(columns):
            yield "all columns described", proof

    def _map(self) -> Iterator[tuple[str, Fact]]:
        assert self.run.map is not None  # noqa: S101 - `newest_map` has looked
        fleet: FleetMap = decode(self.store.blobs.get(self.run.map))
        for pack in fleet.packs:
            self.store.blobs.open(pack)
        yield "map signed", Fact(f"map {self.run.map[:12]} of run {self.run.number}")
        if all(entry.runtime == "packed" for entry in fleet):
            yield "all packed", Fact(f"map {self.run.map[:12]}")

    def _laws(self) -> Iterator[tuple[str, Fact]]:
        laws, built = len(self.declared["laws"]), max(self.run.counts.get("built", 0), 1)
        if laws and self.run.counts.get("failed", 0) <= _MOST_WITHOUT_LAW * built:
            yield "laws hold", Fact(f"{laws} laws, {self.run.counts.get('failed', 0)} of {built} segments failed")

    def _release(self) -> Iterator[tuple[str, Fact]]:
        database, model = self.store.database, self.run.model
        places = list_environments(database)
        for place in places:
            release = current_release(database, place, model)
            if release is not None:
                yield "released", Fact(f"{place} r{release.number}", None)
                break
        for place in places:
            judged = [one for one in list_rollouts(database, place, model) if one.state == DONE]
            if judged:
                yield "canary judged", Fact(f"{place} r{judged[0].candidate}", judged[0].ended_at)
            back = [move for move in list_moves(database, place, model) if move.kind == ROLLBACK]
            if back:
                yield "rollback tried", Fact(f"{place} r{back[0].before} -> r{back[0].after}", back[0].at)

    def _answers(self) -> Iterator[tuple[str, Fact]]:
        files = list_files(self.store, self.run.model)
        if files:
            yield "answers counted", Fact(f"{sum(file.rows for file in files):,} logged answers")

    def _told(self) -> Iterator[tuple[str, Fact]]:
        if self.declared.get("purpose") and self.declared.get("owner"):
            yield "purpose and owner named", Fact(f"{self.declared['owner']}")

    def _from_evidence(self) -> Iterator[tuple[str, Fact]]:
        """Yield what was found out by doing; a later finding replaces an earlier one, and a bad one takes it away."""
        facts: dict[str, Fact | None] = {}
        for place, one in enumerate(self.found, start=1):
            proof = Fact(f"evidence {place}, {one.kind}", one.recorded_at)
            good = proof if one.verdict else None
            if one.kind == REPRODUCED:
                if str(one.facts.get("environment", "")).startswith("lock"):
                    facts["rebuilt from the lock"] = good
                facts["snapshot read again"] = proof
                if one.facts.get("by_another"):
                    facts["reproduced by another"] = good
            elif one.kind == "parity" and one.facts.get("rows", 0) >= _ENOUGH_ROWS:
                facts["served as trained"] = good
            elif one.kind == REHEARSAL:
                facts["rehearsed"] = good
            elif one.kind == "drill":
                facts["contract drilled"] = good
            elif one.kind == "retraining":
                facts["gate acted"] = proof
        yield from ((name, fact) for name, fact in facts.items() if fact is not None)
