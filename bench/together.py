"""What it brings to answer together what waits: ``python bench/together.py --rounds 5``.

A logistic regression and a forest of scikit-learn as Python objects, in the child process of a node of one worker. Each round
asks the object itself, row by row, in a process of its own ("bare"); the node of a model that declares `batch=1`, and so calls
the object once a request, with 32 connections ("one by one"); then the node of the same model without that with 1 and with 32
connections (closed loop, the generator of `bench/serving`). A ratio is of two measurements of one round; what is told is the
median of the rounds, with all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "serving"))

import loadgen
from make_models import estimator, make_rows
from peer_modelmill import write_project
from shadow import modelmill, request_of

OUT = Path(__file__).parent / "out" / "together"
CONNECTIONS = 32
OBJECT = """

@{model}.predict{declared}
def predict(model: object, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    return model.predict_proba(x)
"""
"""A predict that asks for the segment is never packed: the model stays an object."""


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(prog="python bench/together.py")
    parser.add_argument("--models", nargs="+", default=["lr", "rf"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each load")
    options = parser.parse_args()
    program = loadgen.compile_loadgen(OUT)
    found = {name: measured(name, program, options.rounds, options.seconds) for name in options.models}
    (OUT / "together.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def measured(name: str, program: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the rates of one model, round by round, and the ratios of their medians."""
    x, _ = make_rows(name, 64, seed=1)
    requests = [request_of(name, {f"f{place}": value for place, value in enumerate(row)}) for row in x.tolist()]
    with node(name, "") as together, node(name, "batch=1") as alone:
        loads = {
            "one by one": loadgen.Load(alone, requests, CONNECTIONS, seconds),
            "1": loadgen.Load(together, requests, 1, seconds),
            "32": loadgen.Load(together, requests, CONNECTIONS, seconds),
        }
        found = [one_round(name, program, loads) for _ in range(rounds)]
    ratios = {over: [round(one["32"] / one[over], 2) for one in found] for over in ("bare", "one by one", "1")}
    return {"rounds": found, "32 over": {over: [statistics.median(r), r] for over, r in ratios.items()}}


@contextmanager
def node(name: str, declared: str) -> Iterator[int]:
    """Yield the port of a node that serves one model, whose predict declares how it is asked."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "p"
        write_project(project, name)
        file = project / f"{name}.py"
        file.write_text(file.read_text() + OBJECT.format(model=name, declared=f"({declared})" if declared else ""))
        port: int = modelmill(project, "up", "--detach", "--port", "0")["node"]["port"]
        try:
            yield port
        finally:
            modelmill(project, "down")


def one_round(name: str, program: Path, loads: Mapping[str, loadgen.Load]) -> dict[str, float]:
    """Return the rates of one round, a second."""
    rates = {"bare": bare(name, loads["1"].seconds)}
    for told, load in loads.items():
        answered = loadgen.run(program, load)
        if answered["failed"]:
            raise RuntimeError(f"{answered['failed']} requests failed")
        rates[told] = round(answered["requests_s"], 1)
    print(name, rates, file=sys.stderr, flush=True)
    return rates


def bare(name: str, seconds: float) -> float:
    """Return how often a second the object itself answers one row."""
    x, y = make_rows(name)
    fitted = estimator(name).fit(x, y)
    until, calls = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        fitted.predict_proba(x[calls % len(x)].reshape(1, -1))
        calls += 1
    return round(calls / seconds, 1)


if __name__ == "__main__":
    main()
