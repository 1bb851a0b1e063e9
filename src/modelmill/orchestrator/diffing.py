"""`diff`: what lies between two versions, runs, releases or snapshots, and so which change it is.

Everything comes from records: archives, locks, declarations, digests, metrics. Only `--answers` opens models: it asks both
sides the same rows.
"""

from __future__ import annotations

import difflib
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from modelmill.data.diff import SnapshotDiff, diff_snapshots
from modelmill.data.taking import get_snapshot
from modelmill.errors import GateRefused, LawFailed, NotFound, UsageError
from modelmill.model.metrics import higher_is_better
from modelmill.names import Digest, ModelName, Segment, format_segment, format_target, is_shared, parse_target
from modelmill.orchestrator.rows import ENVIRONMENT
from modelmill.orchestrator.served import pick_model
from modelmill.outcomes import DiffOutcome, MetricDiff, Moved, Progress, no_progress
from modelmill.registry import runs
from modelmill.registry.change import Change, change_of
from modelmill.registry.facts import read_archive
from modelmill.registry.fleet import Entry, FleetMap, decode
from modelmill.registry.host import host_differences, read_host
from modelmill.registry.lock import lock_differences, read_lock
from modelmill.registry.records import Run
from modelmill.registry.versions import Measured, measured_versions
from modelmill.release.releasing import get_release
from modelmill.requests import DataDiffRequest, DiffRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

_RELEASE = re.compile(r"r(\d{1,9})")
_CODE_LINES = 200
_EXAMPLES = 5
_REFUSALS = (LawFailed.code, GateRefused.code)
_DECLARED = (
    *(
        "by",
        "min_rows",
        "test_share",
        "metrics",
        "seed",
        "fresh",
        "keeps",
        "laws",
        "checks",
        "needs",
        "gate",
        "retrain",
    ),
    *("canary", "owner", "purpose"),
)


class _Side(NamedTuple):
    """One of the two that are compared."""

    name: str
    run: Run
    fleet: FleetMap


def diff(settings: Settings, request: DiffRequest, _: Progress = no_progress) -> DiffOutcome:
    """Say what lies between two things of one kind."""
    began = time.monotonic()
    with open_store(settings, create=False) as store:
        if any("@s" in word for word in request.what):
            return _of_snapshots(store, request.what, began)
        model, segment, one, other = _sides(store, request.what)
        outcome = _Comparison(store, model, segment, one, other).outcome(every=request.every)
        if request.answers:
            outcome = _with_answers(store, settings, outcome, one, other)
    return msgspec.structs.replace(outcome, seconds=time.monotonic() - began)


def diff_data(settings: Settings, request: DataDiffRequest, _: Progress = no_progress) -> DiffOutcome:
    """Say what lies between two snapshots, their rows included."""
    began = time.monotonic()
    with open_store(settings, create=False) as store:
        return _of_snapshots(store, request.what, began)


def _of_snapshots(store: Store, what: Sequence[str], began: float) -> DiffOutcome:
    if len(what) != 2:
        raise UsageError(
            "which two snapshots?", got=" ".join(what), expected="modelmill data diff flights@s1 flights@s2"
        )
    before, after = (get_snapshot(store, name) for name in what)
    found = diff_snapshots(store, before, after)
    return DiffOutcome(
        kind="snapshots",
        before=before.label,
        after=after.label,
        change="same" if before.id == after.id else "",
        data=found,
        seconds=time.monotonic() - began,
        next=f"modelmill train --snapshot {after.label}",
    )


# ------------------------------------------------------------------ what is compared


def _sides(store: Store, what: Sequence[str]) -> tuple[ModelName, Segment | None, _Side, _Side]:
    *targets, before, after = what if len(what) >= 2 else ("", "")
    if len(targets) > 1 or not before:
        raise UsageError(
            "which two?",
            got=" ".join(what),
            expected="[MODEL[SEGMENT]] VERSION VERSION, or two releases such as r1 r2, or two snapshots",
        )
    name, segment = parse_target(targets[0]) if targets else (None, None)
    model = pick_model(store, name)
    target = format_target(model, segment) if segment is not None else str(model)
    one, other = (_of_segment(store, _side(store, model, word, target), target, segment) for word in (before, after))
    return model, segment, one, other


def _of_segment(store: Store, side: _Side, target: str, segment: Segment | None) -> _Side:
    """Return the side with the run that built this segment: a run carries forward what did not change, or failed."""
    entry = side.fleet.find(segment) if segment is not None else None
    if entry is None or entry.number == side.run.number:
        return side
    name = f"{target} {entry.number}, which is that of {side.name.rpartition(' ')[2]}"
    return side._replace(name=name, run=runs.get_run(store.database, side.run.model, entry.number))


