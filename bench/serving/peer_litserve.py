"""LitServe with one worker on the CPU: ``python peer_litserve.py FOLDER MODEL PORT``."""

import pickle
import sys
from pathlib import Path

import litserve
import numpy as np


class Classifier(litserve.LitAPI):
    """The four steps of LitServe."""

    def setup(self, device):
        """Read the pickle."""
        self.model = pickle.loads((Path(sys.argv[1]) / f"{sys.argv[2]}.pickle").read_bytes())

    def decode_request(self, request):
        """Return a request's rows."""
        return np.array(request["rows"])

    def predict(self, x):
        """Answer rows."""
        return self.model.predict_proba(x)

    def encode_response(self, output):
        """Return the answer."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[3]), num_api_servers=1, log_level="warning",
               generate_client_file=False, access_log=False)  # fmt: skip
