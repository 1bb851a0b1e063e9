"""Text for `infra`: a line each process, what it listens on and what it holds below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from modelmill import outcomes as o
from modelmill.cli.layout import count, line, lines, moment, table

_HEADER = (
    "pid",
    "parent",
    "role",
    "environment",
    "listens",
    "serves",
    "maps",
    "files",
    "memory",
    "share",
    "user",
    "since",
)


def render_infra(infra: o.InfraOutcome) -> Iterator[str]:
    """Yield the processes, each below its parent, and what the store lends them."""
    yield line("store", infra.store, infra.host)
    if not infra.processes:
        yield "nothing of it runs on this machine"
    yield from table(_HEADER, [_row(one) for one in infra.processes])
    yield line("files", *_names(path for one in infra.processes for path in one.files))
    yield line("maps", *_names(path for one in infra.processes for path in one.maps))
    yield from lines("note", infra.notices)


def _row(one: o.ProcessFacts) -> Sequence[str]:
    served = ", ".join(f"{model} r{number}" for model, number in one.releases.items())
    return (
        str(one.pid),
        str(one.parent),
        one.role,
        one.environment or "-",
        ", ".join(one.listens) or "-",
        served or (f"revision {one.revision}" if one.revision is not None else "-"),
        str(len(one.maps)) if not one.hidden else "hidden",
        str(len(one.files)) if not one.hidden else "hidden",
        _megabytes(one.resident_mb),
        _megabytes(one.proportional_mb),
        one.user,
        moment(one.since),
    )


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} MB"


def _names(paths: Iterator[str]) -> Iterator[str]:
    """Yield the first few files, each once, and how many more there are: `--json` has all."""
    found = sorted({PurePath(path).name[:40] for path in paths})
    yield from found[:4]
    if len(found) > 4:
        yield count(len(found) - 4, "more", "more")