def _side(store: Store, model: ModelName, word: str, target: str) -> _Side:
    release = _RELEASE.fullmatch(word)
    if release:
        digest = get_release(store.database, ENVIRONMENT, model, int(release[1])).map
        fleet = decode(store.blobs.get(digest))
        return _Side(f"{target} {word} of {ENVIRONMENT}", runs.get_run(store.database, model, fleet.header.run), fleet)
    if not word.isdecimal():
        raise UsageError(f"`{word}` is neither a version nor a release", expected="3, or r3")
    run = runs.get_run(store.database, model, int(word))
    if run.map is None:
        raise NotFound(f"run {run.number} of `{model}` built nothing", next=f"modelmill show {model}")
    return _Side(f"{target} {word}", run, decode(store.blobs.get(run.map)))


# ------------------------------------------------------------------ comparing


class _Comparison:
    """Two sides of one model, of all its segments or of one."""

    def __init__(self, store: Store, model: ModelName, segment: Segment | None, before: _Side, after: _Side) -> None:
        self.store, self.model, self.segment, self.before, self.after = store, model, segment, before, after
        old, new = self._entries(before), self._entries(after)
        if segment is not None and not (segment in old and segment in new):
            side = before if segment not in old else after
            raise NotFound(f"{side.name} has no `{format_target(model, segment)}`", next=f"modelmill search {model}")
        self.old, self.new = old, new
        numbers = {entry.number for entry in (*old.values(), *new.values())}
        self.measured = measured_versions(store.database, model, numbers, segment)

    def _entries(self, side: _Side) -> dict[Segment, Entry]:
        if self.segment is not None:
            found = side.fleet.find(self.segment)
            return {self.segment: found} if found is not None else {}
        return {entry.segment: entry for entry in side.fleet}

    def outcome(self, *, every: bool) -> DiffOutcome:
        """Return what differs; with `every`, the metrics of every segment."""
        one, other = self.before.run, self.after.run
        names = {
            "code": one.code != other.code,
            "data": self._data_differs(),
            "model": one.model_digest != other.model_digest,
        }
        change = change_of(data=names["data"], recipe=names["code"] or names["model"])
        shared = self.old.keys() & self.new.keys()
        moved = [key for key in shared if self.old[key].artifact != self.new[key].artifact]
        return DiffOutcome(
            kind="versions",
            before=self.before.name,
            after=self.after.name,
            segment=format_segment(self.segment) if self.segment is not None else "",
            change=str(Change.SAME if not moved and not any(names.values()) else change),
            differs=tuple(name for name, differs in names.items() if differs),
            code=tuple(self._code()),
            commits=_commits(one, other),
            lock=tuple(self._lock()),
            host=tuple(self._host()),
            declared=tuple(self._declared()),
            data=self._data() if names["data"] else None,
            segments_new=len(self.new.keys() - self.old.keys()),
            segments_gone=len(self.old.keys() - self.new.keys()),
            segments_refitted=len(moved),
            segments_same=len(shared) - len(moved),
            answered=tuple(self._answered(shared)),
            metrics=tuple(self._metrics(shared, len(shared) if every else _EXAMPLES)),
            refused=tuple(self._refused()),
            next=f"modelmill show {self.model} {other.number}",
        )

    def _data_differs(self) -> bool:
        if self.segment is None:
            return self.before.run.snapshot != self.after.run.snapshot
        one, other = (self._measured(entries, self.segment) for entries in (self.old, self.new))
        if one is None or other is None:
            return self.before.run.snapshot != self.after.run.snapshot
        return one.data != other.data

    def _measured(self, entries: Mapping[Segment, Entry], key: Segment) -> Measured | None:
        return self.measured.get((key, entries[key].number))

    def _code(self) -> Iterator[str]:
        if self.before.run.code == self.after.run.code:
            return
        blobs = self.store.blobs
        old, new = (read_archive(blobs, side.run.code).files for side in (self.before, self.after))
        lines: list[str] = []
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                before, after = (_lines(self.store, files.get(name)) for files in (old, new))
                names = f"{name} {self.before.name}", f"{name} {self.after.name}"
                lines += difflib.unified_diff(before, after, *names, lineterm="", n=1)
        yield from lines[:_CODE_LINES]
        if len(lines) > _CODE_LINES:
            yield f"... {len(lines) - _CODE_LINES} more lines"

    def _lock(self) -> list[str]:
        one, other = self.before.run.lock, self.after.run.lock
        return (
            []
            if one == other
            else lock_differences(read_lock(self.store.blobs, one), read_lock(self.store.blobs, other))
        )

    def _host(self) -> list[str]:
        one, other = self.before.run.host, self.after.run.host
        return (
            []
            if one == other
            else host_differences(read_host(self.store.blobs, one), read_host(self.store.blobs, other))
        )

    def _declared(self) -> Iterator[str]:
        if self.before.run.model_digest == self.after.run.model_digest:
            return
        old, new = (
            msgspec.json.decode(self.store.blobs.get(side.run.declaration)) for side in (self.before, self.after)
        )
        yield from declared_differences(old, new)

    def _data(self) -> SnapshotDiff:
        before, after = (get_snapshot(self.store, side.run.snapshot) for side in (self.before, self.after))
        return diff_snapshots(self.store, before, after, rows=False)

    def _answered(self, shared: set[Segment]) -> Iterator[str]:
        """Yield how many segments are answered by another kind of model, or at another speed, than before."""
        for name in ("state", "runtime"):
            found: dict[tuple[str, str], int] = {}
            for key in shared:
                pair = getattr(self.old[key], name), getattr(self.new[key], name)
                found[pair] = found.get(pair, 0) + (pair[0] != pair[1])
            yield from (f"{many:,} {one} -> {other}" for (one, other), many in sorted(found.items()) if many)

    def _refused(self) -> Iterator[str]:
        """Yield what a law or a gate has refused in one of the two runs more often than in the other."""
        old, new = (
            Counter(one.summary for one in runs.list_failures(self.store.database, side.run) if one.code in _REFUSALS)
            for side in (self.before, self.after)
        )
        for name in sorted(old.keys() | new.keys()):
            if old[name] != new[name]:
                yield f"{name}   {old[name]:,} -> {new[name]:,} segments"

    def _metrics(self, shared: set[Segment], most: int) -> Iterator[MetricDiff]:
        keys = [key for key in sorted(shared) if not is_shared(key) or self.segment == key or len(shared) == 1]
        pairs = [(key, self._measured(self.old, key), self._measured(self.new, key)) for key in keys]
        known = [(key, one.metrics, other.metrics) for key, one, other in pairs if one and other]
        for name in dict.fromkeys(name for _, one, _ in known for name in one if ":" not in name):
            values = [(key, one.get(name), other.get(name)) for key, one, other in known]
            values = [found for found in values if None not in found]
            if values:
                yield _metric(name, values, most)  # type: ignore[arg-type]  # those without a value are out


