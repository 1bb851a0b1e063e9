"""Ask a node with an unmodified `kserve` REST client; arguments as those of triton_client.py."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

address, model, segment, file = sys.argv[1:]
told = json.load(open(file))
expected = np.array(told["answers"])
base = f"http://{address}"


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
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, verbose=False))
    assert await client.is_server_live(base)
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, model)
    asked = 0
    for binary in (True, False):
        for inputs in (
            [tensor(name, values, binary) for name, values in {**told["keys"], **told["features"]}.items()],
            [tensor(name, values, binary) for name, values in told["keys"].items()]
            + [tensor("x", np.column_stack(list(told["features"].values())).astype(float), binary)],
        ):
            request = InferRequest(model_name=model, request_id="7", infer_inputs=inputs)
            reply = await client.infer(base, request, model_name=model)
            assert reply.model_name == model
            assert np.array_equal(reply.outputs[0].as_numpy(), expected), binary
            asked += 1
    mine = [place for place, values in enumerate(zip(*told["keys"].values())) if ",".join(map(str, values)) == segment]
    rows = np.column_stack(list(told["features"].values())).astype(float)[mine]
    here = f"{model}%5B{segment}%5D"
    request = InferRequest(model_name=here, infer_inputs=[tensor("x", rows, True)])
    reply = await client.infer(base, request, model_name=here)
    assert np.array_equal(reply.outputs[0].as_numpy(), expected[mine])
    try:
        await client.infer(
            base, InferRequest(model_name="nothing", infer_inputs=[tensor("x", rows, True)]), model_name="nothing"
        )
    except Exception as error:
        assert "nothing" in str(error), error
    else:
        raise AssertionError("an unknown model was answered")
    print(json.dumps({"asked": asked + 1}))


asyncio.run(main())
