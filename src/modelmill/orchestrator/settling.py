"""Logged predictions of a project: what turns journals into its dataset, in the background and before each look.

Run by the node as ``python -m modelmill.orchestrator.settling PROJECT``, at the lowest priority, when a journal was closed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from modelmill.data.logged import Shape
from modelmill.data.predictions import Settled, ShapeOf, journal_folder, settle
from modelmill.errors import ModelmillError, NotFound
from modelmill.names import ModelName
from modelmill.registry.fleet import Header, decode
from modelmill.registry.runs import get_run
from modelmill.settings import Settings, load_settings
from modelmill.store.opening import Store, open_store

_LOWEST = 19


def settle_in(store: Store, settings: Settings) -> Settled:
    """Turn the journals of a store into files; nothing is looked at where there never were any."""
    if not journal_folder(store).is_dir():
        return Settled(0, 0, 0)
    return settle(store, shapes_of(store), settings.predictions.keep_days)


def shapes_of(store: Store) -> ShapeOf:
    """Return what knows the schema of each run's records."""

    @cache
    def find(model: ModelName, run: int) -> Shape:
        header = header_of(store, model, run)
        return Shape(header.spec, header.by, header.labels)

    return find


def header_of(store: Store, model: ModelName, run: int) -> Header:
    """Return what a run's fleet map says of all its segments."""
    found = get_run(store.database, model, run)
    if found.map is None:
        raise NotFound(f"run {run} of `{model}` has no fleet map")
    return decode(store.blobs.get(found.map)).header


def main(arguments: Sequence[str] | None = None) -> int:
    """Settle a project's journals once."""
    (root,) = sys.argv[1:] if arguments is None else arguments
    os.nice(_LOWEST)
    try:
        settings = load_settings(Path(root))
        with open_store(settings, create=False) as store:
            settle_in(store, settings)
    except ModelmillError as error:
        sys.stderr.write(f"predictions stay in journals: {error.code} {error.what}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
