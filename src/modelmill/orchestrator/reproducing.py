"""`reproduce`: versions are built again from what the store keeps of them, and nothing else, and compared.

The code comes from its archive, the rows from the snapshot, the packages from the lock; source tree, version history and
original data may be gone. The child that builds runs the recorded modelmill, with another home, locale, time zone and order
of hashes, so that whatever was not recorded shows.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from modelmill.build.builder import libraries_named
from modelmill.build.comparing import DIFFERENT, EQUAL, FAILED, IDENTICAL, TOLERANCE, Comparison, Recorded, completed
from modelmill.build.rerun import Finding, Order
from modelmill.data.snapshot import Segments, Snapshot, encode_segments
from modelmill.data.taking import get_snapshot, load_frame, load_rows, load_segments
from modelmill.errors import (
    BlobBroken,
    NotFound,
    NotRecorded,
    ReproductionError,
    RerunFailed,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
    UsageError,
)
from modelmill.names import POOLED, Parent, Segment, VersionId, format_target, is_shared, parse_target
from modelmill.orchestrator.served import pick_model
from modelmill.outcomes import Cause, Progress, Rebuilt, ReproduceOutcome, no_progress
from modelmill.registry import runs
from modelmill.registry.environment import environment_for, environments_in, wanted_by
from modelmill.registry.evidence import REPRODUCED, record_evidence
from modelmill.registry.facts import extract_code
from modelmill.registry.fleet import Header, decode, parents_of
from modelmill.registry.host import Facts, host_differences, read_host, user_name
from modelmill.registry.lock import lock_differences, make_lock, read_lock
from modelmill.registry.records import Run
from modelmill.registry.versions import Version, get_version, list_members
from modelmill.requests import ReproduceRequest
from modelmill.settings import Settings
from modelmill.store.files import temporary, told
from modelmill.store.opening import Store, open_store

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_WORST = 10
_ELSEWHERE = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "Pacific/Chatham", "PYTHONHASHSEED": "0"}
"""What a model that is recorded does not depend on."""
_KEPT = ("PATH", "OPENBLAS_CORETYPE")


class _Asked(NamedTuple):
    """The versions that are built again: those of one run."""

    run: Run
    header: Header
    versions: list[Version]
    target: str
    earlier: int
    """How many segments of the version came from earlier runs."""


def reproduce(settings: Settings, request: ReproduceRequest, progress: Progress = no_progress) -> ReproduceOutcome:
    """Build the asked versions again, compare, and keep the verdict as evidence."""
    if request.place not in (None, "here"):
        raise UsageError(f"`--in {request.place}` is no place", expected="--in here")
    began = time.monotonic()
    with open_store(settings, create=False) as store, _scratch(store) as scratch:
        asked = _find(store, request)
        reproduction = _Reproduction(store, asked, scratch, progress, in_here=request.place == "here")
        outcome = reproduction.run(request.workers or settings.build.processes, settings, began)
        try:
            _record(store, asked, outcome)
        except (StoreFull, StoreUnavailable, StoreLocked) as error:
            outcome = msgspec.structs.replace(outcome, not_kept=error.what)
    return outcome


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    folder = temporary(store.scratch)
    with told(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------ what is asked


def _find(store: Store, request: ReproduceRequest) -> _Asked:
    *targets, number = request.what or ("",)
    if not number.isdecimal() or len(targets) > 1:
        raise UsageError(
            "which version?", got=" ".join(request.what), expected="modelmill reproduce [MODEL[SEGMENT]] VERSION"
        )
    name, segment = parse_target(targets[0]) if targets else (None, None)
    model = pick_model(store, name)
    run = runs.get_run(store.database, model, int(number))
    if run.map is None:
        raise NotRecorded(f"run {run.number} of `{model}` built nothing", next=f"modelmill show {model}")
    fleet = decode(store.blobs.get(run.map))
    if segment is not None:
        versions = [get_version(store.database, VersionId(model, segment, int(number)))]
    else:
        versions = _drawn(list(_members(store, run)), request.sample)
    if not versions:
        raise NotFound(f"run {run.number} of `{model}` has no versions", next=f"modelmill show {model}")
    earlier = 0 if segment is not None else sum(entry.number != run.number for entry in fleet)
    return _Asked(
        run,
        fleet.header,
        versions,
        f"{format_target(model, segment) if segment is not None else model} {number}",
        earlier,
    )


def _members(store: Store, run: Run) -> Iterator[Version]:
    """Yield the versions of a run."""
    after = None
    while True:
        page = list_members(store.database, run.model, run.number, after=after, limit=1000)
        yield from page.items
        after = page.after
        if after is None:
            return


def _drawn(versions: list[Version], sample: str | None) -> list[Version]:
    """Return the share of the versions that is asked for: of the segments' own, and of the parents, at least one each.

    The pooled model needs all rows, and goes.
    """
    if sample is None:
        return versions
    share = _PERCENT.fullmatch(sample)
    if share is None or not 0 < float(share[1]) <= 100:
        raise UsageError(f"`{sample}` is no share", expected="a share such as 1%")
    own = [version for version in versions if not is_shared(version.id.segment)]
    parents = [version for version in versions if isinstance(version.id.segment, Parent)]
    drawn = [random.sample(some, max(1, round(len(some) * float(share[1]) / 100))) for some in (own, parents) if some]
    return list(chain.from_iterable(drawn)) or versions


# ------------------------------------------------------------------ building again


class _Reproduction:
    """One reproduction, told step by step."""

    def __init__(self, store: Store, asked: _Asked, scratch: Path, progress: Progress, *, in_here: bool) -> None:
        self.store, self.asked, self.scratch, self.progress, self.in_here = store, asked, scratch, progress, in_here
        self.run_then = asked.run
        self.environment_s = 0.0

    def run(self, workers: int, settings: Settings, began: float) -> ReproduceOutcome:
        """Make the environment, have everything built in it, and judge."""
        run = self.run_then
        lock = read_lock(self.store.blobs, run.lock)
        host = read_host(self.store.blobs, run.host)
        code = extract_code(self.store.blobs, run.code, self.scratch / "code")
        python = self._python()
        self.progress("line", {"text": f"building {len(self.asked.versions):,} again   {self.asked.target}"})
        reply = self._ask(python, self._order(code, workers, settings))
        if reply["failed"]:
            raise RerunFailed(
                f"the code of {self.asked.target} does not run in the environment of its lock",
                got=reply["failed"][:600],
                likely="it reads a file, or a variable, that is no part of the recorded code",
                next=f"modelmill show {run.model} {run.number}",
                safe="nothing was recorded",
            )
        differs = host_differences(host, reply["host"])
        if self.in_here:
            differs += lock_differences(lock, make_lock(code, sorted(code.rglob("*.py")))[0])
        asked = [version.id.segment for version in self.asked.versions]
        comparisons = completed(msgspec.convert(reply["comparisons"], list[Comparison]), asked)
        finding = msgspec.convert(reply["finding"], Finding | None)
        return self._outcome(comparisons, finding, differs, host, time.monotonic() - began)

    def _python(self) -> Path:
        if self.in_here:
            return Path(sys.executable)
        wanted = wanted_by(self.store.blobs, self.run_then.lock)
        began = time.monotonic()
        try:
            environment = environment_for(
                environments_in(self.store.folder), wanted, lambda text: self.progress("line", {"text": text})
            )
        except ReproductionError as error:
            parts = error.parts | {"safe": "nothing was recorded"}
            parts["next"] = f"{error.parts['next']}; or `--in here` with what is installed"
            raise type(error)(error.what, **parts) from error
        self.environment = environment  # kept, so that nobody removes it meanwhile
        self.environment_s = time.monotonic() - began if environment.made else 0.0
        return environment.python

    def _order(self, code: Path, workers: int, settings: Settings) -> Order:
        run, header = self.run_then, self.asked.header
        declared = msgspec.json.decode(self.store.blobs.get(run.declaration))
        snapshot = _snapshot_of(self.store, run)
        rows, segments = self._rows(snapshot)
        (self.scratch / "segments").write_bytes(encode_segments(segments))
        recorded = [_recorded(self.store, version) for version in self.asked.versions]
        (self.scratch / "recorded").write_bytes(msgspec.msgpack.encode(recorded))
        source = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in code.rglob("*.py"))
        return Order(
            root=str(code),
            file=header.entry[0],
            model=header.entry[1],
            parameters=declared["values"],
            spec=snapshot.manifest.spec,
            test_share=declared["test_share"],
            rows=[str(path) for path in rows],
            segments=str(self.scratch / "segments"),
            recorded=str(self.scratch / "recorded"),
            libraries=libraries_named(source),
            scratch=str(self.scratch),
            answer=str(self.scratch / "answer"),
            asker=os.getpid(),
            workers=workers,
            seconds=settings.build.segment_timeout_s,
            memory_mb=settings.build.worker_memory_mb,
        )

    def _rows(self, snapshot: Snapshot) -> tuple[list[Path], Segments]:
        """Return Parquet files and where the segments lie in them: all of the snapshot, or only the rows asked for."""
        every = load_segments(self.store, snapshot)
        wanted = self._segments_with_rows(every)
        whole = len(wanted) > len(every) // 2
        if whole and not snapshot.manifest.layered:
            for file in snapshot.manifest.files:
                self.store.blobs.get(file.digest)  # compared with its digest: what is built again is what was recorded
            return [self.store.blobs.path_of(file.digest) for file in snapshot.manifest.files], every
        if whole:
            frame, segments = load_frame(self.store, snapshot), every
        else:
            frame, segments = load_rows(self.store, snapshot, every, wanted)
        path = self.scratch / "rows.parquet"
        frame.write_parquet(path, statistics=False)
        return [path], segments

    def _segments_with_rows(self, every: Segments) -> set[Segment]:
        """Return the segments whose rows the versions were fitted from: of shared models, more than their own."""
        wanted, by = {version.id.segment for version in self.asked.versions}, self.asked.header.by
        parents = {segment for segment in wanted if isinstance(segment, Parent)}
        levels = {tuple(parent.values()) for parent in parents}
        if POOLED in wanted or not all(set(level) <= set(by) for level in levels):
            return set(every.keys)  # which rows have a value that is no part of a segment, only the rows can say
        own = wanted - parents
        parts = (key for key in every.keys if not parents.isdisjoint(parents_of(levels, zip(by, key, strict=True))))
        return own.union(parts)

    def _ask(self, python: Path, order: Order) -> dict[str, Any]:
        """Have the child build; its home is empty, and it is told nothing of the caller's environment."""
        path, home = self.scratch / "order", self.scratch / "home"
        home.mkdir()
        path.write_bytes(msgspec.json.encode(order))
        places = {"HOME": str(home), "TMPDIR": str(home)}
        environ = {name: os.environ[name] for name in _KEPT if name in os.environ} | _ELSEWHERE | places
        done = subprocess.run(  # noqa: S603 - our own module, in the environment of its lock
            [str(python), "-P", "-s", "-m", "modelmill.build.rerun", str(path)],
            cwd=home,
            env=environ,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        try:
            reply: dict[str, Any] = msgspec.json.decode(Path(order.answer).read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise RerunFailed(
                f"{self.asked.target} could not be built again",
                got=" ".join(said[-3:])[:600],
                safe="nothing was recorded",
            ) from error
        return reply

    # ---------------------------------------------------------------- judging

    def _outcome(
        self,
        comparisons: Sequence[Comparison],
        finding: Finding | None,
        differs: list[str],
        host: Facts,
        seconds: float,
    ) -> ReproduceOutcome:
        run = self.run_then
        counts = Counter(one.verdict for one in comparisons)
        bad = [one for one in comparisons if one.verdict != IDENTICAL]
        worst = sorted(bad, key=lambda one: (one.verdict != FAILED, -one.largest))[:_WORST]
        lacking = counts[DIFFERENT] + counts[FAILED]
        verdict = "DIFFERENT" if lacking else "EQUAL" if counts[EQUAL] else "IDENTICAL"
        return ReproduceOutcome(
            target=self.asked.target,
            run=run.number,
            verdict=verdict,
            segments=len(comparisons),
            identical=counts[IDENTICAL],
            equal=counts[EQUAL],
            different=counts[DIFFERENT],
            failed=counts[FAILED],
            tolerance=TOLERANCE,
            worst=tuple(
                Rebuilt(
                    segment=one.segment,
                    verdict=one.verdict,
                    array=one.array,
                    largest=one.largest if one.largest < float("inf") else None,
                    text=one.text,
                )
                for one in worst
            ),
            differs=tuple(differs) if bad or self.in_here else (),
            cause=_cause_of(finding, differs),
            environment="here" if self.in_here else f"lock {run.lock[:8]}",
            environment_s=self.environment_s,
            by_another=(host.get("user"), host.get("host")) != (user_name(), os.uname().nodename),
            earlier=self.asked.earlier,
            seconds=seconds,
            next=f"modelmill show {run.model} {run.number}"
            if verdict == "DIFFERENT"
            else f"modelmill audit {run.model}",
        )


def _cause_of(finding: Finding | None, differs: list[str]) -> Cause | None:
    if finding is None:
        return None
    cause = finding.cause
    if not cause:  # the same each time here: what differs is where it was built
        cause = (
            f"the machine or the packages: {'; '.join(differs)}"
            if differs
            else "not found: here it is the same each time"
        )
    return Cause(segment=finding.segment, cause=cause, lines=tuple(finding.lines[:5]))


def _snapshot_of(store: Store, run: Run) -> Snapshot:
    try:
        return get_snapshot(store, run.snapshot)
    except NotFound as error:
        raise BlobBroken(
            f"the snapshot of run {run.number} of `{run.model}` is gone", got=run.snapshot[:12], next="modelmill fsck"
        ) from error


def _recorded(store: Store, version: Version) -> Recorded:
    if version.extras is None:
        raise NotRecorded(f"`{version.id}` has no golden rows", next="modelmill train --rebuild")
    return Recorded(
        segment=version.id.segment,
        format=version.format,
        artifact=version.artifact,
        pack=str(store.blobs.path_of(version.pack)),
        place=(version.offset, version.length),
        extras=(version.extras_offset, version.extras_length),
        extras_digest=version.extras,
        metrics=dict(version.metrics),
        parent=isinstance(version.id.segment, Parent),
    )


def _record(store: Store, asked: _Asked, outcome: ReproduceOutcome) -> None:
    """Keep the verdict, with who found it where."""
    facts = {
        "verdict": outcome.verdict,
        "version": asked.run.number,
        "target": outcome.target,
        "segments": outcome.segments,
        "identical": outcome.identical,
        "differs": list(outcome.differs),
        "cause": msgspec.to_builtins(outcome.cause),
        "environment": outcome.environment,
        "user": user_name(),
        "host": os.uname().nodename,
        "by_another": outcome.by_another,
    }
    good = outcome.verdict != "DIFFERENT"
    record_evidence(store.database, asked.run.model, REPRODUCED, number=asked.run.number, verdict=good, facts=facts)
