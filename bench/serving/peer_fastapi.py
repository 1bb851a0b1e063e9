"""FastAPI with a ``def`` handler and a pydantic body, as in its tutorial: ``python peer_fastapi.py FOLDER MODEL PORT``."""

import pickle
import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

model = pickle.loads((Path(sys.argv[1]) / f"{sys.argv[2]}.pickle").read_bytes())
app = FastAPI()


class Rows(BaseModel):
    """What is asked."""

    rows: list[list[float]]


class Answer(BaseModel):
    """What is answered."""

    probabilities: list[list[float]]


@app.post("/predict")
def predict(asked: Rows) -> Answer:
    """Answer rows."""
    return Answer(probabilities=model.predict_proba(np.array(asked.rows)).tolist())


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="warning", access_log=False)
