"""The arms of a study as a table and as a plot: what varied, how far that is from the champion, and its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modelmill.cli.layout import count, line, number, seconds, table
from modelmill.outcomes import ArmFacts, ExperimentOutcome, PairedFacts, StudyFacts

_WIDTH = 50


def changed(arm: ArmFacts) -> str:
    """Return what differs from the champion."""
    return ", ".join(f"{name} {text}" for name, text in arm.changed.items()) or "nothing differs"


def interval(found: PairedFacts) -> str:
    """Return the interval of a difference as text."""
    if found.low is None or found.high is None:
        return "interval not known: too few rows"
    return f"95 % interval {number(found.low, 3)} to {number(found.high, 3)}"


def render_arms(experiment: ExperimentOutcome) -> Iterator[str]:
    """Yield what each arm found; of several, the plot and the winner."""
    for arm in experiment.arms:
        yield from _arm(arm, experiment.unit)
    if len(experiment.arms) > 1:
        yield from plot(experiment.arms)
        yield _winner(experiment.winner)


def _arm(arm: ArmFacts, unit: str) -> Iterator[str]:
    failed = f"{arm.failed:,} failed" if arm.failed else ""
    yield line(f"arm {arm.number}", changed(arm), count(arm.tried, "segment"), failed, seconds(arm.seconds))
    found = arm.compared
    if found is None:
        yield line("", "compared with nothing: no current version was built from these rows")
        return
    yield from compared_lines(found, unit)


def compared_lines(found: PairedFacts, unit: str) -> Iterator[str]:
    """Yield the means, their difference with its interval, and in how many segments it is clear."""
    means = f"{found.measure} {number(found.champion)} -> {number(found.new)} {unit}".rstrip()
    yield line("", means, f"difference {number(found.difference, 3)}", interval(found), found.verdict)
    unjudged = f"{found.unjudged:,} too small to say" if found.unjudged else ""
    yield line(
        "", f"clearly better in {found.better:,}", f"clearly worse in {found.worse:,} of {found.segments:,}", unjudged
    )


def _winner(number: int | None) -> str:
    return line("winner", f"arm {number}" if number else "none: no arm is better than the champion")


def render_study(study: StudyFacts) -> Iterator[str]:
    """Yield a table of the arms and, where they were compared, the plot."""
    header = ("arm", "state", "changed", "segments", "loss", "difference", "low", "high", "verdict", "time")
    yield from table(header, [_row(arm) for arm in study.arms])
    yield from plot(study.arms)
    if any(arm.compared for arm in study.arms):
        yield _winner(study.winner)


def _row(arm: ArmFacts) -> tuple[str, ...]:
    head = str(arm.number), arm.state, changed(arm), f"{arm.tried:,}"
    if (found := arm.compared) is None:
        return *head, "-", "-", "-", "-", "", seconds(arm.seconds)
    numbers = (number(value, 3) for value in (found.difference, found.low, found.high))
    return *head, number(found.new), *numbers, found.verdict, seconds(arm.seconds)


def plot(arms: Sequence[ArmFacts]) -> Iterator[str]:
    """Yield a line an arm: its difference from the champion as ``o`` within its interval, and the champion as ``:``."""
    shown = [(arm, arm.compared) for arm in arms if arm.compared]
    if not shown:
        return
    ends = [end for _, found in shown for end in (found.difference, found.low, found.high) if end is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span = high - low or 1.0
    names = [f"{arm.number}  {changed(arm)}"[:40] for arm, _ in shown]
    width = max(len("arm"), *map(len, names))

    def place(value: float) -> int:
        return round((value - low) / span * (_WIDTH - 1))

    for name, (_, found) in zip(names, shown, strict=True):
        yield f"{name:<{width}} |{_bar(found, place)}|"
    measure = shown[0][1].measure
    ends_text = f"{number(low, 3)}{number(high, 3):>{_WIDTH - len(number(low, 3))}}"
    yield f"{'arm':<{width}}  {ends_text}"
    arms_text = count(len(shown), "arm")
    yield f"{'':<{width}}  {measure}, arm less champion (o); left of : is better; 95 % for {arms_text} together"


def _bar(found: PairedFacts, place: Callable[[float], int]) -> str:
    cells = [" "] * _WIDTH
    if found.low is not None and found.high is not None:
        first, last = place(found.low), place(found.high)
        cells[first : last + 1] = "-" * (last + 1 - first)
    cells[place(0.0)] = ":"
    cells[place(found.difference)] = "o"
    return "".join(cells)
