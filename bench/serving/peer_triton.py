"""NVIDIA's Triton through pytriton, with its default batching: ``python peer_triton.py FOLDER MODEL PORT``.

It needs a Python whose libpython is shared and of the same patch release: Debian's own is, most others are not.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

model = pickle.loads((Path(sys.argv[1]) / f"{sys.argv[2]}.pickle").read_bytes())


@batch
def infer(x):
    """Answer the rows of all requests that waited."""
    return [model.predict_proba(x)]


port = int(sys.argv[3])
local = TritonConfig(
    http_address="127.0.0.1", http_port=port, grpc_address="127.0.0.1", grpc_port=port + 1, metrics_address="127.0.0.1",
    metrics_port=port + 2, allow_metrics=False,
)  # fmt: skip
with Triton(config=local) as triton:
    triton.bind(
        model_name=sys.argv[2],
        infer_func=infer,
        inputs=[Tensor(name="x", dtype=np.float64, shape=(model.n_features_in_,))],
        outputs=[Tensor(name="probabilities", dtype=np.float64, shape=(2,))],
        config=ModelConfig(max_batch_size=1024),
    )
    triton.serve()
