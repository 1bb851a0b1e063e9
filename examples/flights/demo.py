"""The main job on the real flights: from rows to thousands of models that answer, and a look at how well.

Run it with ``make demo``; ``make demo DEMO=--keep`` leaves the node running.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
from flights import write_flights
from releases import tell_releases
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import modelmill as mm
from modelmill.outcomes import UpOutcome

HERE = Path(__file__).parent
REQUESTS = 400
PACE_S = 3
CONNECTIONS = 4
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
        asked = requests_from(pl.read_parquet(rows))
        tell_answers(outcome, ask_many(outcome.url, asked))
        tell_pace(mill, ask_on(outcome, [fields for fields, _ in asked]))
        tell_releases(mill, HERE, flights_of(rows), console)
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


def requests_from(flights: pl.DataFrame) -> list[tuple[dict[str, Any], float]]:
    """Return the fields of flown flights of the last weeks, each with its true air time."""
    flown = flights.drop_nulls("air_time").sort("time_hour").tail(20_000)
    chosen = flown.sample(REQUESTS, seed=1).to_dicts()
    return [
        ({name: row[name] for name in FIELDS} | {"time_hour": row["time_hour"].isoformat()}, float(row["air_time"]))
        for row in chosen
    ]


def flights_of(rows: Path) -> list[dict[str, Any]]:
    """Return the fields of many flights, from all over the fleet."""
    flights = pl.read_parquet(rows, columns=FIELDS).drop_nulls().sample(40_000, seed=2).to_dicts()
    return [flight | {"time_hour": flight["time_hour"].isoformat()} for flight in flights]


def ask_many(url: str, asked: list[tuple[dict[str, Any], float]]) -> list[dict[str, Any]]:
    """Ask one request after the other, and return answer, truth and milliseconds."""
    answers = []
    with httpx.Client() as client:
        for fields, truth in asked:
            began = time.perf_counter()
            reply = client.post(url, json=fields)
            reply.raise_for_status()
            took = (time.perf_counter() - began) * 1e3
            answers.append(reply.json() | {"truth": truth, "ms": took})
    return answers


def ask_on(outcome: UpOutcome, asked: list[dict[str, Any]]) -> float:
    """Ask on for a few seconds over a few connections that stay; return the requests a second that the node counted."""
    bodies = [json.dumps(fields) for fields in asked]
    ends = time.monotonic() + PACE_S

    def ask() -> None:
        link = http.client.HTTPConnection("127.0.0.1", outcome.node.port)
        for body in itertools.cycle(bodies):
            if time.monotonic() > ends:
                break
            link.request("POST", f"/{outcome.train.model}", body)
            link.getresponse().read()
        link.close()

    before, began = counted(outcome), time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for one in [pool.submit(ask) for _ in range(CONNECTIONS)]:
            one.result()
    return (counted(outcome) - before) / (time.monotonic() - began)


def counted(outcome: UpOutcome) -> int:
    """Return how many requests the node's workers have answered, by their own count."""
    time.sleep(0.5)  # each worker tells the others four times a second
    workers = httpx.get(f"{outcome.node.url}/-/node").raise_for_status().json()["workers"]
    return sum(worker["answered"] for worker in workers)


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


def tell_pace(mill: mm.Mill, pace: float) -> None:
    """Tell what the node itself counted."""
    node = mill.status().node
    assert node is not None
    console.print(
        f"\n  node       {node.workers} workers, [bold]{pace:,.0f} requests/s[/bold] by their own count, for {PACE_S} s over "
        f"{CONNECTIONS} connections; p50 {node.p50_ms:.2g} ms, p99 {node.p99_ms:.2g} ms of work a request, "
        f"{node.memory_mb:,.0f} MB\n"
        f"             {node.logged:,} requests logged: modelmill data show predictions/air-time, modelmill parity"
    )


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
