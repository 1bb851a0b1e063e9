"""Alembic's entry: it only ever runs inside a transaction that the platform has opened."""

from alembic import context

from modelmill.store.migrations import VERSION_TABLE
from modelmill.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
