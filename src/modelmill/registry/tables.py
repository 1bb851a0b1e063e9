"""The tables of this room. Names are kept once; everything else refers to whole numbers.

What keeps a million versions as quick as a thousand: versions are only ever appended, what changes (a segment's current
version and its score) lies in the hundred times smaller `registry_segment`, and every page has an index in the order in
which it is read.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from modelmill.store.tables import DigestType, Json, Key, MomentType, RowId, metadata

models = Table(
    "registry_model",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("name", Key, nullable=False, unique=True),
    Column("runs", Integer, nullable=False, doc="The number of the newest run; the next one is the next number."),
    Column("score", String(63), nullable=False, doc="The name of the metric that `score` columns hold."),
)

segments = Table(
    "registry_segment",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("model_id", ForeignKey("registry_model.id"), nullable=False),
    Column("key", Key, nullable=False),
    Column("current", Integer, doc="The number of the version that answers."),
    Column("waiting", Integer, doc="The newest version's number, while its gate has not judged it yet."),
    Column("refused", Integer, doc="The newest version's number, where its gate has refused it."),
    Column("score", Float, doc="The current version's score, here so that the best and worst are found at once."),
    Column("failed", Integer, doc="The run that failed to build this segment, when nothing was built since."),
    UniqueConstraint("model_id", "key"),
    Index(None, "model_id", "score", "id"),
)

runs = Table(
    "registry_run",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("model_id", ForeignKey("registry_model.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("idempotency_key", String(64), nullable=False, unique=True),
    Column("plan", DigestType, nullable=False),
    Column("snapshot", DigestType, nullable=False),
    Column("code", DigestType, nullable=False),
    Column("model", DigestType, nullable=False),
    Column("lock", DigestType, nullable=False),
    Column("host", DigestType, nullable=False),
    Column("declaration", DigestType, nullable=False),
    Column("commit", String(64), nullable=False),
    Column("diff", DigestType),
    Column("parameters", Json, nullable=False),
    Column("tags", Json, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("started_at", MomentType, nullable=False),
    Column("finished_at", MomentType),
    Column("counts", Json, nullable=False),
    Column("map", DigestType),
    Column("signature", LargeBinary(64)),
    UniqueConstraint("model_id", "number"),
)

packs = Table(
    "registry_pack",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("run_id", ForeignKey("registry_run.id"), nullable=False),
    Column("chunk", Integer, nullable=False),
    Column("digest", DigestType, doc="Null where no segment of the chunk could be built."),
    Column("bytes", BigInteger, nullable=False),
    Column("recorded_at", MomentType, nullable=False),
    UniqueConstraint("run_id", "chunk"),
)

versions = Table(
    "registry_version",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("segment_id", ForeignKey("registry_segment.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("run_id", ForeignKey("registry_run.id"), nullable=False),
    Column("pack_id", ForeignKey("registry_pack.id"), nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("extras_offset", BigInteger, nullable=False),
    Column("extras_length", BigInteger, nullable=False),
    Column("artifact", DigestType, nullable=False),
    Column("extras", DigestType),
    Column("identity", DigestType, nullable=False),
    Column("data", DigestType, nullable=False),
    Column("format", String(20), nullable=False),
    Column("runtime", String(20), nullable=False),
    Column("runtime_why", Text, nullable=False, server_default=""),
    Column("state", String(12), nullable=False),
    Column("why", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("test_rows", BigInteger, nullable=False),
    Column("score", Float),
    Column("metrics", Json, nullable=False),
    UniqueConstraint("segment_id", "number"),
    Index(None, "run_id", "segment_id"),
)

failures = Table(
    "registry_failure",
    metadata,
    Column("run_id", ForeignKey("registry_run.id"), primary_key=True),
    Column("segment_id", ForeignKey("registry_segment.id"), primary_key=True),
    Column("stage", String(20), nullable=False),
    Column("code", String(8), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("summary", Text, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_with_rowid=False,
)

tags = Table(
    "registry_tag",
    metadata,
    Column("key", Key, primary_key=True),
    Column("value", Key, primary_key=True),
    Column("segment_id", ForeignKey("registry_segment.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Index(None, "segment_id", "number"),
    sqlite_with_rowid=False,
)

evidence = Table(
    "registry_evidence",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("model_id", ForeignKey("registry_model.id"), nullable=False),
    Column("number", Integer, doc="The run that it is about; null when it is about the model."),
    Column("kind", String(40), nullable=False),
    Column("verdict", SmallInteger, nullable=False, doc="1 yes, 0 no, -1 not known."),
    Column("facts", Json, nullable=False),
    Column("recorded_at", MomentType, nullable=False),
    Index(None, "model_id", "number", "id"),
)
