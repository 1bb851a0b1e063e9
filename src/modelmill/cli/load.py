"""Text for load tests: a verdict, a curve that can be read in a terminal, and two versions side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modelmill import outcomes as o
from modelmill.cli.layout import count, line, lines, number, table

_BAR = 30


def render_loadtest(found: o.LoadtestOutcome) -> Iterator[str]:
    """Yield the verdict and why, the knee, and the curve."""
    yield line(found.verdict.upper(), f"{found.model} version {found.version}: {found.slo}", found.why)
    yield line("knee", _knee(found))
    yield line("asked", f"{found.rows:,} rows of {count(found.segments, 'segment')}", f"from {found.requests}")
    where = f"{found.host}, {count(found.cores, 'core')}, the sender on one of them"
    yield line("node", found.url, count(found.workers, "worker"), where)
    yield from lines("curve", _curve(found))
    if found.other:
        yield from lines("beside", _beside(found))
    if found.out:
        yield line("plot", found.out)


def _knee(found: o.LoadtestOutcome) -> str:
    if not found.knee:
        below = f"below {number(found.knee_below)}/s" if found.knee_below else "not found"
        return f"{below}: the limits held at no rate that was asked for"
    if found.knee_below is not None:
        return f"{number(found.knee)}/s; at {number(found.knee_below)}/s the limits no longer hold"
    return f"at least {number(found.knee)}/s" + (": the sender can send no faster here" if found.by_sender else "")


def _curve(found: o.LoadtestOutcome) -> Iterator[str]:
    high = max(point.p99_ms for point in found.curve)
    low = min(point.p99_ms for point in found.curve)
    rows = [
        (
            number(point.rate),
            *(number(value, 3) for value in (point.p50_ms, point.p99_ms, point.p999_ms)),
            f"{point.errors:,}",
            number(point.late_ms, 2),
            _bar(point.p99_ms, low, high),
            _mark(point),
        )
        for point in found.curve
    ]
    yield from table(("rate/s", "p50 ms", "p99 ms", "p99.9 ms", "errors", "sender ms", "p99, log", ""), rows)


def _bar(value: float, low: float, high: float) -> str:
    share = math.log(value / low) / math.log(high / low) if high > low else 0.0
    return "#" * (1 + round(share * (_BAR - 1)))


def _mark(point: o.LoadPoint) -> str:
    return "sender late" if point.late else "breaks" if point.broken else ""


def _beside(found: o.LoadtestOutcome) -> Iterator[str]:
    """Yield both sides at each rate, with the ratio of the version to the other."""
    rows = [
        (
            number(mine.rate),
            *(number(value, 3) for value in (mine.p50_ms, other.p50_ms, mine.p50_ms / other.p50_ms)),
            *(number(value, 3) for value in (mine.p99_ms, other.p99_ms, mine.p99_ms / other.p99_ms)),
            f"{mine.errors:,} / {other.errors:,}",
        )
        for mine, other in zip(found.curve, found.other, strict=True)
    ]
    name = found.against if found.against == "live" else f"version {found.against}"
    yield from table(("rate/s", "p50 ms", name, "ratio", "p99 ms", name, "ratio", "errors"), rows)
