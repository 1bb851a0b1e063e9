"""The Open Inference Protocol, version 2, over HTTP: JSON and the binary tensor extension.

A request has one input a field, each of shape [rows] or [rows, 1]; or all features as one input ``x`` of shape [rows,
features], in the schema's order, which is read in one step. Keys are BYTES or what they are, unless they stand in the
address. A reply has the target and, for a classification, the probabilities.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType
from numpy.typing import NDArray

from modelmill.errors import BodyUnreadable, FieldInvalid, FieldMissing, FieldUnknown, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.decoding import MOST_ROWS, UNREADABLE, may_repeat, refuse_duplicates
from modelmill.model.request import Batch, RequestParser
from modelmill.model.values import key_of_text
from modelmill.names import Segment
from modelmill.serving.applied import Model
from modelmill.serving.served import Answered

MATRIX = "x"
"""The input that holds all features at once."""
LENGTH_HEADER = b"inference-header-content-length"
_MOST_INPUTS = 4_096
_DATATYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL"}
_NUMPY = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
DATATYPES = frozenset(_NUMPY) | {"BYTES"}
NUMBERS = frozenset(name for name in _NUMPY if name.startswith("FP"))
_LENGTH = struct.Struct("<I")


Parameters = dict[str, str | int | float | bool | None]


class Input(msgspec.Struct):
    """One input tensor; its data stand here or, in order, behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Raw | UnsetType = UNSET
    parameters: Parameters = {}


class Output(msgspec.Struct, omit_defaults=True):
    """One output tensor; of a request, its name and whether it is wanted as bytes."""

    name: str
    datatype: str = ""
    shape: list[int] = []
    data: Any = UNSET
    parameters: Parameters = {}


class InferRequest(msgspec.Struct):
    """What is asked."""

    inputs: list[Input]
    id: str = ""
    outputs: list[Output] = []
    parameters: Parameters = {}


class InferReply(msgspec.Struct, omit_defaults=True):
    """What is answered."""

    model_name: str
    model_version: str
    outputs: list[Output]
    parameters: dict[str, Any]
    id: str = ""


class Reply(msgspec.Struct, frozen=True):
    """A reply's bytes, and how many of them are JSON where tensors follow; 0 where none do."""

    body: bytes
    json_bytes: int = 0


_decode = msgspec.json.Decoder(InferRequest).decode
_encode = msgspec.json.Encoder().encode


# ---------------------------------------------------------------- requests


def read_request(body: bytes, json_bytes: int | None) -> tuple[InferRequest, memoryview]:
    """Return a request and the bytes behind its JSON; raises `BodyUnreadable`."""
    if json_bytes is not None and not 0 <= json_bytes <= len(body):
        raise BodyUnreadable(
            "`Inference-Header-Content-Length` is not within the body", got=str(json_bytes), expected=f"0..{len(body)}"
        )
    text = body if json_bytes is None else body[:json_bytes]
    if text.count(b"{") > 3 * _MOST_INPUTS:
        raise BodyUnreadable(f"an inference request has at most {_MOST_INPUTS} inputs")
    try:
        request = _decode(text)
    except UNREADABLE as error:
        raise BodyUnreadable(
            "this is no inference request", got=str(error)[:200], expected='{"inputs": [{"name": ...}]}'
        ) from None
    if may_repeat(text, 1 + 4 * len(request.inputs) + bool(request.id)):
        refuse_duplicates(text)
    if not request.inputs:
        raise BodyUnreadable("an inference request has `inputs`, one a field", expected='{"inputs": [{"name": ...}]}')
    return request, memoryview(body)[len(text) :]


def timeout_of(request: InferRequest) -> float:
    """Return for how many seconds the caller waits; 0 where it does not say. In microseconds, as Triton's clients send it."""
    told = request.parameters.get("timeout")
    return told / 1e6 if type(told) is int and told > 0 else 0.0


