"""Imports of labels."""

import sqlalchemy as sa
from alembic import op

from modelmill.store.tables import DigestType, Key, MomentType, RowId

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "data_label",
        sa.Column("id", RowId, primary_key=True),
        sa.Column("model", Key, nullable=False),
        sa.Column("content", DigestType, nullable=False),
        sa.Column("join_on", sa.Text(), nullable=False),
        sa.Column("within_s", sa.Float(), nullable=False),
        sa.Column("file", DigestType, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("imported_at", MomentType, nullable=False),
        sa.UniqueConstraint("model", "content", name="uq_data_label_model"),
    )