def declared_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between two declarations with their parameters, a line each: ``alpha 1.0 -> 0.5``."""
    for name in sorted(old["values"].keys() | new["values"].keys()):
        yield from _pair(name, old["values"].get(name), new["values"].get(name))
    for name in _DECLARED:
        yield from _pair(name, old.get(name), new.get(name))
    if old.get("schema") != new.get("schema"):
        yield f"schema {old['schema']['name']} changed"


def _metric(name: str, values: list[tuple[Segment, float, float]], most: int) -> MetricDiff:
    """Compare a metric over segments; each was measured on its own version's test rows."""
    sign = 1 if higher_is_better(name) else -1
    gains = [(sign * (other - one), key, one, other) for key, one, other in values]
    ordered = sorted(gains)
    worst = [one for one in ordered if one[0] < 0][:most]
    best = [one for one in reversed(ordered) if one[0] > 0][:most]
    return MetricDiff(
        name=name,
        before=statistics.median(one for _, one, _ in values),
        after=statistics.median(other for _, _, other in values),
        segments=len(values),
        better=sum(gain > 0 for gain, *_ in gains),
        worse=sum(gain < 0 for gain, *_ in gains),
        most=tuple(
            Moved(segment=format_segment(key), before=one, after=other) for _, key, one, other in (*worst, *best)
        ),
    )


def _commits(one: Run, other: Run) -> str:
    texts = [f"{run.commit[:12] or 'no commit'}{' with changes' if run.diff else ''}" for run in (one, other)]
    return f"{texts[0]} {'=' if texts[0] == texts[1] and not one.diff else '->'} {texts[1]}"


def _pair(name: str, one: Any, other: Any) -> Iterator[str]:
    if one != other:
        texts = [text if isinstance(text, str) else msgspec.json.encode(text).decode() for text in (one, other)]
        yield f"{name} {texts[0]} -> {texts[1]}"


def _lines(store: Store, digest: Digest | None) -> list[str]:
    content = b"" if digest is None else store.blobs.get(digest)
    if b"\0" in content:
        return [f"{len(content):,} bytes, {digest}"]
    return content.decode("utf-8", "replace").splitlines()


# ------------------------------------------------------------------ answers


def _with_answers(store: Store, settings: Settings, outcome: DiffOutcome, one: _Side, other: _Side) -> DiffOutcome:
    """Ask both sides the same rows, and compare."""
    from modelmill.orchestrator.answers import compare_answers

    found = compare_answers(store, settings, one.fleet, other.fleet, other.run, outcome.segment)
    return msgspec.structs.replace(outcome, answers=found)
