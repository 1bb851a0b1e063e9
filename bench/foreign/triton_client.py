"""Ask a node with an unmodified `tritonclient[http]`; arguments: host:port, the model, a segment, a file of rows.

The file is JSON: `keys` and `features` by name (with their values), and the `answers` that are right.
"""

import json
import sys

import numpy as np
import tritonclient.http as triton

address, model, segment, file = sys.argv[1:]
told = json.load(open(file))
expected = np.array(told["answers"])
client = triton.InferenceServerClient(address)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(model)
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
target = client.get_model_metadata(model)["outputs"][0]["name"]
assert client.get_model_repository_index()[0]["name"] == model


def tensor(name, values, binary):
    values = np.array(values)
    if values.dtype.kind in "UO":
        values, datatype = values.astype(object), "BYTES"
    else:
        datatype = {"f": "FP64", "i": "INT64", "b": "BOOL"}[values.dtype.kind]
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def named(binary):
    return [tensor(name, values, binary) for name, values in {**told["keys"], **told["features"]}.items()]


def matrix(binary):
    return [tensor("x", np.column_stack(list(told["features"].values())).astype(float), binary)]


def keys(binary):
    return [tensor(name, values, binary) for name, values in told["keys"].items()]


asked = 0
for binary in (True, False):
    for wanted in (None, True, False):
        outputs = None if wanted is None else [triton.InferRequestedOutput(target, binary_data=wanted)]
        for packed in (None, "gzip", "deflate"):
            for unpacked in (None, "gzip"):
                for inputs in (named(binary), keys(binary) + matrix(binary)):
                    options = {"request_compression_algorithm": packed, "response_compression_algorithm": unpacked}
                    reply = client.infer(model, inputs, outputs=outputs, request_id="7", **options)
                    assert np.array_equal(reply.as_numpy(target), expected), (binary, wanted, packed)
                    assert reply.get_response()["id"] == "7"
                    asked += 1

mine = [place for place, values in enumerate(zip(*told["keys"].values())) if ",".join(map(str, values)) == segment]
here = f"{model}[{segment}]"
rows = np.column_stack(list(told["features"].values())).astype(float)[mine]
assert np.array_equal(client.infer(here, [tensor("x", rows, True)]).as_numpy(target), expected[mine])
version = client.get_model_metadata(model)["versions"][0]
assert client.is_model_ready(model, version)
assert np.array_equal(client.infer(model, named(True), model_version=version).as_numpy(target), expected)

for wrong in ({"model_name": "nothing", "inputs": named(True)}, {"model_name": model, "inputs": matrix(True)[:0]}):
    try:
        client.infer(**wrong)
    except triton.InferenceServerException as error:
        assert error.message(), error
    else:
        raise AssertionError(wrong)
print(json.dumps({"asked": asked + 2}))
