"""What the verbs of a node are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from modelmill.requests.parts import AtLeastOne, EnvironmentOption, Port, Request


class ServeRequest(Request, frozen=True, kw_only=True):
    """Serve what is released, and nothing else."""

    environment: EnvironmentOption = "dev"
    port: Annotated[Port | None, Meta(description="Where the node listens; 8700 if left out.")] = None
    host: Annotated[
        str | None, Meta(description="The address; one that others reach makes the node ask for a token.")
    ] = None
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=32)] | None, Meta(description="Processes that answer; 1 if left out.")
    ] = None
    memory: Annotated[
        str | None,
        Meta(description="What its processes may take together, such as 1GiB; half of the machine's if left out."),
    ] = None
    detach: Annotated[bool, Meta(description="Leave the node running in the background.")] = False
    restart: Annotated[
        bool,
        Meta(description="Start the running node's processes anew, one after the other; no request fails."),
    ] = False
    no_hot_path: Annotated[
        bool, Meta(description="Answer every request over plain ASGI: slower, with the same bytes.")
    ] = False


class DownRequest(Request, frozen=True, kw_only=True):
    """Stop the node."""

    environment: EnvironmentOption = "dev"


class StatusRequest(Request, frozen=True, kw_only=True):
    """Say what runs and what is released."""


class InfraRequest(Request, frozen=True, kw_only=True):
    """Say which processes of this machine are the project's."""


class PredictRequest(Request, frozen=True, kw_only=True):
    """Ask one model for the answers to rows."""

    fields: Annotated[
        tuple[str, ...],
        Meta(
            description="The fields of one row, as NAME=VALUE; one without `=` is the model.",
            extra={"argument": True, "metavar": "[NAME=VALUE]..."},
        ),
    ] = ()
    row: Annotated[
        tuple[str, ...],
        Meta(description="May stand before the fields.", extra={"metavar": "NAME=VALUE"}),
    ] = ()
    file: Annotated[str | None, Meta(description="The model file, where the project has several.")] = None
    model: Annotated[
        str | None,
        Meta(description="`air-time`, or `air-time[UA,ORD]` to fill in the segment."),
    ] = None
    table: Annotated[
        str | None,
        Meta(
            description="A .parquet or .csv file with a row for each answer, instead of fields.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
    out: Annotated[
        str | None,
        Meta(
            description="Where the table's rows are written with their answers, as .parquet or .csv.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
    rows: Annotated[tuple[Mapping[str, Any], ...], Meta(extra={"hidden": True})] = ()
    """Rows with typed values, from Python."""
    frame: Annotated[Any, Meta(extra={"hidden": True})] = None
    """A polars or pandas frame, from Python, instead of a table's file."""

    def written(self) -> dict[str, str]:
        """Return the fields that were written as text: name -> text."""
        return dict(pair.split("=", 1) for pair in (*self.row, *self.fields) if "=" in pair)

    def target(self) -> str | None:
        """Return the model that was named, among the fields or as an option."""
        named = [text for text in (*self.row, *self.fields) if "=" not in text]
        return self.model or (named[0] if named else None)


class ParityRequest(Request, frozen=True, kw_only=True):
    """Ask the training path what the node was asked."""

    model: Annotated[
        str | None, Meta(description="Which model; the only one if left out.", extra={"argument": True})
    ] = None
    last: Annotated[AtLeastOne, Meta(description="How many of the newest logged rows are asked again.")] = 10_000
    tolerance: Annotated[
        float,
        Meta(description="How far apart two answers may be and still be equal, as a share of the larger.", ge=0, le=1),
    ] = 1e-9
