"""How a fitted object becomes bytes in a pack, and back.

`linear`: coefficients and intercept as float64, for a fitted scikit-learn linear regression, with the programs of what
@features and @predict do where there are such functions (see `tracing`); read without unpickling. `pickle`: anything
else. Only `unpickle` in this file opens a pickle, and its callers open only packs that this installation signed.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import BlobBroken, Unsaveable
from modelmill.model.tracing import open_program

LINEAR = "linear"
PICKLE = "pickle"

_LINEAR_MODULES = (
    "sklearn.linear_model._base",
    "sklearn.linear_model._ridge",
    "sklearn.linear_model._coordinate_descent",
)
_LINEAR_CLASSES = ("LinearRegression", "Ridge", "Lasso", "ElasticNet")
_HEADER = struct.Struct("<4sIQ")
_LENGTH = struct.Struct("<I")
_MAGIC = b"MMLR"


class Artifact(NamedTuple):
    """A fitted object as bytes."""

    format: str
    content: bytes


class Programs(NamedTuple):
    """What the user's functions do around a model, as bytes of `tracing.Program`; empty where there is no such function."""

    before: bytes = b""
    """From rows to ``x``."""
    after: bytes = b""
    """From ``x`` and ``answers`` to answers."""


class Linear(NamedTuple):
    """A linear model: ``x @ coef + intercept``, with what the user's functions do before and after."""

    coef: NDArray[np.float64]
    intercept: float
    programs: Programs = Programs()

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) answers to (n, k) features."""
        return x @ self.coef + self.intercept

    def answer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) answers after what @predict makes of them."""
        answers = self.predict(x)
        if not self.programs.after:
            return answers
        changed = open_program(self.programs.after).run({"x": x, "answers": answers})
        return np.asarray(changed, dtype=np.float64).reshape(-1)

    def agrees(self, x: NDArray[np.float64], answers: NDArray[np.float64]) -> bool:
        """Return whether these are its answers: within 1e-12 of the sum of |coefficient x feature| + |intercept|."""
        if x.shape[1:] != self.coef.shape:
            return False
        scale = np.abs(x) @ np.abs(self.coef) + abs(self.intercept)
        found = self.answer(x)
        return found.shape == answers.shape and bool((np.abs(found - answers) <= 1e-12 * scale).all())


def as_linear(fitted: Any, programs: Programs) -> Linear | None:
    """Return a fitted linear regression as its numbers, None for anything else."""
    return Linear(fitted.coef_, float(fitted.intercept_), programs) if _is_linear(fitted) else None


def encode(fitted: Any) -> Artifact:
    """Return a fitted object as bytes that only `unpickle` reads."""
    return Artifact(PICKLE, _pickled(fitted))


def _is_linear(fitted: Any) -> bool:
    kind = type(fitted)
    if kind.__name__ not in _LINEAR_CLASSES or kind.__module__ not in _LINEAR_MODULES:
        return False
    coef = getattr(fitted, "coef_", None)
    return isinstance(coef, np.ndarray) and coef.ndim == 1 and coef.dtype == np.float64


def encode_linear(linear: Linear) -> bytes:
    """Return a linear model as bytes: header, intercept, coefficients, little-endian float64; then programs, if any."""
    before, after = linear.programs
    version = 2 if before or after else 1
    numbers = struct.pack("<d", linear.intercept) + np.ascontiguousarray(linear.coef, dtype="<f8").tobytes()
    plain = _HEADER.pack(_MAGIC, version, len(linear.coef)) + numbers
    return plain if version == 1 else plain + _LENGTH.pack(len(before)) + before + after


def decode_linear(content: bytes | memoryview) -> Linear:
    """Return the linear model in these bytes, without copying the coefficients."""
    if len(content) < _HEADER.size + 8:
        raise BlobBroken("a linear model's bytes are cut off")
    magic, version, length = _HEADER.unpack_from(content)
    start = _HEADER.size + 8 * (length + 1)
    if magic != _MAGIC or len(content) < start or (version == 1 and len(content) != start):
        raise BlobBroken("these bytes are not a linear model")
    values = np.frombuffer(content, dtype="<f8", offset=_HEADER.size, count=length + 1)
    programs = Programs() if version == 1 else _decode_programs(version, bytes(content[start:]))
    return Linear(values[1:], float(values[0]), programs)


def _decode_programs(version: int, content: bytes) -> Programs:
    if version != 2 or len(content) < _LENGTH.size:
        raise BlobBroken("these bytes are not a linear model")
    middle = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    programs = Programs(content[_LENGTH.size : middle], content[middle:])
    for program in filter(None, programs):
        open_program(program)
    return programs


def decode(form: str, content: bytes | memoryview) -> Any:
    """Return what `encode` wrote; see `unpickle` for what the caller must have checked."""
    return decode_linear(content) if form == LINEAR else unpickle(content)


def unpickle(content: bytes | memoryview) -> Any:
    """Return the object in a pickle. The caller has checked that this installation signed it."""
    return pickle.loads(content)  # noqa: S301 - the one place; see the module's docstring


def _pickled(fitted: Any) -> bytes:
    try:
        return pickle.dumps(fitted, protocol=5)
    except Exception:  # noqa: BLE001 - a lambda, a local class: the user's __reduce__ may raise anything
        return _cloudpickled(fitted)


def _cloudpickled(fitted: Any) -> bytes:
    import cloudpickle

    buffer = io.BytesIO()
    try:
        cloudpickle.CloudPickler(buffer, protocol=5).dump(fitted)
    except Exception as error:
        path, culprit = _blame(fitted)
        raise Unsaveable(
            f"the model cannot be saved: {path} holds a {type(culprit).__name__}",
            where=f"train() returned a {type(fitted).__name__}",
            got=repr(culprit)[:120],
            likely="saved models are opened again in another process, where files, locks and sockets do not exist",
            next=f"drop it before returning, or define __getstate__ on {type(fitted).__name__}",
        ) from error
    return buffer.getvalue()


def _blame(value: Any, path: str = "the model", depth: int = 0) -> tuple[str, Any]:
    """Return the path to the innermost attribute or item that does not pickle."""
    for name, part in _parts(value):
        if depth < 6 and not _pickles(part):
            return _blame(part, f"{path}{name}" if depth else f"`{name.lstrip('.')}`", depth + 1)
    return path, value


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]


def _pickles(value: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001 - any failure is the answer
        return False
    return True
