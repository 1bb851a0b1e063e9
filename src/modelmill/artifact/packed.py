"""A packed model: plain arrays that answer, used where they lie in a mapped pack.

Its bytes: a magic word, the length of a header in msgpack, the header, then arrays at multiples of 16 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.columns import Columns
from modelmill.artifact.layout import NODE, OPERATION, Link
from modelmill.artifact.linear import Linear
from modelmill.artifact.saved import Classes, Programs, Saved
from modelmill.artifact.trees import Trees
from modelmill.errors import BlobBroken

Floats = NDArray[np.float64]
Body = Linear | Trees

_ALIGNMENT = 16
_MAGIC = b"MMPK"
_FORMAT = 1
_HEAD = struct.Struct("<4sHxxI")
_BODIES: dict[str, Any] = {"linear": Linear, "trees": Trees}
_DTYPES: dict[str, Any] = {"operations": OPERATION, "nodes": NODE} | dict.fromkeys(("spans", "sources", "roots"), "<i4")
_DTYPES |= {"sets": "<u4"} | dict.fromkeys(("table", "coef", "intercept", "start", "leaves"), "<f8")


class _Header(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    features: int
    numbers: dict[str, float]
    shapes: dict[str, tuple[int, ...]]
    """Of the arrays, in the order in which they follow."""
    classes: tuple[int, tuple[int, ...]] | None
    programs: tuple[bytes, bytes]


class Packed(Saved):
    """A model of plain arrays."""

    def __init__(
        self,
        body: Body,
        features: int,
        columns: Columns | None = None,
        classes: Classes | None = None,
        programs: Programs = Programs(),  # noqa: B008 - immutable
    ) -> None:
        """Take the parts; `features` is how many columns ``x`` has."""
        super().__init__(features, classes, programs)
        self.body, self.columns = body, columns
        self._row = np.empty((1, body.width))

    def raw(self, x: Floats) -> Floats:
        """Return what the library itself answers to (rows, features): (rows,), or (rows, classes that it saw)."""
        answers = np.empty((len(x), self.body.width))
        self.body.evaluate(self._prepared(x), answers)
        return answers if self.classes is not None else answers[:, 0]

    def _prepared(self, x: Floats) -> Floats:
        numbers = self._checked(x)
        return numbers if self.columns is None else self.columns.prepare(numbers)

    def predict(self, x: Floats) -> NDArray[Any]:
        """Return (rows,) answers: numbers, or codes of the likeliest classes."""
        found: NDArray[Any] = self.raw(x)
        if self.classes is None:
            return found
        # Where clipped scores are equal, the library's predict() still knows which was larger.
        clipped = self.body.link == Link.CLIPPED and self.body.width > 2
        if clipped:
            chooser = self.body._replace(link=Link.LARGEST)
            found = Packed(chooser, self.features, self.columns, self.classes).raw(x)
        codes: NDArray[Any] = np.array(self.classes.seen)[found.argmax(axis=1)]
        return codes

    def one(self, x: Floats) -> list[float]:
        """Return the answer to one row, (1, features), as plain numbers: as many as an answer has."""
        if not self._is_plain:
            return self.answer(x).reshape(-1).tolist()
        self.body.evaluate(self._prepared(x), self._row)
        found: list[float] = self._row.tolist()[0]
        return found

    def agrees(self, x: Floats, expected: Floats) -> bool:
        """Return whether `answer` gives these answers, as exactly as the family promises."""
        if x.shape[1:] != (self.features,):
            return False
        found = self.answer(x)
        if found.shape != expected.shape:
            return False
        if self._after is not None and self.classes is not None:
            return bool(np.allclose(found, expected, rtol=1e-12, atol=1e-15))
        return self.body.agrees(self._prepared(x), found, expected)

    def encode(self) -> bytes:
        """Return the model as bytes; equal models have equal bytes."""
        fields = (self.columns._asdict() if self.columns else {}) | self.body._asdict()
        arrays = {name: np.ascontiguousarray(fields[name], _DTYPES[name]) for name in fields if name in _DTYPES}
        numbers = {name: float(value) for name, value in fields.items() if name not in _DTYPES}
        header = msgspec.msgpack.encode(
            _Header(
                kind=type(self.body).__name__.lower(),
                features=self.features,
                numbers=numbers,
                shapes={name: array.shape for name, array in arrays.items()},
                classes=self.classes,
                programs=self.programs,
            )
        )
        parts = [_HEAD.pack(_MAGIC, _FORMAT, len(header)) + header]
        for array in arrays.values():
            parts.append(bytes(-len(parts[-1]) % _ALIGNMENT))
            parts.append(array.tobytes())
        return b"".join(parts)


def encode_linear(coef: Floats, intercept: Floats, programs: Programs) -> list[bytes]:
    """Return regressions of one shape as bytes, as `Packed.encode` writes each of them: the header is made once.

    `coef` is (models, features), `intercept` (models,).
    """
    models, features = coef.shape
    first = Packed(Linear(coef[:1], intercept[:1]), features, programs=programs).encode()
    end = len(first) - intercept.itemsize
    begin = end - coef[0].nbytes - -coef[0].nbytes % _ALIGNMENT
    rows = np.tile(np.frombuffer(first, dtype=np.uint8), (models, 1))
    rows[:, begin : begin + coef[0].nbytes] = np.ascontiguousarray(coef, "<f8").view(np.uint8)
    rows[:, end:] = intercept.astype("<f8")[:, None].view(np.uint8)
    return [row.tobytes() for row in rows]


def decode(content: bytes | memoryview) -> Packed:
    """Return the model in these bytes, without copying its arrays; anything else raises BlobBroken."""
    try:
        return _decode(memoryview(content))
    except (struct.error, msgspec.MsgspecError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BlobBroken("these bytes are no packed model", got=str(error)[:120]) from error


def _decode(content: memoryview) -> Packed:
    magic, version, length = _HEAD.unpack_from(content)
    if magic != _MAGIC or version != _FORMAT:
        raise BlobBroken("these bytes are no packed model", expected=f"format {_FORMAT}", got=f"{magic!r} {version}")
    end = _HEAD.size + length
    header = _read_header(bytes(content[_HEAD.size : end]))
    arrays = _arrays(content, end, header.shapes)
    columns = Columns(**{name: arrays.pop(name) for name in Columns._fields}) if "operations" in arrays else None
    body = _BODIES[header.kind](**arrays, **_numbers(header.numbers))
    classes = Classes(*header.classes) if header.classes else None
    model = Packed(body, header.features, columns, classes, Programs(*header.programs))
    _check(model)
    return model


@lru_cache(maxsize=1024)
def _read_header(content: bytes) -> _Header:
    """Return a header; thousands of models of a fleet have the same one."""
    return msgspec.msgpack.decode(content, type=_Header)


def _arrays(content: memoryview, end: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        end += -end % _ALIGNMENT
        array = np.frombuffer(content, np.dtype(_DTYPES[name]), count=_count(shape), offset=end).reshape(shape)
        # Thousands of models share one empty array: what all of them look at stays in the processor's cache.
        found[name] = array if array.size else _empty(name, shape)
        end += array.nbytes
    if end != len(content):
        raise BlobBroken("a packed model's bytes are cut off", expected=f"{end} bytes", got=f"{len(content)}")
    return found


@lru_cache(maxsize=64)
def _empty(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.zeros(shape, dtype=_DTYPES[name])


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _numbers(numbers: Mapping[str, float]) -> dict[str, Any]:
    types = {"link": int, "width": int, "scale": float}
    return {name: types.get(name, bool)(value) for name, value in numbers.items()}


def _check(model: Packed) -> None:
    """Refuse a block whose numbers point outside of it: kernels follow them without looking."""
    columns, body = model.columns, model.body
    width = model.features if columns is None else len(columns.sources)
    fits = columns is None or columns.fits(model.features)
    if not (fits and body.fits(width)):
        raise BlobBroken("a packed model's numbers point outside of it")
