"""The tables of this room."""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Table, Text, UniqueConstraint

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
