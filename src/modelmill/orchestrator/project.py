"""A project as commands see it: its settings, its model file and its store, found and opened once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelmill.errors import ModelMissing, NotFound, UsageError, did_you_mean
from modelmill.model.loading import LoadedFile, load_model_file

if TYPE_CHECKING:
    from modelmill.model.declaration import Model
    from modelmill.settings import Settings


@dataclass(frozen=True, slots=True)
class Project:
    """One model of one model file, with the settings it runs under."""

    settings: Settings
    file: LoadedFile
    model: Model

    @property
    def shown_path(self) -> str:
        """Return the model file as a person of the project would write it."""
        return str(self.file.path.relative_to(self.settings.root))


def open_project(settings: Settings, file: str | None = None, model: str | None = None) -> Project:
    """Import the project's model file and pick its model; both may be left out where there is only one."""
    loaded = load_model_file(find_model_file(settings, file), settings.root)
    return Project(settings, loaded, _pick(loaded, model))


def find_model_file(settings: Settings, file: str | None) -> Path:
    """Return the model file: the one named, else the project's setting, else the only one there is."""
    named = file or settings.model
    if named:
        return _existing(settings.root, named)
    found = [path for path in sorted(settings.root.glob("*.py")) if _declares_a_model(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelMissing(
            f"no model file in `{settings.root}`", next="modelmill init      (writes a model file that runs)"
        )
    raise UsageError(
        "this project has several model files",
        got=", ".join(path.name for path in found),
        next=f'name one, or write into modelmill.toml:  model = "{found[0].name}"',
    )


def _existing(root: Path, named: str) -> Path:
    for candidate in (Path.cwd() / named, root / named):
        if candidate.is_file():
            return candidate.resolve()
    near = did_you_mean(Path(named).name, [path.name for path in root.glob("*.py")])
    raise NotFound(f"there is no model file `{named}`", where=str(root), likely=near)


def _declares_a_model(path: Path) -> bool:
    return "mm.Model(" in path.read_text(encoding="utf-8", errors="replace")


def _pick(loaded: LoadedFile, name: str | None) -> Model:
    models = loaded.models
    if name is not None and name in models:
        return models[name]
    if name is not None:
        raise NotFound(f"`{loaded.path.name}` declares no model `{name}`", likely=did_you_mean(name, models))
    if len(models) == 1:
        return next(iter(models.values()))
    raise UsageError(
        f"`{loaded.path.name}` declares several models", got=", ".join(models), next="name one with --model"
    )
