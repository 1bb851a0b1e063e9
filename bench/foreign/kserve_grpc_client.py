"""Ask a node with an unmodified `kserve` gRPC client; arguments as those of triton_client.py."""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

address, model, segment, file = sys.argv[1:]
told = json.load(open(file))
expected = np.array(told["answers"])


def tensor(name, values, binary):
    values = np.array(values)
    if values.dtype.kind in "UO":
        values, datatype = values.astype(object), "BYTES"
    else:
        datatype = {"f": "FP64", "i": "INT64", "b": "BOOL"}[values.dtype.kind]
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


async def main():
    client = InferenceGRPCClient(url=address)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(model)
    rows = np.column_stack(list(told["features"].values())).astype(float)
    asked = 0
    for binary in (True, False):
        keys = [tensor(name, values, binary) for name, values in told["keys"].items()]
        named = [*keys, *(tensor(name, values, binary) for name, values in told["features"].items())]
        for inputs in (named, [*keys, tensor("x", rows, binary)]):
            reply = await client.infer(InferRequest(model_name=model, request_id="7", infer_inputs=inputs))
            assert (reply.model_name, reply.id) == (model, "7")
            assert np.array_equal(reply.outputs[0].as_numpy(), expected), binary
            asked += 1
    mine = [place for place, values in enumerate(zip(*told["keys"].values())) if ",".join(map(str, values)) == segment]
    request = InferRequest(model_name=f"{model}[{segment}]", infer_inputs=[tensor("x", rows[mine], True)])
    reply = await client.infer(request)
    assert np.array_equal(reply.outputs[0].as_numpy(), expected[mine])
    try:
        await client.infer(InferRequest(model_name="nothing", infer_inputs=[tensor("x", rows, True)]))
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("an unknown model was answered")
    print(json.dumps({"asked": asked + 1, "refused": 1}))


asyncio.run(main())
