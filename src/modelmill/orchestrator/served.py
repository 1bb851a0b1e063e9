"""Which model is meant, and which fleet map answers for it: the released one, else the newest."""

from __future__ import annotations

from modelmill.errors import NotFound, UsageError, did_you_mean
from modelmill.names import ModelName
from modelmill.orchestrator.rows import ENVIRONMENT
from modelmill.registry import runs
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.records import Run
from modelmill.release.pointers import find_published, open_map
from modelmill.store.opening import Store


def model_names(store: Store) -> list[ModelName]:
    """Return the models of which something was built, the newest first."""
    return list(dict.fromkeys(run.model for run in runs.list_runs(store.database, limit=1000)))


def pick_model(store: Store, name: str | None) -> ModelName:
    """Return a model that was built here; without a name, the only one."""
    known = model_names(store)
    if not known:
        raise NotFound("nothing was built here yet", next="modelmill train")
    if name is None:
        if len(known) > 1:
            raise UsageError("this project has several models", got=", ".join(known), next=f"name one: {known[0]}")
        return known[0]
    if name not in known:
        raise NotFound(
            f"no version of `{name}` was built here", likely=did_you_mean(name, known), next="modelmill status"
        )
    return ModelName(name)


def pick_run(store: Store, model: ModelName, number: int | None = None) -> Run:
    """Return a run that made a map, the newest if none is named; raises `NotFound` where it built nothing."""
    if number is None:
        return runs.newest_map(store.database, model)
    run = runs.get_run(store.database, model, number)
    if run.map is None:
        raise NotFound(f"run {number} of `{model}` built nothing", next=f"modelmill show {model}")
    return run


def served_map(store: Store, model: ModelName) -> tuple[FleetMap, str]:
    """Return the map that answers for a model, and what that is in words."""
    published = find_published(store.pointers, ENVIRONMENT)
    pointer = published.models.get(model) if published else None
    if pointer is not None:
        return open_map(store.blobs, pointer, store.public_key), f"release {pointer.release} of {ENVIRONMENT}"
    run = runs.get_run(store.database, model)
    if run.map is None:
        raise NotFound(f"no version of `{model}` was built here", next="modelmill train")
    return decode(store.blobs.get(run.map)), f"version {run.number}"
