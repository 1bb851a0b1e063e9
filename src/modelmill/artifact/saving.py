"""How a fitted object becomes bytes in a pack, and back.

`packed`: plain arrays, with the programs of what @features and @predict do around them (see `tracing`). `onnx`: a graph of
ONNX Runtime, with such programs. Both are read without unpickling. `pickle`: anything else. Only `unpickle` in this file
opens a pickle that the product keeps, and its callers open only packs that this installation signed.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

from modelmill.artifact import graph, packed
from modelmill.errors import BlobBroken, Unsaveable

PACKED = "packed"
ONNX = "onnx"
PICKLE = "pickle"
RUNTIMES = {PACKED: "packed", ONNX: "onnx", PICKLE: "python"}
"""What this version reads, each with what answers for it."""


class Artifact(NamedTuple):
    """A fitted object as bytes."""

    format: str
    content: bytes


def encode(fitted: Any) -> Artifact:
    """Return a fitted object as bytes that only `unpickle` reads."""
    return Artifact(PICKLE, _pickled(fitted))


def decode(form: str, content: bytes | memoryview) -> Any:
    """Return the object in these bytes; see `unpickle` for what the caller must have checked."""
    if form == PACKED:
        return packed.decode(content)
    if form == ONNX:
        return graph.decode(content)
    if form == PICKLE:
        return unpickle(content)
    raise BlobBroken(f"a model was saved in the format `{form}`, which this version cannot read")


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
