"""Shadows that somebody begins and ends, as rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.errors import Conflict, NotFound, ShadowsFull
from modelmill.names import ModelName
from modelmill.release.moving import RELEASE, Move
from modelmill.release.rows import lock_environment, point
from modelmill.release.shadows import MOST, begin_shadow, end_shadow, keep_seen, list_shadows, open_shadows
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

NAME = ModelName("sales")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as found:
        with found.database.write() as c:
            lock_environment(c, "dev")
        yield found


def begin(store: Store, release: int) -> None:
    with store.database.write() as c:
        begin_shadow(c, "dev", NAME, release=release, share=0.5, by="somebody", reason="why")


def test_several_run_at_once_and_each_ends_alone(store: Store) -> None:
    begin(store, 2)
    begin(store, 3)
    with pytest.raises(Conflict, match="already"):
        begin(store, 2)
    with store.database.write() as c:
        ended = end_shadow(c, "dev", NAME, 2)
        assert [one.release for one in open_shadows(c, "dev", NAME)] == [3]
    with pytest.raises(NotFound), store.database.write() as c:
        end_shadow(c, "dev", NAME, 2)
    keep_seen(store.database, ended, {"copies": 7})
    begin(store, 2)  # again, as another
    rows = list_shadows(store.database, "dev")
    assert [(row.release, row.ended_at is None, row.seen) for row in rows] == [
        (2, True, None),
        (3, True, None),
        (2, False, {"copies": 7}),
    ]
    assert len({row.salt for row in rows}) == 3


def test_there_are_not_too_many(store: Store) -> None:
    for release in range(2, 2 + MOST):
        begin(store, release)
    with pytest.raises(ShadowsFull) as refused:
        begin(store, 99)
    assert refused.value.code == "MM426"


def test_what_becomes_current_is_no_shadow_any_more(store: Store) -> None:
    begin(store, 2)
    begin(store, 3)
    with store.database.write() as c:
        point(c, "dev", NAME, Move(now(), RELEASE, 1, 2, "somebody", ""))
        assert [one.release for one in open_shadows(c, "dev", NAME)] == [3]
