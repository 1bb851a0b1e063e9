"""The tables of this room."""

from sqlalchemy import BigInteger, Column, Integer, Table, Text, UniqueConstraint

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
