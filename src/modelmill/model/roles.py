"""The functions of a model file: which parameters each role may ask for, checked once, when the file is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from modelmill.errors import DeclarationInvalid, did_you_mean
from modelmill.model.rows import Rows

Function = Callable[..., Any]

KNOWN_PARAMETERS: dict[str, tuple[str, ...]] = {
    "data": ("window",),
    "features": ("rows",),
    "train": ("x", "y", "rows", "segment", "run", "seed"),
    "predict": ("model", "x", "rows", "segment"),
    "test": ("ask",),
    "metric": ("y_true", "y_pred"),
    "check": ("rows",),
}
_SINGLE = ("data", "features", "train", "predict")
_FRAMES = ("polars", "pandas")


class Ask(Protocol):
    """The model behind the whole serving path: ``ask(hour=9)``. Fields left out are the segment's typical row."""

    def __call__(self, **fields: Any) -> Any:
        """Return the predicted number, or a dict of label to probability."""


@dataclass(frozen=True, slots=True)
class Run:
    """What `train` may ask of the build that runs it."""

    seed: int
    segment: tuple[str, ...] = ()
    logged: dict[str, float] = field(default_factory=dict)

    def log(self, **values: float) -> None:
        """Record numbers of this fit, such as a loss; the last value of each name is kept."""
        self.logged.update({name: float(value) for name, value in values.items()})


@dataclass(frozen=True, slots=True)
class RoleFunction:
    """One function of the model file, with what it asks for."""

    role: str
    function: Function
    asks: tuple[str, ...]
    """The parameters without a default: the platform fills them in."""
    parameters: Mapping[str, Any]
    """The hyperparameters: those with a default."""
    frames: Mapping[str, str]
    """Of `x` or `rows`: the data-frame library that its annotation asks for."""

    @property
    def where(self) -> str:
        """Return ``delays.py:41 train()``."""
        return where_of(self.function)

    def call(self, available: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> Any:
        """Call the function with what it asks for."""
        values = {name: self._as_asked(name, available[name]) for name in self.asks}
        return self.function(**values, **(parameters or {}))

    def _as_asked(self, name: str, value: Any) -> Any:
        library = self.frames.get(name)
        if library is None:
            return value
        if isinstance(value, Rows):
            return value.as_frame(library)
        if isinstance(value, np.ndarray) and value.ndim == 2:
            return Rows({f"x{i}": value[:, i] for i in range(value.shape[1])}, len(value)).as_frame(library)
        return value


def where_of(function: Function) -> str:
    """Return the place of a function as ``delays.py:41 train()``."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", repr(function))
    if code is None:
        return f"{name}()"
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno} {name}()"


def read_role(role: str, function: Function) -> RoleFunction:
    """Check a decorated function's parameters and return it with what it asks for."""
    known = KNOWN_PARAMETERS[role]
    asks, parameters, frames = [], {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DeclarationInvalid(f"@{role} functions take named parameters only", where=where_of(function))
        if parameter.default is not parameter.empty and role == "train" and name not in known:
            parameters[name] = parameter.default
            continue
        if name not in known:
            raise _unknown_parameter(role, function, name, known)
        asks.append(name)
        frames.update(_frame_asked(name, parameter.annotation))
    _check_needed(role, function, asks)
    return RoleFunction(role, function, tuple(asks), parameters, frames)


def is_single(role: str) -> bool:
    """Return whether a model has at most one function in this role."""
    return role in _SINGLE


def _unknown_parameter(role: str, function: Function, name: str, known: tuple[str, ...]) -> DeclarationInvalid:
    return DeclarationInvalid(
        f"@{role} does not know the parameter `{name}`",
        where=where_of(function),
        likely=did_you_mean(name, known),
        next=f"give it a default: then it is a hyperparameter (`{name}=1.0`)" if role == "train" else "",
    )


def _frame_asked(name: str, annotation: Any) -> dict[str, str]:
    text = annotation if isinstance(annotation, str) else f"{getattr(annotation, '__module__', '')}.{annotation!r}"
    if "DataFrame" not in text or name not in ("x", "rows"):
        return {}
    return {name: "pandas" if "pandas" in text or text.strip("'\"").startswith("pd.") else "polars"}


def _check_needed(role: str, function: Function, asks: list[str]) -> None:
    needed = {
        "features": ("rows",),
        "predict": ("model",),
        "test": ("ask",),
        "metric": ("y_true", "y_pred"),
        "check": ("rows",),
    }
    for name in needed.get(role, ()):
        if name not in asks:
            raise DeclarationInvalid(f"@{role} needs the parameter `{name}`", where=where_of(function))
