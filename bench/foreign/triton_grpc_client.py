"""Ask a node with an unmodified `tritonclient[grpc]`; arguments as those of triton_client.py."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton

address, model, segment, file = sys.argv[1:]
told = json.load(open(file))
expected = np.array(told["answers"])
client = triton.InferenceServerClient(address)
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(model)
assert not client.is_model_ready("nothing")
assert client.get_server_metadata().name == "modelmill"
metadata = client.get_model_metadata(model, as_json=True)
target, version = metadata["outputs"][0]["name"], metadata["versions"][0]


def tensor(name, values):
    values = np.array(values)
    if values.dtype.kind in "UO":
        values, datatype = values.astype(object), "BYTES"
    else:
        datatype = {"f": "FP64", "i": "INT64", "b": "BOOL"}[values.dtype.kind]
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


keys = [tensor(name, values) for name, values in told["keys"].items()]
named = [*keys, *(tensor(name, values) for name, values in told["features"].items())]
rows = np.column_stack(list(told["features"].values())).astype(float)
asked = 0
for wanted in (None, [triton.InferRequestedOutput(target)]):
    for packed in (None, "gzip", "deflate"):
        for inputs in (named, [*keys, tensor("x", rows)]):
            for at in ("", version):
                reply = client.infer(
                    model, inputs, model_version=at, outputs=wanted, request_id="7", compression_algorithm=packed
                )
                assert np.array_equal(reply.as_numpy(target), expected), (wanted, packed)
                assert reply.get_response().id == "7"
                asked += 1

mine = [place for place, values in enumerate(zip(*told["keys"].values())) if ",".join(map(str, values)) == segment]
for here in (f"{model}[{segment}]", f"{model}%5B{segment}%5D"):
    assert np.array_equal(client.infer(here, [tensor("x", rows[mine])]).as_numpy(target), expected[mine])
    asked += 1

refusals = {
    "StatusCode.NOT_FOUND": lambda: client.infer("nothing", named),
    "StatusCode.INVALID_ARGUMENT": lambda: client.infer(model, [tensor("x", rows)]),
    "StatusCode.UNIMPLEMENTED": client.get_model_repository_index,
    "StatusCode.RESOURCE_EXHAUSTED": lambda: client.infer(model, [tensor("x", np.zeros((900_000, 5)))]),
}
for status, refused in refusals.items():
    try:
        refused()
    except triton.InferenceServerException as error:
        assert error.status() == status, error
    else:
        raise AssertionError(status)
print(json.dumps({"asked": asked, "refused": len(refusals)}))
