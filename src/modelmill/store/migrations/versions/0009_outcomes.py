"""What was measured of answers besides their labels."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Say of each import what it is of: of labels, so far."""
    op.add_column("data_label", sa.Column("outcome", sa.Text(), nullable=False, server_default=""))
