"""A/B tests as text: both sides, the verdict, and a drawing of where the difference lies."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from modelmill import outcomes as o
from modelmill.cli.measuring import drawn
from modelmill.cli.rendering import render

AT = datetime(2026, 1, 2, tzinfo=UTC)
A = o.SideFacts(release=1, version=1, share=0.75, entities=1_500, answers=3_000, measured=2_900, mean=0.25)
B = o.SideFacts(release=2, version=3, share=0.25, entities=500, answers=1_000, measured=0)
FOUND = o.AbFacts(
    environment="prod",
    model="sales",
    outcome="waste",
    less=True,
    state="running",
    why="",
    began_at=AT,
    ended_at=None,
    current=A,
    candidate=B,
    verdict="better",
    difference=-0.05,
    low=-0.09,
    high=-0.01,
    parked=7,
)


def text_of(found: o.AbFacts | None, done: str = "") -> str:
    return "\n".join(render(o.AbOutcome(done=done, ab=found, environment="prod", model="sales")))


@pytest.mark.parametrize(
    "said",
    [
        "waste, less is better",
        "since 2026-01-02",
        "current     r1              1     75%      1,500     3,000      2,900   0.25",
        "candidate   r2              3     25%        500     1,000          0      -",
        "7 outcomes have found no answer yet",
        "r2 is better   difference -0.05, -0.09 to -0.01",
    ],
)
def test_a_test_says(said: str) -> None:
    assert said in text_of(FOUND)


def test_what_is_not_known_is_said_with_its_reason() -> None:
    unknown = msgspec.structs.replace(FOUND, verdict="unknown", unknown="3 of 100 entities", low=None, high=None)
    assert "unknown: 3 of 100 entities" in text_of(unknown)
    assert "r2: no clear difference" in text_of(msgspec.structs.replace(FOUND, verdict="no clear difference"))
    assert "no A/B test of sales" in text_of(None)


def test_one_that_has_ended_says_when_and_why() -> None:
    ended = text_of(msgspec.structs.replace(FOUND, state="stopped", why="enough", ended_at=AT), done="ended")
    assert "ended 2026-01-02 00:00" in ended
    assert "enough" in ended
    assert "no node runs there now" in ended


def test_an_interval_is_drawn_around_no_difference() -> None:
    assert drawn(-1.0, 0.0, 1.0) == "--------------------o--------------------"
    assert drawn(0.5, 0.75, 1.0) == " " * 20 + "|" + " " * 9 + "-----o-----"
    assert drawn(-1.0, -0.75, -0.5) == "-----o-----" + " " * 9 + "|"
    assert drawn(0.0, 0.0, 0.0) == " " * 20 + "o"
