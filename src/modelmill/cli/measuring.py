"""Text for A/B tests: both sides, and where the difference lies."""

from __future__ import annotations

from collections.abc import Iterator

from modelmill import outcomes as o
from modelmill.cli.layout import count, line, moment, number, seconds, table

_WIDTH = 41
"""Of the drawn interval, in characters; its middle is no difference."""


def render_ab(ab: o.AbOutcome) -> Iterator[str]:
    """Yield both sides of a test, what is known of their difference, and a drawing of it."""
    if ab.ab is None:
        yield line("a/b", f"no A/B test of {ab.model} was ever made in {ab.environment}")
        return
    yield from _test(ab.ab)
    if ab.done:
        confirmed = f"confirmed by {count(ab.confirmed, 'worker')}" if ab.confirmed else "no node runs there now"
        yield line(ab.environment, ab.done, confirmed, seconds(ab.seconds))


def _test(found: o.AbFacts) -> Iterator[str]:
    since = f"since {moment(found.began_at)}"
    state = "" if found.state == "running" else f"ended {moment(found.ended_at)}: {found.why}"
    better = "less is better" if found.less else "more is better"
    yield line("a/b", f"{found.model} in {found.environment}", f"{found.outcome}, {better}", since, state)
    rows = [_side(name, side) for name, side in (("current", found.current), ("candidate", found.candidate))]
    yield from table(("", "release", "version", "share", "entities", "answers", "measured", "mean"), rows)
    if found.parked:
        yield line("", f"{found.parked:,} outcomes have found no answer yet")
    yield line("verdict", *_verdict(found))
    if found.low is not None and found.high is not None and found.difference is not None:
        yield line("", drawn(found.low, found.difference, found.high))


def _side(name: str, side: o.SideFacts) -> tuple[str, ...]:
    counts = (f"{value:,}" for value in (side.entities, side.answers, side.measured))
    mean = "-" if side.mean is None else number(side.mean, 4)
    return name, f"r{side.release}", str(side.version), f"{100 * side.share:g}%", *counts, mean


def _verdict(found: o.AbFacts) -> list[str]:
    if found.verdict == "unknown":
        return [f"unknown: {found.unknown}"]
    told = f"r{found.candidate.release} is {found.verdict}"
    told = f"r{found.candidate.release}: {found.verdict}" if found.verdict == "no clear difference" else told
    return [told, f"difference {number(found.difference)}, {number(found.low)} to {number(found.high)}"]


def drawn(low: float, middle: float, high: float) -> str:
    """Return an interval as a line of text around no difference, the bar: ``     |  ---o---   ``."""
    most = max(abs(low), abs(high)) or 1.0
    first, point, last = (round((value / most + 1) / 2 * (_WIDTH - 1)) for value in (low, middle, high))
    marks = ["-" if first <= place <= last else " " for place in range(_WIDTH)]
    marks[_WIDTH // 2] = "|"
    marks[point] = "o"
    return "".join(marks).rstrip()
