"""The kernels, imported when a model is first asked: numba takes half a second, and most commands ask none."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def kernels() -> ModuleType:
    """Return the module of the compiled loops."""
    from modelmill.artifact import kernels

    return kernels
