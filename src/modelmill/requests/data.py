"""What the verbs about rows are asked."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from modelmill.requests.parts import AtLeastOne, ModelOption, Request


class ExportRequest(Request, frozen=True, kw_only=True):
    """Write a snapshot's rows."""

    snapshot: Annotated[
        str | None,
        Meta(description="`flights@s1`, or a dataset for its newest.", extra={"argument": True}),
    ] = None
    out: Annotated[
        str | None,
        Meta(
            description="The file, as .parquet or .csv; one that is there is replaced.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None


class DataDiffRequest(Request, frozen=True, kw_only=True):
    """Compare two snapshots."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="Two snapshots: `flights@s1 flights@s2`; a dataset's name is its newest.",
            extra={"argument": True, "metavar": "A B"},
        ),
    ] = ()


class ImportRequest(Request, frozen=True, kw_only=True):
    """Take a snapshot of rows."""

    source: Annotated[
        str | None,
        Meta(
            description="A .parquet, .csv or .xlsx file, or a connection of modelmill.toml; "
            "what the model file reads if left out.",
            extra={"argument": True, "path": True},
        ),
    ] = None
    table: Annotated[
        str | None, Meta(description="Which table of a database or folder, or which sheet of an .xlsx book.")
    ] = None
    query: Annotated[str | None, Meta(description="SQL, where the source is a database.", extra={"metavar": "SQL"})] = (
        None
    )
    dataset: Annotated[
        str | None,
        Meta(description="The name of the dataset; what the model reads if left out."),
    ] = None
    file: Annotated[str | None, Meta(description="The model file whose schema the rows must keep.")] = None
    model: ModelOption = None
    frame: Annotated[Any, Meta(extra={"hidden": True})] = None
    """A polars or pandas frame, from Python, instead of a source."""


class AppendRequest(ImportRequest, frozen=True, kw_only=True):
    """Add rows to the newest snapshot."""

    window: Annotated[
        str | None,
        Meta(
            description="Without a source: which rows @data reads, from A on and before B, as dates or times.",
            extra={"metavar": "A..B"},
        ),
    ] = None


class InferRequest(Request, frozen=True, kw_only=True):
    """Guess a schema from a sample."""

    source: Annotated[
        str | None,
        Meta(description="A .parquet, .csv or .xlsx file.", extra={"argument": True, "metavar": "FILE", "path": True}),
    ] = None
    target: Annotated[
        str | None, Meta(description="The column that is to be predicted.", extra={"metavar": "COLUMN"})
    ] = None
    by: Annotated[
        str | None, Meta(description="The columns of the segments' key.", extra={"metavar": "COLUMN,COLUMN"})
    ] = None
    time: Annotated[
        str | None,
        Meta(
            description="The column that orders the rows; the only date or time if left out.",
            extra={"metavar": "COLUMN"},
        ),
    ] = None
    name: Annotated[str, Meta(description="The name of the class.")] = "Row"
    out: Annotated[
        str | None,
        Meta(description="Where it is written, instead of printed.", extra={"metavar": "FILE", "path": True}),
    ] = None


class SnapshotListRequest(Request, frozen=True, kw_only=True):
    """List snapshots."""

    dataset: Annotated[str | None, Meta(description="Only this dataset's.", extra={"argument": True})] = None


class SnapshotShowRequest(Request, frozen=True, kw_only=True):
    """Show one snapshot."""

    snapshot: Annotated[
        str | None,
        Meta(
            description="`flights@s1`, a dataset for its newest, or `predictions/air-time` for what a node has logged.",
            extra={"argument": True},
        ),
    ] = None
    last: Annotated[AtLeastOne | None, Meta(description="Of predictions: only so many of the newest rows.")] = None
    out: Annotated[
        str | None,
        Meta(
            description="Of predictions: where the rows are written, as .parquet or .csv.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
