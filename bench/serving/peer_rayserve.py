"""Ray Serve with one replica: ``python peer_rayserve.py FOLDER MODEL PORT``.

A replica takes more requests at a time than the default of five: with that, 32 connections make its router wait longer and
longer before it tries again.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else it replaces 127.0.0.1 by an address that others reach

import numpy as np
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request


def listen_locally():
    """Make a replica listen where only this machine reaches it: it would on every address, and has no option for it."""
    from ray.serve._private import replica

    add = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", "127.0.0.1"))


@serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config=LoggingConfig(enable_access_log=False))
class Classifier:
    """A deployment that reads the request itself, as the first page of the documentation shows."""

    def __init__(self, pickled: bytes) -> None:
        self.model = pickle.loads(pickled)

    async def __call__(self, request: Request) -> dict:
        """Answer rows."""
        asked = await request.json()
        return {"probabilities": self.model.predict_proba(np.array(asked["rows"])).tolist()}


ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=2, log_to_driver=False,
         runtime_env={"worker_process_setup_hook": listen_locally},
         object_store_memory=100_000_000, configure_logging=False)  # fmt: skip
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[3])},
            logging_config=LoggingConfig(enable_access_log=False))  # fmt: skip
serve.run(Classifier.bind((Path(sys.argv[1]) / f"{sys.argv[2]}.pickle").read_bytes()))
signal.sigwait({signal.SIGTERM, signal.SIGINT})
ray.shutdown()
