"""The subject index: which files of snapshots hold which people, as keyed hashes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "data_subject",
        sa.Column("file", sa.LargeBinary(32), primary_key=True),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
    )
