"""What an environment serves, as the one small content that serving nodes poll."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from modelmill.errors import BlobBroken, NotFound
from modelmill.names import Digest, ModelName, parse_model_name
from modelmill.registry.fleet import FleetMap, SignedMap
from modelmill.store.blobs import Blobs, Pointers


class Beside(msgspec.Struct, frozen=True):
    """A second release that takes a part of the traffic."""

    release: int
    map: Digest
    signature: bytes
    of: Literal["requests", "segments"]
    share: float
    """Of the requests that it answers, where requests are shared."""
    salt: str
    """Which requests these are: a function of it and of their keys."""
    ring: Digest | None = None
    """Where segments are shared: the blob that lists those drawn for all steps, in their order."""
    count: int = 0
    """How many of these it answers for now."""


class Shadow(msgspec.Struct, frozen=True):
    """A release that answers copies of the requests; nobody sees what it answers."""

    release: int
    map: Digest
    signature: bytes
    share: float = 1.0
    """Of the requests that are copied."""
    salt: str = ""
    """Which requests these are: a function of it and of the row."""
    is_step: bool = False
    """Whether it is the first step of a canary, which somebody has to watch."""

    def alone(self) -> Pointer:
        """Return what to open."""
        return Pointer(self.release, self.map, self.signature)


class Pointer(msgspec.Struct, frozen=True):
    """Which release of one model an environment serves."""

    release: int
    map: Digest
    signature: bytes
    """Of the map's bytes, by the installation's key."""
    versions: Digest | None = None
    """The blob that names the maps of all versions; see `Versions`."""
    before: Pointer | None = None
    """What a roll-back goes back to: named here, so that it needs no database."""
    beside: Beside | None = None
    """The release of a canary."""
    shadows: tuple[Shadow, ...] = ()

    def alone(self) -> Pointer:
        """Return the pointer without what is beside it."""
        return msgspec.structs.replace(self, beside=None, shadows=())

    def unshadowed(self) -> Pointer:
        """Return the pointer without its shadows: all that decides who answers."""
        return msgspec.structs.replace(self, shadows=())

    @property
    def is_watched(self) -> bool:
        """Whether a canary runs, which somebody has to watch."""
        return self.beside is not None or any(shadow.is_step for shadow in self.shadows)


class Versions(msgspec.Struct, frozen=True):
    """The fleet maps of one model, by the number of the run that made each: any of them can be asked."""

    maps: dict[int, tuple[Digest, bytes]]
    """Digest and signature."""

    def encode(self) -> bytes:
        """Return the content of a blob."""
        return msgspec.msgpack.encode(Versions(dict(sorted(self.maps.items()))))

    def pointer(self, number: int) -> Pointer | None:
        """Return what to open for a version, None where there is none."""
        found = self.maps.get(number)
        return Pointer(0, *found) if found else None


class Order(msgspec.Struct, frozen=True):
    """A roll-back that was ordered while the database could not be reached; it is written down there later."""

    model: ModelName
    before: int
    after: int
    at: datetime
    by: str
    reason: str


class Published(msgspec.Struct, frozen=True):
    """All that one environment serves."""

    environment: str
    revision: int
    """Counts the changes: a node never goes back to a smaller one."""
    models: dict[ModelName, Pointer]
    orders: tuple[Order, ...] = ()
    """What the database does not know yet."""


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


def order_rollback(pointers: Pointers, environment: str, model: ModelName, by: str, reason: str) -> Order:
    """Publish what an environment served of a model before, without a database; `republish` writes it down later."""
    published = find_published(pointers, environment)
    pointer = published.models.get(model) if published else None
    if published is None or pointer is None:
        raise NotFound(f"{environment} serves no `{model}`", next="modelmill status")
    if pointer.before is None:
        raise NotFound(f"there is no release before r{pointer.release} of `{model}` in {environment}")
    order = Order(model, pointer.release, pointer.before.release, datetime.now(UTC), by, reason)
    # Without a canary: whoever goes back wants what was before, for everybody.
    back = msgspec.structs.replace(pointer.before, versions=pointer.versions)
    changed = msgspec.structs.replace(
        published,
        revision=published.revision + 1,
        models={**published.models, model: back},
        orders=(*published.orders, order),
    )
    publish(pointers, changed)
    return order


def open_versions(blobs: Blobs, pointer: Pointer) -> Versions:
    """Return the maps of all versions; each is checked by its own signature when it is opened."""
    if pointer.versions is None:
        return Versions({})
    try:
        return msgspec.msgpack.decode(blobs.get(pointer.versions), type=Versions)
    except msgspec.MsgspecError as error:
        raise BlobBroken("the list of versions cannot be read", got=str(error)) from error


def open_map(blobs: Blobs, pointer: Pointer, public: bytes) -> FleetMap:
    """Return the fleet map that a pointer names, after its digest and its signature were checked."""
    return SignedMap(blobs.get(pointer.map), pointer.signature).open(public)


def check_packs(blobs: Blobs, packs: Iterable[Digest]) -> None:
    """Raise `BlobBroken` where the bytes of a pack are not those that its name was made of."""
    for pack in packs:
        if hashlib.sha256(blobs.open(pack)).hexdigest() != pack:
            raise BlobBroken(f"pack `{pack[:12]}` does not hold the bytes that were recorded", next="modelmill fsck")
