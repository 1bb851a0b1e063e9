"""What the platform costs per model, beside plain loops over the same segments, and beside MLflow.

Denominators, each with the user's features and the declared law's own two asks in it: **F** one process, fit + test +
pickle to a file; **P** the same over a warm pool, 32 segments a task; **S** fit + test alone, over the same pool, so that
its CPU seconds are of busy cores like those of P and of a build; **S alone** the same in one process beside an idle core.
modelmill does everything: contract, three metrics, histograms of all columns, five golden rows, one law of two asks,
digests, pack, rows. Rounds are interleaved, and the ratios are of medians. MLflow runs in an environment of its own,
which is made under ``bench/out``.

The family `linear` is `mm.linear`, which fits all segments together; beside it stand the same loops of Ridge.

F and S alone are measured on a fifth of the segments and scaled. ``--flights`` adds the real flights, ``--mlflow`` adds
MLflow; the raw output goes to ``bench/out/``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
import polars as pl
import stores5k
from families import estimator

HERE = Path(__file__).parent
OUT = HERE / "out"
FEATURES = ["price", "footfall", "weekday", "promo", "weather"]
FAMILIES = ("ridge", "linear", "lightgbm", "hgb")
"""`linear` is `mm.linear(alpha=1.0)`; its denominators are those of `ridge`."""
MLFLOW = "3.17.2"
sys.path.insert(0, str(HERE.parent / "examples" / "flights"))


class Loop(NamedTuple):
    """What a plain loop does with each segment's columns and target."""

    family: str
    features: Callable[[Any], np.ndarray]
    asks: Callable[[Any, int], Iterator[Any]]
    """The two rows that the law asks about, from one of the segment's rows."""


