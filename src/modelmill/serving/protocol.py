"""The Open Inference Protocol, version 2, over JSON: one input a request field, each of shape [rows] or [rows, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelmill.errors import BodyUnreadable, FieldInvalid
from modelmill.model.columns import Column
from modelmill.serving.applied import Answer, ServedModel

_DATATYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL"}


def metadata_of(model: ServedModel) -> dict[str, Any]:
    """Return a model's metadata."""
    header = model.header
    inputs = [_tensor(column) for column in header.spec.request_columns]
    return {
        "name": header.model,
        "versions": [str(header.run)],
        "platform": "modelmill",
        "inputs": inputs,
        "outputs": [_tensor(header.spec.target)],
    }


def _tensor(column: Column) -> dict[str, Any]:
    return {"name": column.name, "datatype": _DATATYPES.get(column.kind, "BYTES"), "shape": [-1]}


def rows_of(body: Any) -> list[dict[str, Any]]:
    """Return the rows of an inference request."""
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list) or not inputs:
        raise BodyUnreadable("an inference request has `inputs`, one a field", expected='{"inputs": [{"name": ...}]}')
    columns = dict(_column(tensor) for tensor in inputs)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise FieldInvalid("the inputs have different numbers of rows", got=", ".join(map(str, sorted(lengths))))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(tensor: Any) -> tuple[str, list[Any]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise BodyUnreadable("an input is an object with `name`, `shape`, `datatype` and `data`")
    name, data, shape = tensor["name"], tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        raise FieldInvalid(f"input `{name[:80]}` has no `data`", expected="a list of values")
    flat = [value for item in data for value in (item if isinstance(item, list) else [item])]
    if shape not in ([len(flat)], [len(flat), 1]):
        raise FieldInvalid(
            f"input `{name[:80]}` has another shape than its data", expected="[rows] or [rows, 1]", got=repr(shape)[:80]
        )
    return name, flat


def reply_of(model: ServedModel, answers: Sequence[Answer], request_id: Any) -> dict[str, Any]:
    """Return the answer to an inference request."""
    header = model.header
    numbers = np.array([answer.numbers for answer in answers])
    target = header.spec.target.name
    if header.labels:
        chosen = [header.labels[code] for code in numbers.argmax(axis=1)]
        outputs = [_output(target, "BYTES", [len(chosen)], chosen)]
        outputs.append(_output("probabilities", "FP64", list(numbers.shape), numbers.ravel().tolist()))
    else:
        outputs = [_output(target, "FP64", [len(numbers)], numbers.tolist())]
    reply: dict[str, Any] = {"model_name": header.model, "model_version": str(header.run), "outputs": outputs}
    reply["parameters"] = {"pooled": sum(bool(answer.why) for answer in answers)}
    return reply | ({"id": request_id} if isinstance(request_id, str) else {})


def _output(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
