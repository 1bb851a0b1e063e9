"""What the verbs about labels are asked."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from modelmill.requests.parts import AtLeastOne, Request


class LabelsImportRequest(Request, frozen=True, kw_only=True):
    """Take labels: what was true of answers that were given."""

    source: Annotated[
        str | None,
        Meta(
            description="A .parquet, .csv or .xlsx file, or a connection of modelmill.toml.",
            extra={"argument": True, "path": True, "metavar": "FILE"},
        ),
    ] = None
    model: Annotated[
        str | None, Meta(description="Which model; the only one if left out.", extra={"argument": True})
    ] = None
    on: Annotated[
        str | None,
        Meta(
            description="By what a label finds its answer: `request_id`, or `keys,time`; by the former if left out, "
            "where the file has such a column.",
            extra={"metavar": "COLUMNS"},
        ),
    ] = None
    columns: Annotated[
        tuple[str, ...],
        Meta(
            description="What a column is called in the file; may be repeated.",
            extra={"option": "--column", "metavar": "NAME=COLUMN"},
        ),
    ] = ()
    within: Annotated[
        str | None,
        Meta(
            description="By keys and time: how long before a label's moment its answer may have been asked for, "
            "such as 10m; at that very moment if left out.",
            extra={"metavar": "DURATION"},
        ),
    ] = None
    table: Annotated[
        str | None, Meta(description="Which table of a database or folder, or which sheet of an .xlsx book.")
    ] = None
    query: Annotated[str | None, Meta(description="SQL, where the source is a database.", extra={"metavar": "SQL"})] = (
        None
    )
    outcome: Annotated[
        str,
        Meta(
            description="The file tells something that was measured of the answers, not the target: the column's name.",
            extra={"metavar": "NAME"},
        ),
    ] = ""
    environment: Annotated[
        str | None,
        Meta(
            description="Only this environment's answers are shown; labels are of all.",
            extra={"option": "--env", "metavar": "ENVIRONMENT"},
        ),
    ] = None
    frame: Annotated[Any, Meta(extra={"hidden": True})] = None
    """A polars or pandas frame, from Python, instead of a source."""


class LabelsShowRequest(Request, frozen=True, kw_only=True):
    """Show how many answers have labels, and how good they were."""

    model: Annotated[
        str | None, Meta(description="Which model; the only one if left out.", extra={"argument": True})
    ] = None
    environment: Annotated[
        str | None,
        Meta(description="Only this environment's answers.", extra={"option": "--env", "metavar": "ENVIRONMENT"}),
    ] = None
    last: Annotated[AtLeastOne, Meta(description="How many of the newest logged rows are looked at.")] = 1_000_000
    out: Annotated[
        str | None,
        Meta(
            description="Where the answers that have a label are written, as .parquet or .csv.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