Segments = list[tuple[Any, np.ndarray]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=int, default=5000, help="for Ridge")
    parser.add_argument("--slow-stores", type=int, default=2000, help="for the tree ensembles")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--families", nargs="*", default=FAMILIES)
    parser.add_argument("--flights", action="store_true", help="the real flights too")
    parser.add_argument("--mlflow", action="store_true")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="modelmill-bench-"))
    try:
        report(measurements(folder, options))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measurements(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a result for each family and fleet, then MLflow beside this run's own figures."""
    own: dict[str, dict[str, Any]] = {}
    for family in options.families:
        count = options.stores if family in ("ridge", "linear") else options.slow_stores
        project = folder / f"stores-{family}"
        segments = stores_of(stores5k.write_project(project, stores=count, rows=options.rows, family=family))
        own[family] = measure(project, segments, Loop(family, as_they_are, prices), options.rounds)
        yield {"fleet": "stores5k", **own[family]}
        if options.mlflow and family not in ("linear", "hgb"):
            yield {"fleet": "stores5k", **beside(measure_mlflow(folder, segments[:50], family), own[family])}
    for family in (name for name in options.families if options.flights and name != "linear"):
        project, segments = flights_of(folder / "flights")
        yield {"fleet": "flights", **measure(project, segments, Loop(family, season, hours), options.rounds)}


# ------------------------------------------------------------------ the fleets


def stores_of(frame: pl.DataFrame) -> Segments:
    """Return x and y of each store."""
    parts = frame.sort("store", "at").partition_by("store", maintain_order=True)
    return [(part.select(FEATURES).to_numpy().astype(float), part["sales"].to_numpy()) for part in parts]


def as_they_are(x: np.ndarray) -> np.ndarray:
    """Return a store's columns, which are its features."""
    return x


def prices(x: np.ndarray, row: int) -> Iterator[np.ndarray]:
    """Yield a row with a high and a low price."""
    for price in (2.0, -2.0):
        changed = x[row : row + 1].copy()
        changed[0, 0] = price
        yield changed


def flights_of(project: Path) -> tuple[Path, Segments]:
    """Write a project of the demo's model file, with a family to choose; return it with the columns of each route."""
    examples = HERE.parent / "examples" / "flights"
    project.mkdir(exist_ok=True)
    for part in (examples / "airtime.py", HERE / "routes" / "routes.py", HERE / "families.py"):
        shutil.copy(part, project)
    from flights import write_flights

    rows = write_flights(project / "flights.parquet")
    (project / "modelmill.toml").write_text('model = "routes.py"\n[connections.flights]\ndev = "flights.parquet"\n')
    keys = ["carrier", "flight", "dest"]
    known = pl.read_parquet(rows).drop_nulls("air_time").filter(pl.len().over(keys) >= 20).sort(*keys, "time_hour")
    parts = known.partition_by(keys, maintain_order=True)
    return project, [(columns_of(part), part["air_time"].to_numpy().astype(float)) for part in parts]


def columns_of(part: pl.DataFrame) -> SimpleNamespace:
    """Return a route's columns as `features` reads them."""
    return SimpleNamespace(**{name: part[name].to_numpy() for name in ("time_hour", "distance", "hour")})


def season(rows: SimpleNamespace) -> np.ndarray:
    """Return the features of a route, by the model file's own function."""
    from airtime import features

    return features(rows)  # type: ignore[arg-type]  # it reads three attributes of either


def hours(rows: SimpleNamespace, row: int) -> Iterator[SimpleNamespace]:
    """Yield a row that leaves at four and one that leaves at three."""
    for hour in (16, 15):
        place = slice(row, row + 1)
        yield SimpleNamespace(
            time_hour=rows.time_hour[place], distance=rows.distance[place], hour=np.array([hour], dtype=np.int64)
        )


# ------------------------------------------------------------------ the denominators


def fit_and_test(loop: Loop, columns: Any, y: np.ndarray) -> Any:
    """Fit on the first 80 %, answer the last 20 %, and ask the law's two questions."""
    x = loop.features(columns)
    kept = len(y) - round(len(y) * 0.2)
    model = estimator(loop.family).fit(x[:kept], y[:kept])
    errors = model.predict(x[kept:]) - y[kept:]
    abs(errors).mean()
    for row in loop.asks(columns, kept):
        model.predict(loop.features(row))
    return model


def loop_only(loop: Loop, segments: Segments) -> None:
    """S: fit and test."""
    for columns, y in segments:
        fit_and_test(loop, columns, y)


def loop_to_files(loop: Loop, segments: Segments, folder: Path) -> None:
    """F: fit, test, one pickle file a model."""
    for number, (columns, y) in enumerate(segments):
        (folder / f"{number}.pickle").write_bytes(pickle.dumps(fit_and_test(loop, columns, y)))


def chunk_to_files(task: tuple[Loop, int, Segments, str]) -> int:
    """One task of P."""
    loop, first, segments, folder = task
    for number, (columns, y) in enumerate(segments):
        (Path(folder) / f"{first + number}.pickle").write_bytes(pickle.dumps(fit_and_test(loop, columns, y)))
    return len(segments)


def chunk_only(task: tuple[Loop, int, Segments, str]) -> float:
    """One task of S; return its CPU seconds."""
    loop, _, segments, _ = task
    return timed(partial(loop_only, loop, segments))[1]


def tasks(loop: Loop, segments: Segments, folder: Path) -> Iterator[tuple[Loop, int, Segments, str]]:
    """Yield 32 segments a task."""
    for first in range(0, len(segments), 32):
        yield loop, first, segments[first : first + 32], str(folder)


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


# ------------------------------------------------------------------ one family


def measure(project: Path, segments: Segments, loop: Loop, rounds: int) -> dict[str, Any]:
    """Return medians over interleaved rounds, and the raw figures."""
    raw: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        raw.setdefault(name, []).append(value)

    files = project.parent / "files"
    files.mkdir(exist_ok=True)
    loop_only(loop, segments[:4])  # imports the library
    some = segments[: max(len(segments) // 5, 1)]
    share = len(segments) / len(some)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("forkserver")) as pool:
        list(pool.map(chunk_to_files, tasks(loop, segments[:128], files)))  # warm
        for _ in range(rounds):
            note("P wall", timed(lambda: list(pool.map(chunk_to_files, tasks(loop, segments, files))))[0])
            for name, value in modelmill_once(project, loop.family).items():
                note(name, value)
            note("S CPU", sum(pool.map(chunk_only, tasks(loop, segments, files))))
            note("S alone CPU", timed(partial(loop_only, loop, some))[1] * share)
            for clock, seconds in zip(
                ("F wall", "F CPU"), timed(partial(loop_to_files, loop, some, files)), strict=True
            ):
                note(clock, seconds * share)
    shutil.rmtree(files)
    found = {name: statistics.median(values) for name, values in raw.items()}
    return {"family": loop.family, "models": len(segments), "median": found, "raw": raw, "ratios": ratios(found)}


def ratios(found: dict[str, float]) -> dict[str, float]:
    """Return the figures that the goals speak of."""
    return {
        "build / P (wall)": found["build wall"] / found["P wall"],
        "build / F (wall)": found["build wall"] / found["F wall"],
        "build / F (CPU)": found["build CPU"] / found["F CPU"],
        "build with start-up / F (wall)": (found["build wall"] + found["start-up wall"]) / found["F wall"],
        "whole train / F (wall)": found["train wall"] / found["F wall"],
        "build / S (CPU)": found["build CPU"] / found["S CPU"],
        "build / S alone (CPU)": found["build CPU"] / found["S alone CPU"],
        "whole train - 1.5 P, seconds": found["train wall"] - 1.5 * found["P wall"],
        "unchanged / first": found["unchanged wall"] / found["train wall"],
    }


def modelmill_once(project: Path, family: str) -> dict[str, float]:
    """Build the fleet from nothing in a process of its own, then again unchanged."""
    shutil.rmtree(project / ".modelmill", ignore_errors=True)
    first, wall = train(project, family)
    _, again = train(project, family)
    return {
        "train wall": wall,
        "build wall": first["stages"]["build"],
        "start-up wall": first["stages"]["start workers"],
        "build CPU": first["build_cpu_s"],
        "unchanged wall": again,
        "platform ms": first["platform_ms"],
    }


def train(project: Path, family: str) -> tuple[dict[str, Any], float]:
    """Run `modelmill train` as a process; return its answer and its seconds."""
    began = time.perf_counter()
    chosen = [] if family == "linear" else ["--set", f"family={family}"]
    done = subprocess.run(
        [sys.executable, "-m", "modelmill", "train", *chosen, "--json"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout), time.perf_counter() - began


# ------------------------------------------------------------------ MLflow


def measure_mlflow(folder: Path, segments: Segments, family: str) -> dict[str, Any]:
    """Return seconds per model of MLflow, tuned and as documented, beside the same process's own loop."""
    environment = OUT / "mlflow"
    if not (environment / "bin" / "python").exists():
        uv = shutil.which("uv") or str(Path(sys.prefix) / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
        packages = [f"mlflow=={MLFLOW}", f"scikit-learn=={version('scikit-learn')}", "lightgbm"]
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", environment / "bin" / "python", *packages], check=True
        )
    data = folder / "segments.npz"
    np.savez(data, x=np.stack([x for x, _ in segments]), y=np.stack([y for _, y in segments]))
    done = subprocess.run(
        [environment / "bin" / "python", HERE / "mlflow_peer.py", data, family],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def beside(mlflow: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Add how much less a model costs here: of the build phase, and of the whole process with its start."""
    for phase in ("build", "train"):
        seconds = own["median"][f"{phase} wall"] / own["models"]
        for way in ("tuned", "as documented"):
            mlflow["ratios"][f"{way} / modelmill's {phase}"] = mlflow["median"][f"{way}, s per model"] / seconds
    return mlflow


# ------------------------------------------------------------------ telling


def report(results: Iterable[dict[str, Any]]) -> None:
    """Print each table as soon as it is measured, and keep everything as JSON."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    known: list[dict[str, Any]] = []
    facts = {
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "scikit-learn", "lightgbm", "polars", "modelmill")},
        "results": known,
    }
    for result in results:
        known.append(result)
        (OUT / "fleet.json").write_text(json.dumps(facts, indent=1))
        print_table(result)
    print(f"\n{json.dumps({**facts, 'results': len(known)})}\nraw figures: {OUT / 'fleet.json'}")


def print_table(result: dict[str, Any]) -> None:
    """Print medians, with the least and the most of the rounds, then ratios."""
    print(f"\n{result['fleet']}, {result['family']}, {result['models']} models")
    for name, value in {**result["median"], **result["ratios"]}.items():
        spread = result["raw"].get(name, [])
        shown = f"   ({min(spread):.3f} to {max(spread):.3f})" if len(spread) > 1 else ""
        print(f"  {name:<32} {value:10.3f}{shown}", flush=True)


if __name__ == "__main__":
    main()
