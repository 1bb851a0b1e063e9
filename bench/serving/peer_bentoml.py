"""BentoML with one worker: ``python peer_bentoml.py FOLDER MODEL PORT`` starts ``bentoml serve`` of the service below."""

import os
import pickle
import sys
from pathlib import Path

import bentoml
import numpy as np


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Classifier:
    """A service whose one endpoint takes and returns an array."""

    def __init__(self) -> None:
        self.model = pickle.loads(Path(os.environ["PICKLE"]).read_bytes())

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Answer rows."""
        return self.model.predict_proba(rows)


if __name__ == "__main__":
    here = Path(__file__).resolve()
    os.environ["PICKLE"] = str(Path(sys.argv[1]).resolve() / f"{sys.argv[2]}.pickle")
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bentoml", "serve", f"{here.stem}:Classifier", "--host", "127.0.0.1", "--port", sys.argv[3],
               "--working-dir", str(here.parent)]  # fmt: skip
    os.execv(Path(sys.executable).with_name("bentoml"), command)  # noqa: S606 - so that its own process is the root
