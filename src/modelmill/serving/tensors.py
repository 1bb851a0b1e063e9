"""Inference requests over gRPC as those over HTTP, and the answers back: one protocol in two envelopes.

A request becomes JSON with its tensors as bytes behind it, as the binary tensor extension has it. Nothing is checked here:
what does not fit together does not there, either, and is refused by `protocol` in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from modelmill.serving import protocol
from modelmill.serving.messages import MESSAGES

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Where the values of a datatype stand, one by one; FP16 comes as bytes only."""
_FLOATS = {"FP32": "<f4", "FP64": "<f8"}
_LENGTH_BYTES = 4
_ABOUT_BYTES = frozenset({"binary_data_size", "binary_data", "binary_data_output"})
"""Parameters by which HTTP says what are bytes; here the envelope says it."""
_PLAIN = "".join(chr(code) for code in range(33, 127) if chr(code) not in "/?#")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(protocol.InferReply).decode


def address_of(model: str, version: str, what: str = "") -> bytes:
    """Return the address that HTTP has for a model, and for what is asked of it."""
    # Percent signs stay: whoever encodes a segment for HTTP may do so here.
    at = f"/versions/{quote(version, safe='')}" if version else ""
    return f"/v2/models/{quote(model, safe=_PLAIN)}{at}{what}".encode()


# ---------------------------------------------------------------- requests


def body_of(request: Any) -> tuple[bytes, int]:
    """Return a `ModelInferRequest` as a body of HTTP, and how many of its bytes are JSON."""
    raw = list(request.raw_input_contents)
    inputs, behind = [], []
    for place, tensor in enumerate(request.inputs):
        given = raw[place] if place < len(raw) else None
        told, content = _input(tensor, given)
        inputs.append(told)
        behind.append(content)
    behind += raw[len(inputs) :]
    asked: dict[str, Any] = {
        "inputs": inputs,
        "parameters": _plain(request.parameters) | {"binary_data_output": True},
        "outputs": [{"name": output.name, "parameters": _plain(output.parameters)} for output in request.outputs],
    }
    if request.id:
        asked["id"] = request.id
    text = _encode(asked)
    return b"".join([text, *behind]), len(text)


def _input(tensor: Any, raw: bytes | None) -> tuple[dict[str, Any], bytes]:
    """Return an input as JSON has it, and the bytes behind the JSON that are its values."""
    told = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    told["parameters"] = parameters = _plain(tensor.parameters)
    where = _CONTENTS.get(tensor.datatype)
    values = getattr(tensor.contents, where) if where else ()
    if raw is None and not values:
        return told, b""
    if values and (raw is not None or tensor.datatype not in (*_FLOATS, "BYTES")):
        told["data"] = [] if raw is not None else list(values)  # where both are given, it is told twice
    if raw is None and "data" in told:
        return told, b""
    content = raw if raw is not None else _bytes_of(tensor.datatype, values)
    parameters["binary_data_size"] = len(content)
    return told, content


def _bytes_of(datatype: str, values: Sequence[Any]) -> bytes:
    """Return floats and texts as bytes: JSON has no way to write some of them."""
    if datatype == "BYTES":
        return b"".join(len(value).to_bytes(_LENGTH_BYTES, "little") + value for value in values)
    return np.array(values, dtype=_FLOATS[datatype]).tobytes()


def _plain(parameters: Any) -> dict[str, Any]:
    """Return parameters as values; one without any is null."""
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if name not in _ABOUT_BYTES:
            found[name] = getattr(parameter, choice) if choice else None
    return found


# ---------------------------------------------------------------- replies


def response_of(body: bytes, json_bytes: int, *, raw: bool) -> Any:
    """Return the `ModelInferResponse` for a body of HTTP; its tensors come as bytes where those of the request did."""
    told = _decode(body[:json_bytes])
    response = MESSAGES["ModelInferResponse"](model_name=told.model_name, model_version=told.model_version, id=told.id)
    for name, value in told.parameters.items():
        response.parameters[name].int64_param = value
    for output, content in _with_contents(told.outputs, memoryview(body)[json_bytes:]):
        tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if raw:
            response.raw_output_contents.append(bytes(content))
        elif output.datatype == "BYTES":
            tensor.contents.bytes_contents.extend(_split_texts(content))
        else:
            tensor.contents.fp64_contents.extend(np.frombuffer(content, dtype="<f8").tolist())
    return response


def _with_contents(outputs: Sequence[Any], behind: memoryview) -> Iterator[tuple[Any, memoryview]]:
    for output in outputs:
        size = int(output.parameters["binary_data_size"])
        yield output, behind[:size]
        behind = behind[size:]


def _split_texts(content: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        begins = at + _LENGTH_BYTES
        at = begins + int.from_bytes(content[at:begins], "little")
        yield bytes(content[begins:at])
