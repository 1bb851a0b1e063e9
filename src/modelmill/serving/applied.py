"""What a worker serves now: the published pointers of its environment, opened. Replaced as a whole, never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from modelmill.errors import BlobBroken, ModelmillError, ModelUnknown, did_you_mean
from modelmill.names import ModelName
from modelmill.release.pointers import Pointer, Published, Shadow
from modelmill.serving.copies import Run, open_run
from modelmill.serving.onnx import check_graphs_open
from modelmill.serving.served import ServedModel, open_model
from modelmill.serving.shelf import Shelf
from modelmill.serving.split import Split, open_ring
from modelmill.store.blobs import blobs_of

Model = ServedModel | Split


class Applied:
    """All models of an environment at one revision."""

    def __init__(
        self,
        revision: int,
        models: Mapping[ModelName, Model],
        unopened: Mapping[ModelName, str],
        kept: Collection[ServedModel] = (),
        runs: Mapping[ModelName, Sequence[Run]] | None = None,
        unshadowed: Mapping[ModelName, str] | None = None,
    ) -> None:
        """Take what could be opened, why the rest could not, what a roll-back would go back to, and the shadows."""
        self.revision, self.models, self.unopened, self.kept = revision, models, unopened, kept
        self.runs: Mapping[ModelName, Sequence[Run]] = runs or {}
        self.unshadowed: Mapping[ModelName, str] = unshadowed or {}
        """Why a shadow could not be opened: nobody's answers are the worse for it, so no model is broken."""

    @property
    def broken(self) -> dict[ModelName, str]:
        """Return what is wrong with models: they could not be opened, or a part was found damaged when it was asked."""
        damaged = {name: model.damage for name, model in self.models.items() if model.damage}
        return damaged | dict(self.unopened)

    @property
    def releases(self) -> set[ServedModel]:
        """Return every release that is open."""
        return {side for model in self.models.values() for side in model.sides} | set(self.kept)

    def get(self, name: str) -> Model:
        """Return a model by name."""
        model = self.models.get(ModelName(name))
        if model is None:
            likely = self.unopened.get(ModelName(name)) or did_you_mean(name[:80], self.models)
            raise ModelUnknown(f"this node serves no model `{name[:80]}`", likely=likely)
        return model


async def apply(store: Path, published: Published, before: Applied | None, shelf: Shelf | None = None) -> Applied:
    """Open what is published; a release that is open already is kept as it is. `shelf` holds the graphs of all of them.

    A model that cannot be opened keeps its release of before, if there is one: a damaged blob takes nothing down.
    """
    shelf = shelf or Shelf()
    opening, shading = _Opening(store, published.environment, before, shelf), _Shading(store, before, shelf)
    models: dict[ModelName, Model] = {}
    unopened: dict[ModelName, str] = {}
    for name, pointer in published.models.items():
        known = before.models.get(name) if before else None
        try:
            same = known is not None and known.pointer == pointer.unshadowed()
            models[name] = known if known is not None and same else await opening.open(name, pointer, known)
        except ModelmillError as error:
            unopened[name] = f"release {_newest(pointer)} cannot be opened: {_told(error)}"
            if known is not None:
                models[name] = known
        if name in models:
            await shading.open(name, pointer.shadows, models[name].sides[0])
    kept = opening.kept(published.models.values())
    return Applied(published.revision, models, unopened, kept, shading.runs, shading.unopened)


def _told(error: ModelmillError) -> str:
    """Return what is wrong, and what to do about it where there is one command for that."""
    return "; next: ".join(filter(None, (error.what, error.parts.get("next", ""))))


def _newest(pointer: Pointer) -> int:
    return pointer.beside.release if pointer.beside else pointer.release


class _Opening:
    """Opens what is published, and takes from before what is open already."""

    def __init__(self, store: Path, environment: str, before: Applied | None, shelf: Shelf) -> None:
        self.store, self.environment, self.blobs, self.shelf = store, environment, blobs_of(store), shelf
        self.known = {_identity(one.pointer): one for one in before.releases} if before else {}

    async def open(self, name: ModelName, pointer: Pointer, known: Model | None) -> Model:
        """Return a model as it is published, be it one release or two that share the traffic.

        Raises `BlobBroken` where the map is that of another model, which this installation has signed as well.
        """
        stable = await self._one(pointer.alone(), known.sides[0] if known else None)
        if stable.header.model != name:
            await stable.close()
            raise BlobBroken(f"what is published as `{name}` is the map of `{stable.header.model}`")
        if pointer.beside is None:
            return stable
        beside = pointer.beside
        candidate = await self._one(Pointer(beside.release, beside.map, beside.signature), stable)
        return Split(stable, candidate, beside, open_ring(self.blobs, beside))

    async def _one(self, pointer: Pointer, near: ServedModel | None) -> ServedModel:
        found = self.known.get(_identity(pointer))
        if found is None:
            return await open_model(self.store, self.blobs, pointer, near, self.environment, shelf=self.shelf)
        found.pointer = pointer  # the list of its versions may be a longer one
        return found

    def kept(self, pointers: Iterable[Pointer]) -> list[ServedModel]:
        """Return what is open of what a roll-back goes back to; child processes are not kept for that."""
        found = (self.known.get(_identity(one.before)) for one in pointers if one.before is not None)
        return [one for one in found if one is not None and one.answers_here]


class _Shading:
    """Opens shadows, and takes from before those that run already; one that cannot be opened is nobody's trouble."""

    def __init__(self, store: Path, before: Applied | None, shelf: Shelf) -> None:
        self.store, self.blobs, self.shelf = store, blobs_of(store), shelf
        self.runs: dict[ModelName, list[Run]] = {}
        self.unopened: dict[ModelName, str] = {}
        self._known = {
            (name, run.shadow): run for name, runs in (before.runs if before else {}).items() for run in runs
        }

    async def open(self, name: ModelName, shadows: Iterable[Shadow], live: ServedModel) -> None:
        for shadow in shadows:
            try:
                run = self._known.get((name, shadow)) or await self._opened(shadow, live)
            except ModelmillError as error:
                self.unopened[name] = f"shadow r{shadow.release} cannot be opened: {error.what}"
            else:
                self.runs.setdefault(name, []).append(run)

    async def _opened(self, shadow: Shadow, live: ServedModel) -> Run:
        model = await asyncio.to_thread(
            ServedModel, self.store, self.blobs, shadow.alone(), live, shelf=self.shelf, is_shadow=True
        )
        check_graphs_open(model.map)
        return open_run(shadow, model, live)


def _identity(pointer: Pointer) -> tuple[int, str, bytes]:
    return pointer.release, pointer.map, pointer.signature
