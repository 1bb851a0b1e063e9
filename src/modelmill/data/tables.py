"""The tables of this room."""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, Table, Text, UniqueConstraint

from modelmill.store.tables import DigestType, Key, MomentType, RowId, metadata

snapshots = Table(
    "data_snapshot",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("dataset", Key, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", DigestType, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("segments", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_at", MomentType, nullable=False),
    UniqueConstraint("dataset", "number"),
    UniqueConstraint("dataset", "digest"),
)

subjects = Table(
    "data_subject",
    metadata,
    Column("file", DigestType, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),
)
"""Of each file with subject columns: the keyed hashes of its subjects, ascending."""

predictions = Table(
    "data_prediction",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("model", Key, nullable=False),
    Column("run", Integer, nullable=False, doc="Whose fleet map was served: it knows the schema."),
    Column("file", DigestType, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("first_at", MomentType, nullable=False),
    Column("last_at", MomentType, nullable=False),
    Index(None, "model", "last_at"),
    UniqueConstraint("file"),
)
"""Files of logged predictions."""

journals = Table("data_journal", metadata, Column("name", Key, primary_key=True))
"""Journals whose records a file of predictions holds, and that are only still to be removed."""

labels = Table(
    "data_label",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("model", Key, nullable=False),
    Column("content", DigestType, nullable=False, doc="Of its rows in one order: the same rows are imported once."),
    Column("join_on", Text, nullable=False, doc="``request_id`` or ``keys,time``."),
    Column("within_s", Float, nullable=False),
    Column("file", DigestType, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("imported_at", MomentType, nullable=False),
    Column("outcome", Text, nullable=False, server_default="", doc="What was measured; empty for the target itself."),
    UniqueConstraint("model", "content"),
)
"""Imports of labels, and of other outcomes."""
