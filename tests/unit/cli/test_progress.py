"""Progress on a terminal, in a log, and not at all."""

import io
from typing import Any

import pytest

from modelmill.cli.progress import Bar, Lines, Pace, Silence, choose_progress, failure_text, state_text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def build(done: int, **others: Any) -> dict[str, Any]:
    return {"done": done, "total": 1000, "built": done, "failed": 0, "rate": 500.0, **others}


@pytest.mark.parametrize(
    ("silent", "stream", "kind"),
    [(True, Terminal(), Silence), (False, Terminal(), Bar), (False, io.StringIO(), Lines)],
)
def test_the_stream_decides(silent: bool, stream: io.StringIO, kind: type) -> None:
    assert type(choose_progress(silent=silent, stream=stream)) is kind


def test_counts_are_shown_by_state() -> None:
    assert state_text(build(120, failed=3)) == "120 of 1,000   2 s left   120 built   3 failed   500/s"


def test_a_log_gets_a_line_each_tenth_however_many_chunks_there_are() -> None:
    stream = io.StringIO()
    show = Lines(stream)
    for done in range(0, 1001, 5):
        show("build", build(done))
    written = stream.getvalue().splitlines()
    assert 10 <= len(written) <= 12
    assert written[-1].startswith("building 1,000 of 1,000")


def test_a_log_gets_the_first_failures_only() -> None:
    stream = io.StringIO()
    show = Lines(stream)
    for i in range(50):
        show("failure", {"segment": f"s{i}", "code": "MM306", "summary": "bad"})
    assert len(stream.getvalue().splitlines()) == 6


def test_a_failure_is_one_line() -> None:
    text = failure_text({"segment": "a", "code": "MM306", "summary": "x\ny" + "z" * 500})
    assert text.startswith("failed   a  MM306 x y")
    assert len(text) == 160


def test_a_terminal_sees_the_bar_the_counts_and_the_latest_failures() -> None:
    stream = Terminal()
    with Bar(stream) as show:
        show("failure", {"segment": "UA,ORD", "code": "MM306", "summary": "bad"})
        show("build", build(500))
        show("line", {"text": "[bold]not markup"})
    drawn = stream.getvalue()
    assert "UA,ORD  MM306 bad" in drawn
    assert "500 of 1,000" in drawn
    assert "1 s left" in drawn
    assert "[bold]not markup" in drawn


@pytest.mark.parametrize("kind", [Lines, Bar])
def test_unknown_news_is_ignored(kind: type) -> None:
    stream = io.StringIO()
    kind(stream)("weather", {"sunny": True})
    assert stream.getvalue() == ""


def test_the_pace_is_taken_from_the_first_news_on() -> None:
    times = iter([10.0, 12.0, 14.0])
    pace = Pace(lambda: next(times))
    facts = [pace.added_to({"done": done, "total": 299}) for done in (100, 200, 300)]
    assert [fact["rate"] for fact in facts] == [0.0, 50.0, 49.75]
    assert facts[-1]["done"] == 299  # the pooled model is one more than the segments


def test_a_segment_is_written_as_one_types_it() -> None:
    assert failure_text({"segment": ("New York", "B6"), "code": "MM306"}).startswith("failed   New%20York,B6  MM306")
