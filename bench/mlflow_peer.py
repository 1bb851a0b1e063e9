"""MLflow on the same segments, in its own environment: run, parameters, metrics, model with signature, version, alias.

*Tuned*: requirements and signature are given by hand. *As documented*: an input example, requirements inferred.
Prints one line of JSON; only the standard library and MLflow's own environment are needed.
"""

import json
import logging
import os
import pickle
import sys
import time
import warnings
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
warnings.filterwarnings("ignore")

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import infer_signature

TUNED, DOCUMENTED = 50, 8


def main() -> None:
    """Measure one family."""
    logging.disable(logging.CRITICAL)
    data, family = np.load(sys.argv[1]), sys.argv[2]
    segments = list(zip(data["x"], data["y"], strict=True))
    mlflow.set_tracking_uri(f"sqlite:///{Path('mlflow.db').resolve()}")
    mlflow.set_experiment("fleet")
    for warm in range(2):
        log(family, *segments[warm], f"warm-{warm}", tuned=True)
    floor = timed(lambda: [pickle.dumps(fit(family, x, y)[0]) for x, y in segments[:TUNED]]) / TUNED
    tuned = timed(lambda: [log(family, x, y, f"t{n}", tuned=True) for n, (x, y) in enumerate(segments[:TUNED])]) / TUNED
    shown = segments[:DOCUMENTED]
    documented = timed(lambda: [log(family, x, y, f"d{n}", tuned=False) for n, (x, y) in enumerate(shown)]) / DOCUMENTED
    median = {"floor, s per model": floor, "tuned, s per model": tuned, "as documented, s per model": documented}
    ratios = {"tuned / floor": tuned / floor, "as documented / floor": documented / floor}
    result = {
        "family": f"mlflow {mlflow.__version__} {family}",
        "models": TUNED,
        "median": median,
        "raw": {},
        "ratios": ratios,
    }
    print(json.dumps(result))


def timed(function):
    """Return the seconds of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def fit(family, x, y):
    """Fit on the first 80 %, test on the rest."""
    if family == "lightgbm":
        from lightgbm import LGBMRegressor

        model = LGBMRegressor(n_estimators=30, num_leaves=15, n_jobs=1, verbose=-1)
    else:
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=1.0)
    kept = len(y) - round(len(y) * 0.2)
    model.fit(x[:kept], y[:kept])
    return model, x[kept:], y[kept:], model.predict(x[kept:])


def log(family, x, y, name, *, tuned):
    """Record one model as a version with an alias."""
    with mlflow.start_run():
        model, tested, truth, found = fit(family, x, y)
        mlflow.log_params(
            {"alpha": 1.0, "family": family, "rows": len(y), "share": 0.2, "seed": 0, "features": x.shape[1]}
        )
        errors = truth - found
        mlflow.log_metrics({"mae": abs(errors).mean(), "rmse": (errors**2).mean() ** 0.5, "bias": errors.mean()})
        options = {"signature": infer_signature(tested[:5], found[:5]), "pip_requirements": ["scikit-learn"]}
        if not tuned:
            options = {"input_example": tested[:5]}
        mlflow.sklearn.log_model(
            model, name="model", registered_model_name=name, serialization_format="cloudpickle", **options
        )
    MlflowClient().set_registered_model_alias(name, "champion", "1")


main()
