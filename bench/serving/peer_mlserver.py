"""MLServer with its scikit-learn runtime: ``python peer_mlserver.py FOLDER MODEL PORT WORKERS``.

It keeps its default settings - metrics, gRPC beside HTTP - but for the address, the ports and ``debug``, which writes a
line of log for each request. WORKERS is 1 as it comes; 0 answers in the server's own process.
"""

import json
import os
import sys
from pathlib import Path

folder, name, port, workers = Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
place = folder / f"mlserver-{name}-{workers}"
place.mkdir(exist_ok=True)
settings = {
    "debug": False,
    "host": "127.0.0.1",
    "http_port": port,
    "grpc_port": port + 1,
    "metrics_port": port + 2,
    "parallel_workers": workers,
    "environments_dir": str(place / ".envs"),
    "metrics_dir": str(place / ".metrics"),
}
model = {
    "name": name,
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": str(folder / f"{name}.pickle")},
}
(place / "settings.json").write_text(json.dumps(settings))
(place / "model-settings.json").write_text(json.dumps(model))
command = ["mlserver", "start", str(place)]
os.execv(Path(sys.executable).with_name("mlserver"), command)  # noqa: S606 - so that its own process is the root
