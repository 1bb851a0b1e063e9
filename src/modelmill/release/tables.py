"""The tables of this room."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, Table, Text

from modelmill.store.tables import DigestType, Key, MomentType, metadata

environments = Table(
    "release_environment",
    metadata,
    Column("name", Key, primary_key=True),
    Column("revision", Integer, nullable=False, doc="Counts the changes of what the environment serves."),
    Column("created_at", MomentType, nullable=False),
)

releases = Table(
    "release_release",
    metadata,
    Column("environment", ForeignKey("release_environment.name"), primary_key=True),
    Column("model", Key, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("map", DigestType, nullable=False),
    Column("signature", LargeBinary(64), nullable=False),
    Column("created_at", MomentType, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

pointers = Table(
    "release_pointer",
    metadata,
    Column("environment", ForeignKey("release_environment.name"), primary_key=True),
    Column("model", Key, primary_key=True),
    Column("number", Integer, nullable=False),
)
