"""What an environment serves, as the one small content that serving nodes poll."""

from __future__ import annotations

import msgspec

from modelmill.errors import BlobBroken
from modelmill.names import Digest, ModelName, parse_model_name
from modelmill.registry.fleet import FleetMap, SignedMap
from modelmill.store.blobs import Blobs, Pointers


class Pointer(msgspec.Struct, frozen=True):
    """Which release of one model an environment serves."""

    release: int
    map: Digest
    signature: bytes
    """Of the map's bytes, by the installation's key."""


class Published(msgspec.Struct, frozen=True):
    """All that one environment serves."""

    environment: str
    revision: int
    """Counts the changes: a node never goes back to a smaller one."""
    models: dict[ModelName, Pointer]


def pointer_name(environment: str) -> str:
    """Return the name under which an environment is published."""
    return f"environment-{parse_model_name(environment)}.json"


def publish(pointers: Pointers, published: Published) -> None:
    """Make this what the environment's nodes find."""
    pointers.publish(pointer_name(published.environment), msgspec.json.encode(published, order="deterministic"))


def find_published(pointers: Pointers, environment: str) -> Published | None:
    """Return what was published for an environment; None when nothing was."""
    content = pointers.current(pointer_name(environment))
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=Published)
    except msgspec.MsgspecError as error:
        raise BlobBroken(f"what was published for `{environment}` cannot be read", got=str(error)) from error


def open_map(blobs: Blobs, pointer: Pointer, public: bytes) -> FleetMap:
    """Return the fleet map that a pointer names, after its digest and its signature were checked."""
    return SignedMap(blobs.get(pointer.map), pointer.signature).open(public)
