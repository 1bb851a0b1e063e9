"""Latency against rate as a small SVG: both axes logarithmic, the SLO as a box, nothing that has to be loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from modelmill.orchestrator.slo import parse_slo
from modelmill.outcomes import LoadPoint, LoadtestOutcome

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 420, 70, 50, 20, 50
_QUANTILES = (("p50_ms", "p50", "#2a9d8f"), ("p99_ms", "p99", "#1d3557"), ("p999_ms", "p99.9", "#8d99ae"))
_OTHER = "#e76f51"


class _Axis(NamedTuple):
    """A logarithmic axis: values from low to high lie from begin to end, in pixels."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(min(max(value, self.low), self.high) / self.low) / math.log(self.high / self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> list[float]:
        """Return 1, 2 and 5 of each power of ten; only the powers where these would be too many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(powers) <= 3 else (1,)
        return [step * 10.0**power for power in powers for step in steps if self.low <= step * 10.0**power <= self.high]


def draw_curves(found: LoadtestOutcome) -> str:
    """Return the plot of a load test."""
    points = [*found.curve, *found.other]
    limit = parse_slo(found.slo).p99_ms
    latencies = [getattr(point, name) for point in points for name, _, _ in _QUANTILES] + [limit or 1.0]
    x = _axis([point.rate for point in points], _LEFT, _WIDTH - _RIGHT)
    y = _axis(latencies, _HEIGHT - _BOTTOM, _TOP)
    return "\n".join(_svg(found, x, y, limit))


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    positive = [value for value in values if value > 0]
    return _Axis(min(positive) / 1.3, max(positive) * 1.3, begin, end)


def _svg(found: LoadtestOutcome, x: _Axis, y: _Axis, limit: float | None) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    title = f"{found.model} version {found.version}: {found.verdict}, {found.slo}"
    yield f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>'
    yield from _grid(x, y)
    if limit is not None:
        slo = parse_slo(found.slo)
        yield (
            f'<path d="M{x.begin} {y.at(limit)}H{x.at(slo.qps)}V{y.begin}" fill="none" stroke="#c1121f" stroke-dasharray="6 3">'
            f"<title>{escape(found.slo)}</title></path>"
        )
    for place, (name, label, colour) in enumerate(_QUANTILES):
        yield from _line(found.curve, name, x, y, colour)
        yield f'<text x="{_LEFT + 60 * place}" y="38" fill="{colour}">{label}</text>'
    if found.other:
        yield from _line(found.other, "p99_ms", x, y, _OTHER)
        yield f'<text x="{_LEFT + 180}" y="38" fill="{_OTHER}">p99 of {escape(found.against)}</text>'
    yield "</svg>\n"


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    for value in x.ticks():
        yield f'<path d="M{x.at(value)} {y.begin}V{y.end}" stroke="#e5e5e5"/>'
        yield f'<text x="{x.at(value)}" y="{y.begin + 16}" text-anchor="middle">{value:,g}</text>'
    for value in y.ticks():
        yield f'<path d="M{x.begin} {y.at(value)}H{x.end}" stroke="#e5e5e5"/>'
        yield f'<text x="{x.begin - 6}" y="{y.at(value) + 4}" text-anchor="end">{value:,g}</text>'
    yield f'<text x="{x.end}" y="{_HEIGHT - 10}" text-anchor="end">requests a second</text>'
    yield f'<text x="6" y="{_TOP - 6}">ms</text>'


def _line(curve: Sequence[LoadPoint], name: str, x: _Axis, y: _Axis, colour: str) -> Iterator[str]:
    """Yield a line with a dot a rate; hollow where the sender was late."""
    places = [(x.at(point.rate), y.at(getattr(point, name)), point) for point in curve]
    yield f'<polyline points="{" ".join(f"{a},{b}" for a, b, _ in places)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for a, b, point in places:
        fill = "white" if point.late else colour
        told = f"{point.rate:,.0f}/s: {getattr(point, name):.3g} ms"
        yield f'<circle cx="{a}" cy="{b}" r="3.5" fill="{fill}" stroke="{colour}"><title>{told}</title></circle>'
