"""The history of the tables: one Alembic revision a file in `versions`, numbered so that the names sort."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION_TABLE = "store_revision"

_FOLDER = Path(__file__).parent


@cache
def newest_revision() -> str:
    """Return the number of the newest revision."""
    return max(path.name[:4] for path in (_FOLDER / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the revisions that are missing, inside the caller's transaction."""
    # Nearly every store is up to date, and a command that finds it so should not wait for Alembic's import.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
