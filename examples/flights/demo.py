"""The main job on the real flights: from rows to thousands of models that answer, and a look at how well.

Run it with ``make demo``; ``make demo DEMO=--keep`` leaves the node running.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
from flights import write_flights
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import modelmill as mm
from modelmill.orchestrator.outcomes import UpOutcome

HERE = Path(__file__).parent
REQUESTS = 400
FIELDS = ["carrier", "flight", "dest", "time_hour", "distance", "hour"]

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description="the main job on the real flights")
    parser.add_argument("--keep", action="store_true", help="leave the node running")
    parser.add_argument("--resume", action="store_true", help="go on with the store of the last demo")
    options = parser.parse_args()
    rows = write_flights(HERE / "data" / "flights.parquet")
    mill = open_mill(fresh=not options.resume)
    with progress_bar() as report:
        outcome = mm.Mill(HERE, progress=report).up("airtime.py", port=0 if not options.keep else None, detach=True)
    try:
        tell_build(outcome)
        tell_answers(outcome, ask_many(outcome.url, pl.read_parquet(rows)))
        tell_next(outcome, keep=options.keep)
    finally:
        if not options.keep:
            mill.down()
    return outcome.exit_code


def open_mill(*, fresh: bool) -> mm.Mill:
    """Return the project, with nothing left of an earlier demo unless that is wanted."""
    mill = mm.Mill(HERE)
    if fresh:
        mill.down()
        shutil.rmtree(mill.settings.store_folder, ignore_errors=True)
    return mill


@contextmanager
def progress_bar() -> Iterator[Any]:
    """Yield a progress callback that draws one bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading 336,776 flights", total=None)

        def report(kind: str, facts: dict[str, Any]) -> None:
            if kind == "line":
                bar.update(task, description=facts["text"])
            elif kind == "build":
                bar.update(task, description="building", completed=facts["done"], total=facts["total"])

        yield report


def ask_many(url: str, flights: pl.DataFrame) -> list[dict[str, Any]]:
    """Ask for flown flights of the last weeks, one request each, and return answer, truth and milliseconds."""
    flown = flights.drop_nulls("air_time").sort("time_hour").tail(20_000)
    chosen = flown.sample(REQUESTS, seed=1).to_dicts()
    answers = []
    with httpx.Client() as client:
        for row in chosen:
            fields = {name: row[name] for name in FIELDS} | {"time_hour": row["time_hour"].isoformat()}
            began = time.perf_counter()
            reply = client.post(url, json=fields)
            reply.raise_for_status()
            took = (time.perf_counter() - began) * 1e3
            answers.append(reply.json() | {"truth": float(row["air_time"]), "ms": took})
    return answers


def tell_build(outcome: UpOutcome) -> None:
    """Tell what was built, at which cost, and what for."""
    train, counts, compared = outcome.train, outcome.train.counts, outcome.train.comparison
    console.print(f"\n[bold]{train.model}[/bold]  air time of every scheduled flight out of New York, 2013\n")
    console.print(f"  rows       {train.snapshot.rows:,} flights in snapshot {train.snapshot.label}, contract kept")
    console.print(
        f"  models     {counts.built:,} built and tested in {train.seconds:.1f} s, and the pooled model; "
        f"{counts.segments:,} segments are answered"
    )
    if train.platform_ms is not None:
        console.print(
            f"  cost       {train.platform_ms:.2f} ms of platform per model, {train.user_ms:.2f} ms of its own fit"
        )
    for law in train.laws:
        console.print(f"  law        {law.name}: holds for {law.asked - law.failed:,} of {law.asked:,}")
    if compared:
        console.print(
            f"  error      own models [bold]{compared.own:.1f} {compared.unit}[/bold], pooled model {compared.pooled:.1f}, "
            f"mean {compared.mean:.1f}   (mean absolute error on the last 20 % of each segment, {compared.rows:,} flights)"
        )
    for why, count in train.pooled_because.items():
        console.print(f"  pooled     answers {count:,} segments: {why}")
    for group in train.failures:
        console.print(f"  failed     {group.count:,} segments: {group.code} {group.cause}")
    if not train.failures:
        console.print("  failed     none")
    release = outcome.release
    console.print(f"  released   {release.environment} r{release.number}, confirmed by {release.confirmed} worker(s)")


def tell_answers(outcome: UpOutcome, answers: list[dict[str, Any]]) -> None:
    """Tell how the node answered, and draw how far it was off."""
    errors = [abs(answer["air_time"] - answer["truth"]) for answer in answers]
    own = sum(answer["answered_by"] == "own" for answer in answers)
    took = sorted(answer["ms"] for answer in answers)
    console.print(
        f"  answers    {len(answers)} real requests, {own} by their own model, {len(answers) - own} by the pooled one; "
        f"mean absolute error {statistics.fmean(errors):.1f} min"
    )
    console.print(
        f"  latency    median {statistics.median(took):.1f} ms, 99th percentile {took[int(0.99 * len(took))]:.1f} ms\n"
    )
    draw(errors)


def draw(errors: list[float]) -> None:
    """Draw a histogram of the errors."""
    edges = [0, 2, 5, 10, 15, 20, 30, float("inf")]
    for low, high in itertools.pairwise(edges):
        count = sum(low <= error < high for error in errors)
        name = f"{low:>2} to {high:.0f} min off" if high < float("inf") else f"{low} min and more off"
        console.print(f"  {name:<20} [cyan]{'█' * round(count * 50 / len(errors))}[/cyan] {count}")


def tell_next(outcome: UpOutcome, *, keep: bool) -> None:
    """Tell what to try now."""
    console.print(
        "\n  look       cd examples/flights && modelmill status, modelmill show, modelmill search --where 'mae > 15'"
    )
    if keep:
        console.print(f"  ask        {outcome.curl}\n  stop       cd examples/flights && modelmill down")
    else:
        console.print(
            f"  ask        make demo DEMO=--keep leaves the node running; then for example:\n             {outcome.curl}"
        )


if __name__ == "__main__":
    sys.exit(main())
