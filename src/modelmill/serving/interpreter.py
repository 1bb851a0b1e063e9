"""Which Python answers for a version: the node's own, or that of the package environment that it was built in.

A node installs nothing: what is needed besides its own packages was made before the release was moved, by its lock's name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from modelmill.errors import EnvironmentMissing
from modelmill.names import Digest
from modelmill.registry.environment import Use, environments_in, use_environment
from modelmill.registry.lock import differences_here, read_lock
from modelmill.store.blobs import Blobs


class Interpreter(NamedTuple):
    """A Python that answers."""

    python: Path
    use: Use | None = None
    """Of an environment beside the node's own: as long as somebody keeps this, it stays."""


def interpreter_of(store: Path, blobs: Blobs, lock: Digest | None) -> Interpreter:
    """Return the interpreter for what was built with a lock; raises `EnvironmentMissing` where it has to be made first.

    Where the packages that its code needs are those of this process, that is this one's. Nothing else is looked at: that
    the node's own server is newer changes no answer.
    """
    if lock is None:  # of a map that names none: always answered by what is here
        return Interpreter(Path(sys.executable))
    differences = differences_here(read_lock(blobs, lock))
    if not differences:
        return Interpreter(Path(sys.executable))
    found = use_environment(environments_in(store), lock)
    if found is None:
        raise EnvironmentMissing(
            f"the packages that it was built with are not those of the node, and their environment, {lock[:12]}, is not here",
            got="; ".join(differences),
            likely="the cache of the store was emptied, or the release was moved on another machine",
            next="modelmill serve --restart      (makes what is missing of what is released, and replaces the workers)",
        )
    return Interpreter(found.python, found.use)
