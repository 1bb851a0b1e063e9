"""A load test as it is shown, and drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from modelmill.cli.rendering import render
from modelmill.orchestrator.load_plot import draw_curves
from modelmill.outcomes import LoadPoint, LoadtestOutcome


def point(rate: float, p99: float, **facts: Any) -> LoadPoint:
    told = {"p50_ms": p99 / 2, "p99_ms": p99, "p999_ms": p99 * 2, "most_ms": p99 * 3, "late_ms": 0.1, "late": False}
    asked = {"rate": rate, "per_s": rate, "asked": 100, "answered": 100, "errors": 0, "follows": True}
    return LoadPoint(**{**told, **asked, **facts})


CURVE = (point(500, 1.0), point(1000, 2.0), point(2000, 40.0, broken=("p99 40 ms, limit 20 ms",)))
OTHER = (point(500, 2.0), point(1000, 2.0), point(2000, 20.0, late=True))


def outcome(**facts: Any) -> LoadtestOutcome:
    told = {
        "environment": "dev",
        "model": "sales",
        "version": 3,
        "slo": "p99=20ms,qps=1000",
        "verdict": "pass",
        "why": "p99 2 ms at 1000/s",
        "knee": 1000.0,
        "knee_below": 2000.0,
        "by_sender": False,
        "curve": CURVE,
        "rows": 400,
        "segments": 40,
        "requests": "the prediction log",
        "url": "http://127.0.0.1:8700",
        "workers": 2,
        "host": "here",
        "cores": 4,
        "by": "ann",
    }
    return LoadtestOutcome(**{**told, **facts})


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "knee      1000/s; at 2000/s the limits no longer hold"),
        ({"knee_below": None}, "knee      at least 1000/s"),
        ({"knee_below": None, "by_sender": True}, "the sender can send no faster here"),
        ({"knee": 0.0}, "knee      below 2000/s: the limits held at no rate"),
        ({"verdict": "inconclusive"}, "INCONCLUSIVE"),
        ({"against": "live", "other": OTHER}, "live"),
        ({"out": "load.svg"}, "plot      load.svg"),
    ],
)
def test_a_load_test_is_told(facts: dict[str, Any], said: str) -> None:
    assert said in "\n".join(render(outcome(**facts)))


def test_the_curve_is_drawn_where_it_can_be_read() -> None:
    lines = list(render(outcome(against="live", other=OTHER)))
    bars = [line.count("#") for line in lines if "#" in line]
    assert (bars[0], bars[-1]) == (1, 30)
    assert bars == sorted(bars)
    assert next(line for line in lines if "breaks" in line).split()[0] == "2000"
    ratios = [line.split()[3] for line in lines if "0 / 0" in line]
    assert ratios == ["0.5", "1", "2"]


@pytest.mark.parametrize("slo", ["p99=20ms,qps=1000", "qps=1000"])
def test_the_plot_is_a_picture_of_every_rate(slo: str) -> None:
    marks = list(ET.fromstring(draw_curves(outcome(slo=slo, model="a<b", against="live", other=OTHER))))  # noqa: S314 - ours
    circles = [mark for mark in marks if mark.tag.endswith("circle")]
    assert len(circles) == 4 * 3
    assert [circle.get("fill") for circle in circles].count("white") == 1  # where the sender was late
    heights = [float(circle.get("cy", "")) for circle in circles[3:6]]
    assert heights == sorted(heights, reverse=True)  # p99 rises, and y is counted from above
    assert len({mark.get("stroke") for mark in marks if mark.get("stroke-dasharray")}) == ("p99" in slo)
    assert "a<b" in "".join(mark.text or "" for mark in marks)
