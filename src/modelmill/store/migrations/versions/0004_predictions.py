"""Files of logged predictions."""

import sqlalchemy as sa
from alembic import op

from modelmill.store.tables import DigestType, Key, MomentType, RowId

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "data_prediction",
        sa.Column("id", RowId, primary_key=True),
        sa.Column("model", Key, nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("file", DigestType, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_at", MomentType, nullable=False),
        sa.Column("last_at", MomentType, nullable=False),
        sa.UniqueConstraint("file", name="uq_data_prediction_file"),
    )
    op.create_index("ix_data_prediction_model_last_at", "data_prediction", ["model", "last_at"])
    op.create_table("data_journal", sa.Column("name", Key, primary_key=True))