def batch_of(model: Model, request: InferRequest, behind: memoryview, address: Segment | None) -> Batch:
    """Return the rows of a request; raises as `RequestParser.read` does."""
    parser = model.parser
    columns: dict[str, Any] = {}
    for tensor in request.inputs:
        if tensor.name in columns:
            raise FieldInvalid(f"input `{tensor.name[:80]}` is given twice")
        columns[tensor.name], behind = _values_of(tensor, parser, behind)
    if len(behind):
        raise BodyUnreadable(f"{len(behind)} bytes follow that belong to no input")
    if MATRIX in columns and MATRIX not in parser.columns:
        return _matrix_batch(parser, columns, address)
    return _column_batch(parser, columns, address)


def _matrix_batch(parser: RequestParser, columns: dict[str, Any], address: Segment | None) -> Batch:
    x = columns.pop(MATRIX)
    features = len(parser.spec.features)
    if not parser.takes_matrix:
        raise FieldUnknown("this model does not take its features as one matrix", expected=", ".join(parser.columns))
    if x.ndim != 2 or x.shape[1] != features:
        raise FieldInvalid(
            f"input `{MATRIX}` has another shape", expected=f"[rows, {features}]", got=str(list(x.shape))
        )
    _check_rows([len(x)])
    return parser.of_matrix(x, _keys_of(parser, columns, len(x), address))


def _keys_of(
    parser: RequestParser, columns: dict[str, Any], count: int, address: Segment | None
) -> Sequence[tuple[Any, ...]]:
    """Return the keys of each row beside a matrix."""
    unknown = next((name for name in columns if name not in parser.by), None)
    if unknown is not None:
        raise FieldUnknown(f"input `{unknown[:80]}` is not known", likely=did_you_mean(unknown, parser.by))
    if address is not None:
        if columns:
            raise FieldInvalid(f"input `{next(iter(columns))}` stands in the address already")
        return [parser.keys_of(address) if address else ()] * count
    missing = next((name for name in parser.by if name not in columns), None)
    if missing is not None:
        raise FieldMissing(f"input `{missing}` is missing", expected=", ".join((MATRIX, *parser.by)))
    _check_rows([count, *(len(columns[name]) for name in parser.by)])
    return parser.check_keys({name: _as_list(columns[name]) for name in parser.by}) if parser.by else [()] * count


def _column_batch(parser: RequestParser, columns: dict[str, Any], address: Segment | None) -> Batch:
    lists = {name: _as_list(values) for name, values in columns.items()}
    _check_rows([len(values) for values in lists.values()])
    return parser.of_columns(lists, address)


def _as_list(values: Any) -> list[Any]:
    found: list[Any] = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else values
    return found


def _check_rows(lengths: Sequence[int]) -> None:
    if len(set(lengths)) != 1:
        raise FieldInvalid("the inputs have different numbers of rows", got=", ".join(map(str, sorted(set(lengths)))))
    if not 0 < lengths[0] <= MOST_ROWS:
        raise BodyUnreadable(f"a request has 1 to {MOST_ROWS} rows", got=str(lengths[0]))


def _values_of(tensor: Input, parser: RequestParser, behind: memoryview) -> tuple[Any, memoryview]:
    """Return an input's values - a list, or an array for the matrix and for bytes - and the bytes of the next ones."""
    count = _check_shape(tensor)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return _from_json(tensor, parser, count), behind
    if tensor.data is not UNSET:
        raise _wrong(tensor, "has its data twice, in JSON and as bytes")
    if type(size) is not int or not 0 <= size <= len(behind):
        raise _wrong(tensor, "says more bytes than follow", got=str(size)[:40], expected=f"0..{len(behind)}")
    found = _from_bytes(tensor, behind[:size], count)
    return _as_column(tensor, parser, found), behind[size:]


def _check_shape(tensor: Input) -> int:
    """Return how many values a shape holds."""
    if not 1 <= len(tensor.shape) <= 2 or any(length < 0 for length in tensor.shape):
        raise _wrong(tensor, "has an impossible shape", got=str(tensor.shape)[:80], expected="[rows] or [rows, 1]")
    if tensor.datatype != "BYTES" and tensor.datatype not in _NUMPY:
        known = ", ".join(["BYTES", *_NUMPY])
        raise _wrong(tensor, "has an unknown datatype", got=tensor.datatype[:40], expected=known)
    return math.prod(tensor.shape)


