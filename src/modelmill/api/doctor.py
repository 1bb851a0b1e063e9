"""`doctor`: what modelmill needs of the machine around a project, looked at one by one."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from modelmill.errors import ModelmillError
from modelmill.orchestrator.project import find_model_file
from modelmill.outcomes import DoctorCheck, DoctorOutcome, Progress
from modelmill.requests import DoctorRequest
from modelmill.serving.control import find_node, who_listens
from modelmill.settings import FILE_NAME, Settings
from modelmill.store.database import Database
from modelmill.store.dialects import wal_is_safe
from modelmill.store.locks import find_holder

LITTLE_BYTES = 1_000_000_000
"""Free disk space below which a build may well not fit."""

_LEAST_PYTHON = (3, 11)


class Finding(NamedTuple):
    """What one look found: ``ok``, ``notice`` or ``problem``, in words, and what to do."""

    state: str
    text: str
    next: str = ""


def doctor(settings: Settings, _request: DoctorRequest, _progress: Progress) -> DoctorOutcome:
    """Look at everything; one bad thing does not hide the others."""
    checks = tuple(_looked_at(settings))
    bad = [check for check in checks if check.state == "problem"]
    return DoctorOutcome(checks=checks, next=bad[0].next if bad else "modelmill status")


def _looked_at(settings: Settings) -> Iterator[DoctorCheck]:
    for name, look in _LOOKS.items():
        found = look(settings)
        yield DoctorCheck(name=name, state=found.state, text=found.text, next=found.next)


def _project(settings: Settings) -> Finding:
    if not (settings.root / FILE_NAME).is_file():
        return Finding("notice", f"no {FILE_NAME} in {settings.root} or above it", "modelmill init")
    try:
        return Finding("ok", f"{settings.root}, model file {find_model_file(settings, None).name}")
    except ModelmillError as error:
        return Finding("notice", error.what, error.parts.get("next", ""))


def _python(_settings: Settings) -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _LEAST_PYTHON:
        return Finding("problem", text, "install Python 3.11 or newer")
    return Finding("ok", text)


def _libraries(_settings: Settings) -> Finding:
    found, missing = [], []
    for name in _needed_libraries():
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("problem", f"missing: {', '.join(missing)}", "pip install --force-reinstall modelmill")
    return Finding("ok", ", ".join(found))


def _needed_libraries() -> list[str]:
    """Return the names that the installed distribution requires, without their extras and versions."""
    try:
        declared = [text for text in requires("modelmill") or [] if "extra ==" not in text]
    except PackageNotFoundError:
        return []
    return [text.split(";")[0].split("[")[0].rstrip("0123456789.<>=!~, ") for text in declared]


def _machine(_settings: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding("ok", f"{cores} cores, {memory:.1f} GB of memory, {platform.platform()}")


def _store(settings: Settings) -> Finding:
    folder = settings.store_folder
    place = folder if folder.exists() else _existing_parent(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("problem", f"{folder} cannot be written: {error.strerror}", f"ls -ld {place}")
    if free < LITTLE_BYTES:
        return Finding("notice", f"{folder} has only {free / 1e6:.0f} MB free", "free some disk space")
    made = "" if folder.exists() else " (not made yet)"
    return Finding("ok", f"{folder}{made}, {free / 1e9:.1f} GB free")


def _existing_parent(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.exists())


def _writer(settings: Settings) -> Finding:
    holder = find_holder(settings.store_folder / "lock")
    return Finding("ok", f"held by {holder}" if holder else "nobody is writing")


def _sqlite(settings: Settings) -> Finding:
    if settings.database and not settings.database.startswith("sqlite"):
        return Finding("ok", "not used: the project names a database")
    if wal_is_safe():
        return Finding("ok", f"SQLite {sqlite3.sqlite_version}, write-ahead log")
    why = "rollback journal: this release may lose commits of a write-ahead log (fixed in 3.51.3, 3.50.7, 3.44.6)"
    return Finding("notice", f"SQLite {sqlite3.sqlite_version}, {why}")


def _database(settings: Settings) -> Finding:
    if not settings.database and not (settings.store_folder / "mill.db").exists():
        return Finding("ok", "SQLite in the store, not made yet")
    try:
        database = Database(settings.database_url)
        with database.read() as connection:
            connection.exec_driver_sql("SELECT 1")
        text = f"{database.place} answers, tables at {database.revision() or 'no revision yet'}"
        database.close()
    except ModelmillError as error:
        return Finding("problem", error.what, _setting_of(settings))
    return Finding("ok", text)


def _setting_of(settings: Settings) -> str:
    return f"look at `database` in {FILE_NAME} and at MODELMILL_DATABASE_URL" if settings.database else "modelmill fsck"


def _port(settings: Settings) -> Finding:
    host, port = settings.serve.host, settings.serve.port
    node = find_node(settings.store_folder)
    if node is not None and node.port == port:
        return Finding("ok", f"{host}:{port} is this project's own node's, pid {node.pid}")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            found = f"{host}:{port}: {who_listens(port) or error.strerror}"
            return Finding("notice", found, "modelmill up --port 0")
    return Finding("ok", f"{host}:{port} is free")


def _git(settings: Settings) -> Finding:
    if not shutil.which("git"):
        return Finding("notice", "git is not installed: versions will not name a commit", "install git")
    inside = any((folder / ".git").exists() for folder in (settings.root, *settings.root.parents))
    if not inside:
        return Finding("notice", "the project is in no repository: versions will not name a commit", "git init")
    return Finding("ok", "versions name their commit")


_LOOKS: dict[str, Callable[[Settings], Finding]] = {
    "python": _python,
    "libraries": _libraries,
    "machine": _machine,
    "project": _project,
    "store": _store,
    "writer": _writer,
    "sqlite": _sqlite,
    "database": _database,
    "port": _port,
    "git": _git,
}
