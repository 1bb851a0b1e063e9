"""modelmill: one file becomes thousands of models, built, tested, registered and answering.

The rooms, low to high: `errors`, `names`, `settings`; `model` (what a data scientist writes), `store`, `compute`;
`data`, `registry`, `release`; `build`, `serving`; `orchestrator`; `api`; `cli`, `testing`. A model file needs only the
names below; `Mill` is a project for Python programs, with the commands as methods.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelmill.model.columns import category, col, key, label, subject, target, time
from modelmill.model.conditions import (
    Canary,
    at_least,
    better,
    drifted,
    error_rate,
    every,
    new_labels,
    new_rows,
    no_worse,
    p99_ms,
    worse,
)
from modelmill.model.declaration import Model, Window
from modelmill.model.roles import Ask, Run
from modelmill.model.rows import Rows
from modelmill.model.schema import Schema

if TYPE_CHECKING:
    from modelmill.api.mill import Mill
    from modelmill.data.sources import read

__version__ = "0.1.0"

__all__ = [
    "Ask",
    "Canary",
    "Mill",
    "Model",
    "Rows",
    "Run",
    "Schema",
    "Window",
    "at_least",
    "better",
    "category",
    "col",
    "drifted",
    "error_rate",
    "every",
    "key",
    "label",
    "new_labels",
    "new_rows",
    "no_worse",
    "p99_ms",
    "read",
    "subject",
    "target",
    "time",
    "worse",
]

# What needs a table library or a store is imported when it is first used: a model file on a node needs neither.
_LATER = {"Mill": "modelmill.api.mill", "read": "modelmill.data.sources"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module `modelmill` has no name `{name}`")
