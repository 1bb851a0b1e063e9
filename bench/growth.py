"""What grows with the number of segments, and what a second run costs.

Cost per model and the builder's peak memory at 1,000, 5,000 and 20,000 stores of 60 rows, then the same 1.2 million rows as
1,000 stores: what is left of the difference in memory is the index. ``modelmill up`` on 5,000 stores of 200 rows: first,
unchanged, and with the rows of 37 stores changed. ``python bench/growth.py``
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import stores5k

CHANGED = 37
SHAPES = ((1_000, 60), (5_000, 60), (20_000, 60), (1_000, 1_200))
COMMAND = [sys.executable, "-m", "modelmill"]


def main() -> None:
    """Measure and print."""
    folder = Path(tempfile.mkdtemp(prefix="modelmill-growth-"))
    try:
        grow(folder)
        again(folder / "again")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def grow(folder: Path) -> None:
    """Print cost per model and peak memory for each shape of a fleet."""
    heads = ("stores", "rows each", "build, s", "ms a model", "of modelmill, ms", "builder's peak, MB")
    print(" ".join(f"{head:>18}" for head in heads))
    for stores, rows in SHAPES:
        project = folder / f"{stores}-{rows}"
        project.mkdir()
        stores5k.write_project(project, stores=stores, rows=rows)
        found, _, peak = run(project, "train")
        build = found["stages"]["build"]
        figures = (f"{stores:,}", f"{rows:,}", f"{build:.2f}", f"{build / stores * 1e3:.3f}")
        print(" ".join(f"{text:>18}" for text in (*figures, f"{found['platform_ms']:.3f}", f"{peak:,.0f}")), flush=True)
        shutil.rmtree(project)


def again(project: Path) -> None:
    """Print what `up` costs at first, unchanged, and with the rows of a few stores changed."""
    project.mkdir()
    stores5k.write_project(project, stores=5_000, rows=200)
    first, seconds, _ = run(project, "up", "--detach", "--port", "0")
    print(f"up, first        {seconds:6.2f} s   {first['train']['counts']['built']:,} built")
    try:
        for _ in range(3):
            found, unchanged, _ = run(project, "up", "--detach", "--port", "0")
            carried, goal = found["train"]["counts"]["unchanged"], 0.05 * seconds + 2
            print(f"up, unchanged    {unchanged:6.2f} s   {carried:,} unchanged   goal {goal:.2f} s", flush=True)
        change_some(project)
        found, changed, _ = run(project, "train", "--explain")
        reasons = Counter(reason for _, reason in found["explained"])
        built, changes = found["counts"]["built"], found["changes"]
        print(f"train, {CHANGED} changed {changed:4.2f} s   {built} built   {changes}   {dict(reasons)}")
    finally:
        run(project, "down")


def change_some(project: Path) -> None:
    """Change the rows of 37 stores."""
    frame = pl.read_parquet(project / "rows.parquet")
    names = frame["store"].unique().sort().to_list()[:: 5_000 // CHANGED][:CHANGED]
    price = pl.when(pl.col("store").is_in(names)).then(pl.col("price") + 0.5).otherwise(pl.col("price"))
    frame.with_columns(price=price).write_parquet(project / "rows.parquet")


def run(project: Path, *words: str) -> tuple[dict[str, Any], float, float]:
    """Run a command; return its answer, its seconds, and its own peak memory in MB, its workers' not counted."""
    began, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as answer:
        process = subprocess.Popen([*COMMAND, *words, "--json"], cwd=project, stdout=answer)
        while process.poll() is None:
            peak = max(peak, peak_mb(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        answer.seek(0)
        text = answer.read()
    if process.returncode not in (0, 1):
        sys.exit(text)
    return json.loads(text), seconds, peak


def peak_mb(pid: int) -> float:
    """Return the highest resident memory that a process has had so far."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
