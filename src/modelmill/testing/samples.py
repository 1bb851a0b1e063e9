"""Small, valid values to fill a registry with."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import Digest, ModelName, Segment, digest_of
from modelmill.outcomes import PlanOutcome
from modelmill.registry.change import Digests
from modelmill.registry.records import ChunkRecord, FailureRecord, RunStart, VersionRecord
from modelmill.store.blobs import FolderBlobs
from modelmill.store.packs import PackWriter

MODEL = ModelName("air-time")
SPEC = SchemaSpec("Flight", "A flight.", (Column("carrier", "key", "str"), Column("air_time", "target", "float")))


def sample_start(blobs: FolderBlobs, **others: Any) -> RunStart:
    """Return the start of a run all of whose facts are among `blobs`."""
    names = ("snapshot", "lock", "host", "declaration")
    facts = dict(zip(names, blobs.put(name.encode() for name in names), strict=True))
    values = {"model": MODEL, "idempotency_key": uuid.uuid4().hex, "plan": digest_of(b"plan"), **facts}
    return RunStart(**{**values, "code": sample_code(blobs), "model_digest": digest_of(b"model"), **others})


def sample_plan(**others: Any) -> PlanOutcome:
    """Return the plan of a first release, at once."""
    values = {
        "environment": "dev",
        "model": MODEL,
        "before": 0,
        "before_version": 0,
        "version": 1,
        "kind": "first",
        "what": {},
        "changed": (),
        "new": 1,
        "gone": 0,
        "same": 0,
        "pooled_changes": False,
        "checks": (),
        "unmet": (),
        "load_mb": 0.1,
        "url": "http://127.0.0.1:8700",
        "workers": 1,
        "runs": False,
        "steps": (),
        "of": "requests",
        "hold_s": 0.0,
        "abort": (),
        "hold": "",
        "undo": "",
        "nothing": False,
    }
    return PlanOutcome(**{**values, **others})


def sample_code(blobs: FolderBlobs) -> Digest:
    """Keep an archive of no files."""
    return blobs.put([b"\x81\xa5files\x80"])[0]


def sample_chunk(
    blobs: FolderBlobs,
    segments: Iterable[Segment],
    *,
    chunk: int = 0,
    failed: Iterable[Segment] = (),
    data: bytes = b"data",
    scores: Mapping[Segment, float] | None = None,
) -> ChunkRecord:
    """Write a pack with an artifact for every segment, and return the record of its chunk."""
    found: list[VersionRecord] = []
    with PackWriter(blobs.scratch) as pack:
        for segment in segments:
            content = f"{segment} {data!r}".encode()
            place = pack.add(content)
            score = (scores or {}).get(segment, 7.5)
            found.append(sample_version(segment, digest_of(content), place.offset, place.length, data, score))
    path = pack.finish()
    size = path.stat().st_size
    failures = tuple(_failure(s) for s in failed)
    return ChunkRecord(
        chunk=chunk, pack=blobs.put_file(path), pack_bytes=size, versions=tuple(found), failures=failures
    )


def sample_version(
    segment: Segment, artifact: Digest, offset: int, length: int, data: bytes, score: float
) -> VersionRecord:
    """Return the record of one version."""
    digests = Digests(digest_of(b"code"), digest_of(data), digest_of(b"model"))
    return VersionRecord(
        segment=segment,
        artifact=artifact,
        offset=offset,
        length=length,
        identity=digests.identity,
        data=digests.data,
        format="packed",
        runtime="packed",
        rows=100,
        test_rows=20,
        score=score,
        metrics={"mae": score, "rmse": 2 * score, "r2": 0.5},
    )


def _failure(segment: Segment) -> FailureRecord:
    return FailureRecord(segment=segment, stage="fit", code="MM306", fingerprint="boom", summary="it raised")
