"""`init`: a project that runs, in a new folder or beside what is there. It adds what is missing, overwrites nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from modelmill.cli.local import InitOutcome, InitRequest
from modelmill.errors import UsageError
from modelmill.outcomes import Progress
from modelmill.settings import FILE_NAME, Settings, load_settings
from modelmill.store.opening import open_store

MODEL_FILE = "delays.py"
_RENAMED = {"gitignore": ".gitignore"}
_ONLY_WITH_THE_MODEL = ("test_delays.py", "sample/flights.parquet")
_CONNECTION = '[connections.flights]\ndev = "sample/flights.parquet"'
_NOTES = {
    MODEL_FILE: "model, {lines} lines, runs",
    "sample/flights.parquet": "about 60,000 real flights",
}


def init(settings: Settings, request: InitRequest, _progress: Progress) -> InitOutcome:
    """Write the template's files where they are missing, and make the store with its signing key."""
    folder = _folder(request.folder)
    created, kept = _write_missing(folder)
    own = load_settings(folder, store=settings.store if Path(settings.store).is_absolute() else None)
    open_store(own).close()
    return InitOutcome(
        folder=str(folder),
        created=tuple(created),
        kept=tuple(kept),
        notices=tuple(_notices(folder, own, kept)),
        next=_next(request.folder),
    )


def _folder(named: str | None) -> Path:
    folder = Path(named or ".").resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`{named}` cannot be a project's folder: {error.strerror}", where=str(folder)) from error
    return folder


def _write_missing(folder: Path) -> tuple[list[str], list[str]]:
    own_model = _own_model_file(folder)
    created, kept = [], [own_model] if own_model else []
    for name, source in _template(files("modelmill.cli") / "template"):
        if own_model and name in (MODEL_FILE, *_ONLY_WITH_THE_MODEL):
            continue
        target = folder / name
        if target.exists():
            kept.append(name)
            continue
        _write(target, source.read_bytes())
        created.append(_noted(name, target))
    return created, kept


def _own_model_file(folder: Path) -> str | None:
    """Return a model file that is not ours: a second one would only make every command ambiguous."""
    for path in sorted(folder.glob("*.py")):
        if path.name != MODEL_FILE and "mm.Model(" in path.read_text(encoding="utf-8", errors="replace"):
            return path.name
    return None


def _template(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith("__") or entry.name.endswith(".pyc"):
            continue
        if entry.is_dir():
            yield from _template(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + _RENAMED.get(entry.name, entry.name), entry


def _write(target: Path, content: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"`{target.name}` cannot be written: {error.strerror}", where=str(target)) from error


def _noted(name: str, target: Path) -> str:
    note = _NOTES.get(name, "")
    if "{lines}" in note:
        note = note.format(lines=len(target.read_text(encoding="utf-8").splitlines()))
    return f"{name} ({note})" if note else name


def _notices(folder: Path, settings: Settings, kept: list[str]) -> Iterator[str]:
    ours = (folder / MODEL_FILE).is_file()
    if FILE_NAME in kept and ours and "flights" not in settings.connections:
        yield f"{MODEL_FILE} reads the connection `flights`; add to {FILE_NAME}:\n{_CONNECTION}"
    if ".gitignore" in kept and ".modelmill" not in (folder / ".gitignore").read_text(encoding="utf-8"):
        yield "your .gitignore does not name .modelmill/, where models and keys are kept"


def _next(named: str | None) -> str:
    return "modelmill check" if named is None or named == "." else f"cd {shlex.quote(named)} && modelmill check"
