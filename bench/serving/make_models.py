"""The models that every server is given: seeded data, fitted estimators as pickles, and rows with their right answers.

``python bench/serving/make_models.py FOLDER`` writes ``lr.pickle``, ``rf.pickle`` and ``rows.json``. The features are
rounded to four places, so that a request of one row is about as long as one that a person would write.
"""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

FEATURES = {"lr": 30, "rf": 10}
"""Each model, and how many numbers are a row of it."""
ASKED = 64
_ROWS = 2500
_TEST_SHARE = 0.2

Floats = NDArray[np.float64]


def estimator(model: str) -> Any:
    """Return what is fitted for a model."""
    if model == "lr":
        return LogisticRegression(max_iter=1000)
    return RandomForestClassifier(n_estimators=100, max_depth=8, random_state=0, n_jobs=1)


def make_rows(model: str, rows: int = _ROWS, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """Return features and a target of two classes that they tell fairly well; noise makes the trees grow."""
    rng = np.random.default_rng([seed, FEATURES[model]])
    x = rng.normal(size=(rows, FEATURES[model])).round(4)
    slope = rng.normal(size=FEATURES[model])
    y = (x @ slope + x[:, 0] * x[:, 1] + rng.normal(0, 0.5, rows) > 0).astype(np.int64)
    # A snapshot of rows without key and time lies in the order of its columns, and the last rows of it test: here the
    # rows are put into that order, so that the model that modelmill builds is fitted on the same ones as the pickles.
    order = np.lexsort((y, *x.T[::-1]))
    return x[order], y[order]


def training_rows(model: str) -> tuple[Floats, NDArray[np.int64]]:
    """Return the rows that a model is fitted on: all but the share that tests."""
    x, y = make_rows(model)
    kept = len(y) - round(len(y) * _TEST_SHARE)
    return x[:kept], y[:kept]


def make_models(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the pickles, and return the rows to ask about with the native models' probabilities; they are kept too."""
    folder.mkdir(parents=True, exist_ok=True)
    asked: dict[str, dict[str, Any]] = {}
    for model in FEATURES:
        fitted = estimator(model).fit(*training_rows(model))
        (folder / f"{model}.pickle").write_bytes(pickle.dumps(fitted))
        x, _ = make_rows(model, ASKED, seed=1)
        asked[model] = {"rows": x.tolist(), "probabilities": fitted.predict_proba(x).tolist()}
    (folder / "rows.json").write_text(json.dumps(asked))
    return asked


def main() -> None:
    """Write them from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for model, found in make_models(parser.parse_args().folder).items():
        print(f"{model}: {len(found['rows'])} rows to ask about, {FEATURES[model]} features each")


if __name__ == "__main__":
    main()
