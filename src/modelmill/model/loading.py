"""Importing a model file: the module, its models, and an error that points into the user's own lines."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from modelmill.errors import DeclarationInvalid, ModelFileBroken, ModelmillError, ModelMissing
from modelmill.model.declaration import Model

_NOT_OURS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages", ".venv"))


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A model file that was imported."""

    path: Path
    root: Path
    module: ModuleType
    models: dict[str, Model]

    @property
    def entry(self) -> str:
        """Return the name under which the module is imported, here and on every worker and node."""
        return self.module.__name__


def load_model_file(path: Path, root: Path) -> LoadedFile:
    """Import the model file at `path`, with `root` and its own folder on the import path."""
    for folder in (str(path.parent), str(root)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    module = _import(path, root)
    models = {str(m.name): m for m in vars(module).values() if isinstance(m, Model)}
    if not models:
        raise ModelMissing(f"`{path.name}` declares no model", where=shown(path, root), next="write  m = mm.Model(...)")
    for model in models.values():
        model.check_complete()
        _check_files(model, root)
    return LoadedFile(path, root, module, models)


def _check_files(model: Model, root: Path) -> None:
    for name in model.files:
        file = root / name
        if not file.is_file() or not file.resolve().is_relative_to(root.resolve()):
            raise DeclarationInvalid(
                f"`files=` of model `{model.name}` names `{name}`, which is no file of the project",
                where=model.where,
                expected=f"a path below {root}",
            )


def _import(path: Path, root: Path) -> ModuleType:
    name = path.stem
    if path.suffix != ".py":
        raise ModelFileBroken(
            f"`{path.name}` is no Python file",
            expected="a .py file: what is built is imported on every worker and node, and compared line by line",
            next=f"jupyter nbconvert --to script {path.name}" if path.suffix == ".ipynb" else "",
        )
    if not name.isidentifier():
        raise ModelFileBroken(
            f"`{path.name}` is no importable name", next=f"mv {path.name} {name.replace('-', '_')}.py"
        )
    _forget_other_module(name, path)
    try:
        return importlib.import_module(name)
    except DeclarationInvalid as error:
        raise _with_place(error, path, root) from error
    except ModelmillError:
        raise
    except SyntaxError as error:
        raise ModelFileBroken(
            f"`{path.name}` has a syntax error: {error.msg}",
            where=f"{shown(Path(error.filename or path), root)}:{error.lineno}",
            got=(error.text or "").strip(),
        ) from error
    except Exception as error:
        raise ModelFileBroken(
            f"`{path.name}` cannot be imported: {type(error).__name__}: {error}",
            where="\n".join(user_frames(error, root)) or shown(path, root),
            likely=_missing_module(error),
        ) from error


def _forget_other_module(name: str, path: Path) -> None:
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "/").resolve() != path.resolve():
        if name in sys.stdlib_module_names:
            raise ModelFileBroken(
                f"`{path.name}` hides the standard module `{name}`", next="give the file another name"
            )
        del sys.modules[name]
        importlib.invalidate_caches()


def _with_place(error: DeclarationInvalid, path: Path, root: Path) -> DeclarationInvalid:
    frames = user_frames(error, root)
    parts = {"where": frames[0] if frames else shown(path, root), **error.parts}
    return DeclarationInvalid(error.what, **parts)


def _missing_module(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package that provides `{error.name}` is not installed here"
    return ""


def user_frames(error: BaseException, folder: Path, most: int = 3) -> list[str]:
    """Return the innermost lines of a traceback that lie in the user's folder, innermost first, at most `most`."""
    frames = [
        f"{shown(Path(frame.filename), folder)}:{frame.lineno} {frame.name}()  {frame.line or ''}".rstrip()
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_own(frame.filename, folder.resolve())
    ]
    return frames[::-1][:most]


def shown(file: Path, folder: Path) -> str:
    """Return a file as a person in the project's folder would name it."""
    try:
        return str(file.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(file)


def imported_files(root: Path) -> list[Path]:
    """Return the project's own files that are really imported now, and those that their models declare, in order.

    A module that lies in an installed environment, or that a link leads out of the project, is not the project's.
    """
    return sorted(set(_own_files(root.resolve())))


def _own_files(root: Path) -> Iterator[Path]:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and _is_own(file, root):
            yield Path(file).resolve()
            models = [value for value in vars(module).values() if isinstance(value, Model)]
            yield from ((root / name).resolve() for model in models for name in model.files)


def _is_own(file: str, root: Path) -> bool:
    """Return whether a file is the project's; `root` is resolved. Thousands of modules are asked: texts come first."""
    if not file.startswith("/") or any(name in file for name in _NOT_OURS):
        return False  # what was imported from a file names it in full: torch has modules that name none that there is
    return Path(os.path.realpath(file)).is_relative_to(root)
