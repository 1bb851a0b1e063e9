"""Why a version is answered by the runtime that it has."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("registry_version", sa.Column("runtime_why", sa.Text(), nullable=False, server_default=""))
