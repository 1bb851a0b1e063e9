"""Moves of an environment's pointers, holds, and releases that take traffic step by step."""

import sqlalchemy as sa
from alembic import op

from modelmill.store.tables import DigestType, Json, Key, MomentType, RowId

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a column, and make the tables."""
    op.add_column("release_release", sa.Column("withdrawn", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "release_move",
        sa.Column("id", RowId, primary_key=True),
        _environment(),
        sa.Column("model", Key, nullable=False),
        sa.Column("at", MomentType, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("before", sa.Integer(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_index("ix_release_move_environment_model", "release_move", ["environment", "model", "id"])
    op.create_table(
        "release_hold",
        _environment(primary_key=True),
        sa.Column("model", Key, primary_key=True),
        sa.Column("at", MomentType, nullable=False),
        sa.Column("until", MomentType, nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_table(
        "release_rollout",
        sa.Column("id", RowId, primary_key=True),
        _environment(),
        sa.Column("model", Key, nullable=False),
        sa.Column("candidate", sa.Integer(), nullable=False),
        sa.Column("before", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("policy", Json, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("ring", DigestType, nullable=True),
        sa.Column("began_at", MomentType, nullable=False),
        sa.Column("step_at", MomentType, nullable=False),
        sa.Column("ended_at", MomentType, nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
    )
    op.create_index("ix_release_rollout_environment_model", "release_rollout", ["environment", "model", "id"])
    op.create_table(
        "release_look",
        sa.Column("rollout_id", RowId, sa.ForeignKey("release_rollout.id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", MomentType, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("seen", Json, nullable=False),
    )


def _environment(**options: bool) -> "sa.Column[str]":
    return sa.Column("environment", Key, sa.ForeignKey("release_environment.name"), nullable=False, **options)
