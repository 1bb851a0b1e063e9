"""A served fleet of packed models, made through the code that makes real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelmill.artifact.packed import Packed
from modelmill.artifact.saving import PACKED
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName, Segment, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.release.pointers import Pointer
from modelmill.serving.applied import Applied
from modelmill.serving.door import Door
from modelmill.serving.history import Point
from modelmill.serving.log import LogPlan, PredictionLog
from modelmill.serving.plane import Plane
from modelmill.serving.served import ServedModel
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackWriter
from modelmill.store.signing import SigningKey

Fleet = Callable[..., Plane]


class NoHost:
    """A worker that is not there."""

    def describe(self, *, memory: bool) -> dict[str, Any]:  # noqa: ARG002 - as its callers ask
        return {}

    async def refresh(self) -> None: ...

    async def metrics(self) -> bytes:
        return b""

    async def history(self, model: str, segment: str, minutes: int) -> list[Point]:  # noqa: ARG002 - as its callers ask
        return []

    async def compared(self) -> dict[str, list[dict[str, Any]]]:
        return {}


def log_in(folder: Path, **plan: Any) -> PredictionLog:
    """Return the prediction log of a worker, in a folder of its own."""
    return PredictionLog(LogPlan(**({"folder": str(folder / "predictions"), "level": "memory"} | plan)), [0, 0, 0])


def serve(
    folder: Path, spec: SchemaSpec, models: Mapping[Segment, Packed], labels: tuple[str, ...] = (), **told: Any
) -> Plane:
    """Return a plane that serves these models of one fleet, named `fleet`, by the keys of its schema.

    `told` is what else its map says of all segments.
    """
    blobs, key = blobs_of(folder), SigningKey.create(folder)
    blobs.put([b"makes the folders"])
    contents = {segment: model.encode() for segment, model in models.items()}
    with PackWriter(blobs.scratch) as writer:
        places = {segment: writer.add(content) for segment, content in contents.items()}
        pack = blobs.put_file(writer.finish())
    header = Header(
        model=ModelName("fleet"),
        spec=spec,
        by=told.pop("by", tuple(column.name for column in spec.keys)),
        task="classification" if labels else "regression",
        code=digest_of(b"code"),
        entry=("fleet.py", "fleet"),
        labels=labels,
        feature_names=tuple(column.name for column in spec.features),
        run=3,
        **told,
    )
    entries = [
        Entry(s, 2, PACKED, "packed", pack, places[s].offset, places[s].length, digest_of(c))
        for s, c in contents.items()
    ]
    signed = sign(key, FleetMap.build(header, entries))
    pointer = Pointer(1, blobs.put([signed.content])[0], signed.signature)
    plane = Plane(NoHost(), log_in(folder), Door())
    plane.applied = Applied(1, {ModelName("fleet"): ServedModel(folder, blobs, pointer)}, {})
    return plane


@pytest.fixture(scope="session")
def no_host() -> type[NoHost]:
    """Return a worker that is not there, for a plane without one."""
    return NoHost


@pytest.fixture(scope="session")
def no_log() -> PredictionLog:
    """Return a prediction log that takes nothing."""
    return PredictionLog(LogPlan(), [0, 0, 0])


@pytest.fixture(scope="session")
def logging() -> Callable[..., PredictionLog]:
    """Return what makes a worker's prediction log."""
    return log_in


@pytest.fixture(scope="session")
def served() -> Fleet:
    """Return what serves packed models."""
    return serve
