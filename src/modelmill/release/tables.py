"""The tables of this room."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, Table, Text

from modelmill.store.tables import DigestType, Json, Key, MomentType, RowId, metadata

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
    Column("withdrawn", Text, nullable=False, server_default="", doc="Why it was taken back; empty where it was not."),
)

pointers = Table(
    "release_pointer",
    metadata,
    Column("environment", ForeignKey("release_environment.name"), primary_key=True),
    Column("model", Key, primary_key=True),
    Column("number", Integer, nullable=False),
)

moves = Table(
    "release_move",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("environment", ForeignKey("release_environment.name"), nullable=False),
    Column("model", Key, nullable=False),
    Column("at", MomentType, nullable=False),
    Column(
        "kind", Text, nullable=False, doc="``release``, ``canary``, ``stop``, ``rollback``, ``hold`` or ``resume``."
    ),
    Column("before", Integer, nullable=False, doc="The release until then; 0 where there was none."),
    Column("after", Integer, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("ix_release_move_environment_model", "environment", "model", "id"),
)

holds = Table(
    "release_hold",
    metadata,
    Column("environment", ForeignKey("release_environment.name"), primary_key=True),
    Column("model", Key, primary_key=True),
    Column("at", MomentType, nullable=False),
    Column("until", MomentType, nullable=True, doc="When it ends by itself; null for never."),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

rollouts = Table(
    "release_rollout",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("environment", ForeignKey("release_environment.name"), nullable=False),
    Column("model", Key, nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("before", Integer, nullable=False, doc="The release that serves beside it."),
    Column("state", Text, nullable=False, doc="``running``, ``asking``, ``done`` or ``stopped``."),
    Column("policy", Json, nullable=False),
    Column("step", Integer, nullable=False),
    Column("ring", DigestType, nullable=True, doc="The segments that the step has reached, where it counts segments."),
    Column("began_at", MomentType, nullable=False),
    Column("step_at", MomentType, nullable=False),
    Column("ended_at", MomentType, nullable=True),
    Column("why", Text, nullable=False),
    Column("by", Text, nullable=False),
    Index("ix_release_rollout_environment_model", "environment", "model", "id"),
)

shadows = Table(
    "release_shadow",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("environment", ForeignKey("release_environment.name"), nullable=False),
    Column("model", Key, nullable=False),
    Column("release", Integer, nullable=False),
    Column("share", Float, nullable=False, doc="Of the requests that are copied."),
    Column("began_at", MomentType, nullable=False),
    Column("ended_at", MomentType, nullable=True),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seen", Json, nullable=True, doc="What its answers came to, once it has ended."),
    Index("ix_release_shadow_environment_model", "environment", "model", "id"),
)

looks = Table(
    "release_look",
    metadata,
    Column("rollout_id", ForeignKey("release_rollout.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", MomentType, nullable=False),
    Column("step", Integer, nullable=False),
    Column(
        "seen", Json, nullable=False, doc="What both sides were asked, and how many were bad, since the look before."
    ),
)
