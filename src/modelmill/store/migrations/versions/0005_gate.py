"""Versions that wait for their gate, or were refused by it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("registry_segment", sa.Column("waiting", sa.Integer()))
    op.add_column("registry_segment", sa.Column("refused", sa.Integer()))
