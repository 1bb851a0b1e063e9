"""What `feasibility` found: who answers how well, which needs are met, and how the gain is spread over the segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from modelmill.cli.arms import interval
from modelmill.cli.layout import count, line, number, seconds, table
from modelmill.outcomes import FeasibilityOutcome, NeedFacts, PairedFacts, SegmentGain

_SHOWN = 5
_LOWEST, _HIGHEST = -5, 9
"""Tenths of the gain that have a line of their own in the histogram; what lies beyond is in the first or last."""
_WIDTH = 40
_VERDICTS = {True: "yes", False: "no", None: "undecided"}


def render_feasibility(found: FeasibilityOutcome) -> Iterator[str]:
    """Yield the comparison, the needs, the best and worst segments, and the histogram."""
    rows = count(found.snapshot.rows, "row")
    tried = f"{count(found.tried, 'segment')} with a model of its own" if found.tried else "one model of all rows"
    small = f"{found.small:,} with too few rows" if found.small else ""
    failed = f"{found.failed:,} failed" if found.failed else ""
    yield line("purpose", found.purpose)
    yield line("snapshot", found.snapshot.label, rows, tried, small, failed, seconds(found.seconds))
    yield from _comparisons(found)
    for need in found.needs:
        yield line("need", *_need_parts(need))
    if len(found.gains) > 1:
        yield from _segments(found.gains)
        yield from histogram(found.gains)
    if found.advice:
        yield line("advice", found.advice)
    yield line("built", "nothing: no version, nothing served")


def _comparisons(found: FeasibilityOutcome) -> Iterator[str]:
    first = "own" if found.tried else "model"
    named = [
        (first, "mean", found.own_or_mean),
        ("pooled", "mean", found.pooled_or_mean),
        (first, "pooled", found.own_or_pooled),
    ]
    for one, other, paired in named:
        if paired is not None:
            yield line(one, *_paired_parts(paired, other, found.unit))
    if (paired := found.own_or_pooled) is not None:
        judged = max(paired.segments - paired.unjudged, 1)
        worth = f"clearly, for {paired.better:,} of {count(judged, 'segment')} ({paired.better / judged:.0%})"
        unjudged = f"{paired.unjudged:,} too small to say" if paired.unjudged else ""
        yield line("worth it", worth, f"clearly not for {paired.worse:,}", unjudged)


def _paired_parts(paired: PairedFacts, other: str, unit: str) -> list[str]:
    means = f"{paired.measure} {number(paired.new)} {unit}".rstrip()
    than = f"{other} {number(paired.champion)}"
    return [means, than, f"difference {number(paired.difference, 3)}", interval(paired), paired.verdict]


def _need_parts(need: NeedFacts) -> list[str]:
    how = "" if need.interval else "(without an interval)"
    return [_VERDICTS[need.verdict], need.condition, f"found {number(need.value)}, needed {number(need.limit)}", how]


def _segments(gains: Sequence[SegmentGain]) -> Iterator[str]:
    shown = gains if len(gains) <= 2 * _SHOWN else (*gains[:_SHOWN], *gains[-_SHOWN:])
    yield from table(("segment", "rows", "own", "pooled", "mean", "own - mean, 95 %", "gain"), [_row(g) for g in shown])


def _row(gain: SegmentGain) -> tuple[str, ...]:
    losses = (number(loss) for loss in (gain.own, gain.pooled, gain.mean))
    known = gain.low is not None and gain.high is not None
    between = f"{number(gain.low, 3)} to {number(gain.high, 3)}" if known else "too few rows"
    return gain.segment, f"{gain.rows:,}", *losses, between, f"{gain.gain:+.0%}"


def histogram(gains: Sequence[SegmentGain]) -> Iterator[str]:
    """Yield how many segments gain how much over the mean, a line each tenth."""
    places = Counter(max(_LOWEST, min(_HIGHEST, int(gain.gain * 10 // 1))) for gain in gains)
    largest = max(places.values())
    yield line("gain", "how much smaller the loss of a segment's own model is than that of the mean")
    for place in range(min(places), max(places) + 1):
        bar = "#" * round(places[place] / largest * _WIDTH)
        low = f"{place * 10:+d} %" if place > _LOWEST else "below"
        yield f"{low:>8} |{bar:<{_WIDTH}}| {count(places[place], 'segment')}"
