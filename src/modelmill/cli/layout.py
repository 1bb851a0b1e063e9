"""Aligned text: a label, its parts, a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

LABEL = 8
"""The width of a label; two spaces follow."""


def line(label: str, *parts: str) -> str:
    """Return ``run 1     2,911 segments   6.1 s``: a label and its parts, empty ones left out."""
    first, *rest = "   ".join(part for part in parts if part).splitlines() or [""]
    return "\n".join([f"{label:<{LABEL}}  {first}".rstrip(), *(f"{'':<{LABEL}}  {more}" for more in rest)])


def lines(label: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield one line a text; only the first has the label."""
    for index, text in enumerate(texts):
        yield line("" if index else label, text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows under their header, each column as wide as its longest text; numbers stand right."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    right = [all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows) for i in range(len(header))]
    for row in (header, *rows):
        cells = [
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        ]
        yield "   ".join(cells).rstrip()


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 segment``, ``2,911 segments``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def seconds(value: float) -> str:
    """Return a duration as people say it: ``12 ms``, ``0.8 s``, ``41 s``, ``3 min 20 s``."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value // 60:.0f} min {value % 60:.0f} s"


def number(value: float | None, digits: int = 4) -> str:
    """Return so many significant digits, no exponent where none is needed; ``-`` for what is not known."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.{digits}g}"
    return f"{value:,.0f}" if abs(value) < 1e12 and abs(value) >= 10_000 else f"{value:.3e}"


def size(value: int) -> str:
    """Return bytes as people say them: ``812 B``, ``1.4 MB``."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def moment(value: datetime | None) -> str:
    """Return a time in UTC, to the minute."""
    if value is None:
        return ""
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
