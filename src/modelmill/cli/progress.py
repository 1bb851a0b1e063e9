"""Showing progress: one bar and a rolling list of failures on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from modelmill.names import format_segment

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

FAILURES_SHOWN = 5
_STEPS = 10
"""How many lines a build prints at most where there is no terminal, besides failures."""


class Show(Protocol):
    """A place where progress is shown."""

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Show one thing; kinds that are not known are ignored."""

    def close(self) -> None:
        """Show nothing any more."""


def choose_progress(*, silent: bool, stream: TextIO | None = None) -> Silence | Lines | Bar:
    """Return what suits the stream, standard error if none is given."""
    stream = stream or sys.stderr
    if silent:
        return Silence()
    return Bar(stream) if stream.isatty() else Lines(stream)


class Pace:
    """How many segments a second are done, by the time between the first news of a build and the latest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the time from `clock`."""
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def added_to(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts with their rate, once there is one; the pooled model never makes it more than all."""
        now, done = self._clock(), min(facts["done"], facts["total"])
        began, before = self._first = self._first or (now, done)
        rate = (done - before) / (now - began) if now > began and done > before else 0.0
        return {"rate": rate, **facts, "done": done}


def state_text(facts: dict[str, Any]) -> str:
    """Return counts by state as one text: ``1,200 of 2,911   2 s left   1,190 built   10 failed   800/s``."""
    parts = [f"{facts.get('done', 0):,} of {facts.get('total', 0):,}", _time_left(facts)]
    parts += [f"{facts[name]:,} {name}" for name in ("built", "unchanged", "pooled", "failed") if facts.get(name)]
    if facts.get("rate"):
        parts.append(f"{facts['rate']:,.0f}/s")
    return "   ".join(part for part in parts if part)


def _time_left(facts: dict[str, Any]) -> str:
    left = facts.get("total", 0) - facts.get("done", 0)
    return f"{left / facts['rate']:,.0f} s left" if facts.get("rate") and left else ""


def failure_text(facts: dict[str, Any]) -> str:
    """Return one failed segment as one line of at most 160 characters."""
    segment = facts.get("segment", "")
    named = segment if isinstance(segment, str) else format_segment(tuple(segment))
    text = f"failed   {named}  {facts.get('code', '')} {facts.get('summary', '')}"
    return " ".join(text.split("\n"))[:160]


class Silence:
    """Progress that nobody wants to see."""

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Lines(Silence):
    """Plain lines: what a log keeps. A build prints one line each tenth, and its first failures."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._pace = Pace()
        self._next_step = 0.0
        self._failures = 0

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Write one line, or none where it would be one of very many."""
        if kind == "line":
            self._write(str(facts["text"]))
        elif kind == "failure":
            self._failure(facts)
        elif kind == "build" and facts.get("total"):
            self._step(self._pace.added_to(facts))

    def _step(self, facts: dict[str, Any]) -> None:
        share = facts["done"] / facts["total"]
        if share >= self._next_step:
            self._write(f"building {state_text(facts)}")
            self._next_step = min(share + 1 / _STEPS, 1.0) if share < 1 else 2.0

    def _failure(self, facts: dict[str, Any]) -> None:
        self._failures += 1
        if self._failures <= FAILURES_SHOWN:
            self._write(failure_text(facts))
        elif self._failures == FAILURES_SHOWN + 1:
            self._write("failed   ... and more; the summary groups them by cause")

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bar(Silence):
    """One bar with counts by state, rate and time left, and under it the latest failures."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`, a terminal; nothing is drawn before the first news of a build."""
        self._stream = stream
        self._failures: deque[str] = deque(maxlen=FAILURES_SHOWN)
        self._pace = Pace()
        self._live: Live | None = None

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Draw one thing."""
        if kind == "line":
            self._say(str(facts["text"]))
        elif kind == "failure":
            self._failures.append(failure_text(facts))
        elif kind == "build" and facts.get("total"):
            self._draw(self._pace.added_to(facts))

    def close(self) -> None:
        """Take the bar away: the answer that follows says it all."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def _draw(self, facts: dict[str, Any]) -> None:
        if self._live is None:
            self._live = self._start()
        self._live.update(self._picture(facts))

    def _start(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        live = Live(console=Console(file=self._stream), transient=True, refresh_per_second=8)
        live.start()
        return live

    def _picture(self, facts: dict[str, Any]) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=facts["total"], completed=facts["done"], width=40)
        failures = [Text(line, style="red", no_wrap=True, overflow="ellipsis") for line in self._failures]
        return Group(bar, Text(state_text(facts), no_wrap=True), *failures)
