"""``mlflow models serve --env-manager local`` of a saved model: ``python peer_mlflow.py FOLDER MODEL PORT``."""

import os
import pickle
import shutil
import sys
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
import numpy as np
from mlflow.models import infer_signature

folder, name, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
model = pickle.loads((folder / f"{name}.pickle").read_bytes())
x = np.zeros((1, model.n_features_in_))
place = folder / f"mlflow-{name}"
shutil.rmtree(place, ignore_errors=True)
mlflow.sklearn.save_model(
    model,
    place,
    serialization_format="cloudpickle",
    pyfunc_predict_fn="predict_proba",
    signature=infer_signature(x, model.predict_proba(x)),
    pip_requirements=["scikit-learn"],
)
command = ["mlflow", "models", "serve", "--model-uri", str(place), "--env-manager", "local", "--host", "127.0.0.1",
           "--port", port, "--workers", "1"]  # fmt: skip
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it calls uvicorn by name
os.environ["UVICORN_LOG_LEVEL"] = "warning"
os.environ["UVICORN_ACCESS_LOG"] = "false"
os.execv(Path(sys.executable).with_name("mlflow"), command)  # noqa: S606 - so that its own process is the root
