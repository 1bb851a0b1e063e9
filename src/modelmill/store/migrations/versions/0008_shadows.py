"""Releases that answer copies of the requests."""

import sqlalchemy as sa
from alembic import op

from modelmill.store.tables import Json, Key, MomentType, RowId

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "release_shadow",
        sa.Column("id", RowId, primary_key=True),
        sa.Column("environment", Key, sa.ForeignKey("release_environment.name"), nullable=False),
        sa.Column("model", Key, nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("began_at", MomentType, nullable=False),
        sa.Column("ended_at", MomentType, nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seen", Json, nullable=True),
    )
    op.create_index("ix_release_shadow_environment_model", "release_shadow", ["environment", "model", "id"])