def _from_json(tensor: Input, parser: RequestParser, count: int) -> Any:
    if tensor.data is UNSET:
        raise _wrong(tensor, "has no `data`", expected="a list of values")
    try:
        values = _DECODERS[family_of(tensor.datatype)](tensor.data)
    except UNREADABLE:
        values = _flattened(tensor)
    if len(values) != count:
        raise _wrong(tensor, "has another shape than its data", expected=f"{count} values", got=f"{len(values)} values")
    if _is_matrix(tensor, parser) and tensor.datatype != "BYTES":
        return _shaped(tensor, np.array(values, dtype=np.float64))
    return _as_column(tensor, parser, values)


def _flattened(tensor: Input) -> list[Any]:
    """Return the values of data that are nested as the shape says; raises where they are not of the datatype."""
    if tensor.datatype != "BYTES" and bytes(tensor.data).count(b"[") > tensor.shape[0] + 1:  # type: ignore[arg-type]
        raise _wrong(tensor, "has another shape than its data", expected=str(tensor.shape)[:80])
    try:
        nested = msgspec.json.decode(tensor.data, type=list[list[Any]])  # type: ignore[arg-type]
        if [len(tensor.shape), *{len(row) for row in nested}] == [2, tensor.shape[-1]]:
            flat = msgspec.convert([value for row in nested for value in row], _LISTS[family_of(tensor.datatype)])
            return list(flat)
    except UNREADABLE as error:
        raise _wrong(tensor, f"has data that are not {tensor.datatype}", got=str(error)[:120]) from None
    raise _wrong(tensor, "has another shape than its data", expected=str(tensor.shape)[:80])


def _from_bytes(tensor: Input, content: memoryview, count: int) -> Any:
    if tensor.datatype == "BYTES":
        return _texts(tensor, content, count)
    dtype = np.dtype(_NUMPY[tensor.datatype])
    if len(content) != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize} bytes"
        raise _wrong(tensor, "has another shape than its bytes", expected=expected, got=f"{len(content)} bytes")
    if tensor.datatype == "BOOL" and np.frombuffer(content, dtype=np.uint8).max(initial=0) > 1:
        raise _wrong(tensor, "has bytes that are neither 0 nor 1")
    return _shaped(tensor, np.frombuffer(content, dtype=dtype))


def _texts(tensor: Input, content: memoryview, count: int) -> list[str]:
    """Return the texts of a BYTES tensor: each behind its length in four bytes."""
    texts: list[str] = []
    at = 0
    while at < len(content):
        if at + _LENGTH.size > len(content) or len(texts) == count:
            raise _wrong(tensor, "has another shape than its bytes", expected=f"{count} texts")
        end = at + _LENGTH.size + _LENGTH.unpack_from(content, at)[0]
        if end > len(content):
            raise _wrong(tensor, "has a text that ends behind its bytes")
        try:
            texts.append(str(content[at + _LENGTH.size : end], "utf-8"))
        except UnicodeDecodeError:
            raise _wrong(tensor, "has a text that is not UTF-8") from None
        at = end
    if len(texts) != count:
        raise _wrong(tensor, "has another shape than its bytes", expected=f"{count} texts", got=f"{len(texts)} texts")
    return texts


def _is_matrix(tensor: Input, parser: RequestParser) -> bool:
    return tensor.name == MATRIX and MATRIX not in parser.columns


def _as_column(tensor: Input, parser: RequestParser, values: Any) -> Any:
    """Return the values of a field as its column takes them; raises where the datatype is none for it."""
    if _is_matrix(tensor, parser):
        if tensor.datatype == "BYTES":
            raise _wrong(tensor, "has another datatype", got="BYTES", expected="FP64")
        return np.ascontiguousarray(values, dtype=np.float64)
    column = parser.columns.get(tensor.name)
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise _wrong(tensor, "has an impossible shape", got=str(tensor.shape), expected="[rows] or [rows, 1]")
    if column is None:
        return values
    family = family_of(tensor.datatype)
    if family not in FAMILIES[column.kind] and not (family == "text" and column.name in parser.by):
        raise _wrong(tensor, "has another datatype", got=tensor.datatype, expected=datatype_of(column))
    if family == "text" and column.kind in ("int", "bool"):
        return [key_of_text(column, text) for text in values]
    return values


