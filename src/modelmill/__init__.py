"""modelmill: one file becomes thousands of models, built, tested, registered and answering.

The rooms, low to high: `errors`, `names`, `settings`; `model` (what a data scientist writes), `store`, `compute`;
`data`, `registry`, `release`; `build`, `serving`; `orchestrator`; `api`; `cli`, `testing`. A model file needs only the
names below; `Mill` is a project for Python programs, with the commands as methods.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelmill.errors import did_you_mean

if TYPE_CHECKING:
    from modelmill.api.mill import Mill
    from modelmill.artifact.onnx_files import open_onnx
    from modelmill.data.sources import read
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
    from modelmill.model.linear import linear
    from modelmill.model.roles import Ask, Run
    from modelmill.model.rows import Rows
    from modelmill.model.schema import Schema

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
    "linear",
    "new_labels",
    "new_rows",
    "no_worse",
    "open_onnx",
    "p99_ms",
    "read",
    "subject",
    "target",
    "time",
    "worse",
]

# Every name is imported when it is first used: `modelmill --help` needs no numpy, and a model file on a node no tables.
_PLACES = {
    "api.mill": ("Mill",),
    "artifact.onnx_files": ("open_onnx",),
    "data.sources": ("read",),
    "model.columns": ("category", "col", "key", "label", "subject", "target", "time"),
    "model.conditions": (
        "Canary",
        "at_least",
        "better",
        "drifted",
        "error_rate",
        "every",
        "new_labels",
        "new_rows",
        "no_worse",
        "p99_ms",
        "worse",
    ),
    "model.declaration": ("Model", "Window"),
    "model.linear": ("linear",),
    "model.roles": ("Ask", "Run"),
    "model.rows": ("Rows",),
    "model.schema": ("Schema",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"modelmill has no name `{name}`; {did_you_mean(name, __all__)}")
    value = globals()[name] = getattr(import_module(f"modelmill.{_PLACE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
