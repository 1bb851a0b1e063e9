"""A worker is told nothing: one look at what is published is enough, whatever it missed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import Digest, ModelName
from modelmill.release.pointers import Pointer, Published, publish
from modelmill.serving.control import NodeInfo
from modelmill.serving.plane import Plane
from modelmill.serving.state import make_state
from modelmill.serving.worker import Worker, WorkerOrder
from modelmill.store.blobs import pointers_of

FLEET = ModelName("fleet")
SPEC = SchemaSpec(
    "Sale",
    "A sale.",
    (Column("store", "key", "str"), Column("day", "feature", "float"), Column("sales", "target", "float")),
)


class Watched:
    """A worker with the store that it looks at, and how often it has to."""

    def __init__(self, folder: Path, pointer: Pointer) -> None:
        self.folder, self.pointer = folder, pointer
        info = NodeInfo(os.getpid(), "127.0.0.1", 1, "prod", 1, datetime.now(UTC))
        node = msgspec.to_builtins(info)
        self.state = make_state()
        self.worker = Worker(WorkerOrder(str(folder), "prod", 0, -1, self.state, os.getpid(), hot=True, node=node))

    def publish(self, revision: int, **others: object) -> None:
        pointer = msgspec.structs.replace(self.pointer, release=revision, **others)
        publish(pointers_of(self.folder), Published("prod", revision, {FLEET: pointer}))

    def look(self) -> tuple[int, int, bool]:
        """Look once; return the revision, the release that serves, and whether anything cannot be opened."""
        asyncio.run(self.worker.refresh())
        applied = self.worker.plane.applied
        assert applied is not None
        return applied.revision, applied.models[FLEET].pointer.release, bool(applied.broken)


@pytest.fixture
def watched(tmp_path: Path, served: Callable[..., Plane]) -> Iterator[Watched]:
    x = np.arange(20.0).reshape(-1, 1)
    model = pack(LinearRegression().fit(x, x[:, 0]), 1, 0, Programs())
    applied = served(tmp_path, SPEC, {(): model, ("a",): model}).applied
    assert applied is not None
    found = Watched(tmp_path, applied.models[FLEET].pointer)
    yield found
    os.close(found.state)


def test_one_look_is_enough_however_much_was_missed(watched: Watched) -> None:
    watched.publish(1)
    assert watched.look() == (1, 1, False)
    for revision in (2, 3, 4, 5):
        watched.publish(revision)
    assert watched.look() == (5, 5, False)


def test_a_node_never_goes_back_to_an_older_state(watched: Watched) -> None:
    watched.publish(7)
    assert watched.look() == (7, 7, False)
    watched.publish(6)
    assert watched.look() == (7, 7, False)
    watched.publish(8)
    assert watched.look() == (8, 8, False)


def test_a_pointer_that_another_key_signed_changes_nothing(watched: Watched) -> None:
    watched.publish(1)
    assert watched.look() == (1, 1, False)
    watched.publish(2, signature=bytes(64))
    assert watched.look() == (2, 1, True)
    watched.publish(3, map=Digest("0" * 64))
    assert watched.look() == (3, 1, True)
    watched.publish(4)
    assert watched.look() == (4, 4, False)