def _shaped(tensor: Input, values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(tensor.shape)


def family_of(datatype: str) -> str:
    """Return whether a datatype is of texts, truths, whole numbers or numbers."""
    if datatype == "BYTES":
        return "text"
    return "bool" if datatype == "BOOL" else "float" if datatype.startswith("FP") else "int"


_LISTS: dict[str, Any] = {"text": list[str], "bool": list[bool], "float": list[float], "int": list[int]}
_DECODERS: dict[str, Callable[[Any], list[Any]]] = {
    family: msgspec.json.Decoder(kind).decode for family, kind in _LISTS.items()
}
FAMILIES: dict[str, tuple[str, ...]] = {
    "float": ("float", "int"), "int": ("int", "float"), "bool": ("bool",),
} | dict.fromkeys(("str", "category", "date", "datetime"), ("text",))  # fmt: skip


def _wrong(tensor: Input, what: str, **parts: str) -> FieldInvalid:
    return FieldInvalid(f"input `{tensor.name[:80]}` {what}", **parts)


# ---------------------------------------------------------------- replies


def reply_to(model: Model, request: InferRequest, answered: Answered) -> Reply:
    """Return the reply to a request: the outputs that it asks for, or all, as JSON or bytes as it asks."""
    header = model.header
    numbers = answered.numbers()
    outputs = _outputs(header.spec.target.name, header.labels, numbers)
    wanted = {output.name: output.parameters.get("binary_data") for output in request.outputs}
    unknown = next((name for name in wanted if name not in outputs), None)
    if unknown is not None:
        raise FieldUnknown(f"output `{unknown[:80]}` is not known", likely=did_you_mean(unknown, outputs))
    binary = request.parameters.get("binary_data_output") is True
    chosen = {name: binary if wanted.get(name) is None else wanted[name] is True for name in wanted or outputs}
    behind = [_to_bytes(outputs[name]) for name, as_bytes in chosen.items() if as_bytes]
    for name, as_bytes in chosen.items():
        if not as_bytes:
            outputs[name].data = _to_json(outputs[name])
    reply = InferReply(
        model_name=header.model,
        model_version=str(answered.run()),
        outputs=[outputs[name] for name in chosen],
        parameters=answered.others(),
        id=request.id,
    )
    text = _encode(reply)
    return Reply(b"".join([text, *behind]), len(text)) if behind else Reply(text)


def _outputs(target: str, labels: Sequence[str], numbers: NDArray[np.float64]) -> dict[str, Output]:
    if not labels:
        return {target: Output(target, "FP64", [len(numbers)], numbers)}
    chosen = [labels[code] for code in numbers.argmax(axis=1).tolist()]
    return {
        target: Output(target, "BYTES", [len(chosen)], chosen),
        "probabilities": Output("probabilities", "FP64", list(numbers.shape), numbers),
    }


def _to_json(output: Output) -> list[Any]:
    found: list[Any] = output.data if isinstance(output.data, list) else output.data.ravel().tolist()
    return found


def _to_bytes(output: Output) -> bytes:
    data, output.data = output.data, UNSET
    if isinstance(data, list):
        # A few labels, thousands of times.
        as_bytes = {value: _LENGTH.pack(len(text)) + text for value in set(data) for text in (value.encode(),)}
        content = b"".join([as_bytes[value] for value in data])
    else:
        content = np.ascontiguousarray(data, dtype="<f8").tobytes()
    output.parameters = {"binary_data_size": len(content)}
    return content


# ---------------------------------------------------------------- metadata


def metadata_of(model: Model) -> dict[str, Any]:
    """Return a model's metadata."""
    header = model.header
    target = header.spec.target
    outputs: list[dict[str, Any]] = [
        {"name": target.name, "datatype": "BYTES" if header.labels else "FP64", "shape": [-1]}
    ]
    if header.labels:
        outputs.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(header.labels)]})
    return {
        "name": header.model,
        "versions": [str(header.run)],
        "platform": "modelmill",
        "inputs": [
            {"name": column.name, "datatype": datatype_of(column), "shape": [-1]}
            for column in header.spec.request_columns
        ],
        "outputs": outputs,
    }


def datatype_of(column: Column) -> str:
    """Return the datatype of a column."""
    return _DATATYPES.get(column.kind, "BYTES")
