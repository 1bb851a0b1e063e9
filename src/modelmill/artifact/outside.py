"""What a function reaches outside of its arguments while it runs: files, other processes, the network, databases.

CPython tells of such things by audit events (PEP 578). A hook can never be taken away again, so one is added when it is first
needed, and it listens only to threads that ask it to.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = ("open", "os.listdir", "os.scandir", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
_FAMILIES = ("socket.", "sqlite3.", "urllib.", "ctypes.dlopen")
_CODE = (".py", ".pyc", ".so")
"""Files that an import opens: what a function imports is the lock's, and the archive's, business."""


class _Heard(threading.local):
    """What a thread has heard; None while it does not listen."""

    events: list[str] | None = None


_heard = _Heard()
_hooked = threading.Lock()


@contextmanager
def listening() -> Iterator[list[str]]:
    """Return a list that fills with what this thread reaches outside while the block runs: ``open rates.csv``."""
    _hook()
    before, _heard.events = _heard.events, []
    try:
        yield _heard.events
    finally:
        _heard.events = before


def _hook() -> None:
    if _hooked.acquire(blocking=False):  # and never let go: once is enough
        sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _heard.events is None or not (event in _EVENTS or event.startswith(_FAMILIES)):
        return
    if event in ("open", "os.listdir", "os.scandir") and _is_import(arguments):
        return
    _heard.events.append(f"{event} {arguments[0] if arguments else ''}".strip())


def _is_import(arguments: tuple[Any, ...]) -> bool:
    """Return whether the import system does it: its own frames are on the stack, or the file is one of code."""
    if arguments and str(arguments[0]).endswith(_CODE):
        return True
    return any(frame.f_code.co_filename.startswith("<frozen importlib") for frame, _ in traceback.walk_stack(None))
