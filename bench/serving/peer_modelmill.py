"""modelmill's own server: ``python peer_modelmill.py FOLDER MODEL PORT`` makes a project in FOLDER and leaves a node running.

It runs in the project's own environment, and ends with one line of JSON: the pid of the node. The schema has the same
columns, and training gets the same rows, so its own native model is that of the pickles.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
from make_models import FEATURES, estimator, make_rows

_MODEL_FILE = '''"""The model that every server of this benchmark serves."""

import numpy as np
import polars as pl
{imports}

import modelmill as mm


class Row(mm.Schema):
    """One row."""

{fields}
    y: bool = mm.target()


{model} = mm.Model("{model}", Row)


@{model}.data
def rows(window: mm.Window) -> pl.DataFrame:
    return mm.read("rows")


@{model}.train
def train(x: np.ndarray, y: np.ndarray) -> object:
    return {estimator}.fit(x, y)
'''


def main() -> None:
    """Write the project, build the model, start the node and say its pid."""
    folder, model, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    project = folder / f"modelmill-{model}"
    shutil.rmtree(project, ignore_errors=True)
    write_project(project, model)
    command = [sys.executable, "-m", "modelmill", "up", "--detach", "--port", port, "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    print(json.dumps({"pid": json.loads(done.stdout)["node"]["pid"]}))


def write_project(project: Path, model: str) -> None:
    """Write the model file, the settings and the rows."""
    project.mkdir(parents=True)
    kind = type(estimator(model))
    text = _MODEL_FILE.format(
        model=model,
        imports=f"from {kind.__module__.rpartition('.')[0]} import {kind.__name__}",
        fields="\n".join(f"    f{place}: float = mm.col()" for place in range(FEATURES[model])),
        estimator=f"{estimator(model)!r}",
    )
    (project / f"{model}.py").write_text(text)
    (project / "modelmill.toml").write_text(f'model = "{model}.py"\n[connections.rows]\ndev = "rows.parquet"\n')
    x, y = make_rows(model)
    columns = {f"f{place}": x[:, place] for place in range(FEATURES[model])}
    pl.DataFrame({**columns, "y": y.astype(bool)}).write_parquet(project / "rows.parquet")


if __name__ == "__main__":
    main()
