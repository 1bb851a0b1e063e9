"""The token that requests must carry where a node listens to more than this machine."""

from __future__ import annotations

import secrets
from pathlib import Path

from modelmill.errors import NotFound
from modelmill.store.files import write_once


def token_file(store: Path) -> Path:
    """Return where the token is kept, mode 0600."""
    return store / "keys" / "node.token"


def make_token(store: Path) -> Path:
    """Make the token of the store at this folder, if there is none; return its file."""
    file = token_file(store)
    write_once(file, secrets.token_urlsafe(32).encode(), 0o600)
    return file


def read_token(file: Path) -> bytes:
    """Return a token."""
    try:
        return file.read_bytes().strip()
    except FileNotFoundError:
        raise NotFound("the node's token is gone", where=str(file), next="modelmill down && modelmill serve") from None
