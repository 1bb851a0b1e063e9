"""What this installation wrote, and how a serving node proves it.

`init` makes one Ed25519 key. Its private half stays in the store, readable by its owner alone; nodes need only the
public half. Nothing is unpickled whose map was not signed by it.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from modelmill.errors import NotFound, SignatureInvalid
from modelmill.store.files import told, write_once

_KEY_BYTES = 32


class SigningKey:
    """The private key of an installation."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 bytes of the private key."""
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)

    @classmethod
    def create(cls, store: Path) -> Self:
        """Return the key of the store at this folder, made now if there is none: ``keys/signing.key``, mode 0600."""
        folder = store / "keys"
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_once(folder / "signing.key", os.urandom(_KEY_BYTES), 0o600)
        key = cls.load(store)
        with told(folder):
            write_once(folder / "signing.pub", key.public, 0o644)
        return key

    @classmethod
    def load(cls, store: Path) -> Self:
        """Return the key of the store at this folder."""
        return cls(_read_key(store / "keys" / "signing.key"))

    @property
    def public(self) -> bytes:
        """Return the public half, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content`, 64 bytes."""
        return self._private.sign(content)

    def derived(self, purpose: str) -> bytes:
        """Return 32 secret bytes for another purpose, such as a keyed hash; the same ones every time."""
        return hmac.digest(self._seed, f"modelmill {purpose}".encode(), "sha256")


def public_key(store: Path) -> bytes:
    """Return the public key of the store at this folder, 32 bytes."""
    return _read_key(store / "keys" / "signing.pub")


def verify(public: bytes, content: bytes, signature: bytes) -> None:
    """Raise SignatureInvalid unless `signature` was made over `content` by the key with this public half."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError) as error:
        raise SignatureInvalid(
            "the signature was not made by this installation",
            likely="the bytes were changed or come from another store",
            safe="nothing of it was opened",
        ) from error


def _read_key(path: Path) -> bytes:
    with told(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"there is no key at `{path}`", next="modelmill init") from error
    if len(content) != _KEY_BYTES:
        raise SignatureInvalid(f"`{path.name}` is not a key", where=str(path), got=f"{len(content)} bytes")
    return content
