"""Every backend of every Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgresql import new_database, postgresql  # noqa: F401 - a fixture

from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Return an empty store on each database."""
    url = ""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        url = new_database(server)
    with open_store(Settings(root=tmp_path, database=url)) as opened:
        yield opened
