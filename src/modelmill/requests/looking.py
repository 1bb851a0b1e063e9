"""What the verbs that look are asked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill.requests.parts import Request


class SearchRequest(Request, frozen=True, kw_only=True):
    """Find versions."""

    model: Annotated[
        str | None,
        Meta(description="`air-time` or `air-time[UA,ORD]`.", extra={"argument": True}),
    ] = None
    segment: Annotated[str | None, Meta(description="Segments that begin so, such as UA.")] = None
    tag: Annotated[
        str | None,
        Meta(description="A tag of the version.", extra={"metavar": "KEY[=VALUE]"}),
    ] = None
    where: Annotated[
        str | None,
        Meta(description="A condition on a metric, such as 'mae < 10'.", extra={"metavar": "CONDITION"}),
    ] = None
    every: Annotated[
        bool,
        Meta(description="Old versions too, not only those that answer.", extra={"option": "--all"}),
    ] = False
    limit: Annotated[int, Meta(description="How many at most.", ge=1, le=1000)] = 50
    after: Annotated[
        str | None,
        Meta(description="Where the page before has ended.", extra={"metavar": "CURSOR"}),
    ] = None


class ExplainRequest(Request, frozen=True, kw_only=True):
    """Say what answers, and why."""

    what: Annotated[
        str,
        Meta(
            description="The model, or one of its segments such as 'air-time[UA,ORD]'.",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]]"},
        ),
    ] = ""
    environment: Annotated[
        str,
        Meta(description="Which environment; dev if left out.", extra={"option": "--in", "metavar": "ENVIRONMENT"}),
    ] = "dev"


class ShowRequest(Request, frozen=True, kw_only=True):
    """Show one thing."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="`air-time`, `air-time[UA,ORD] 3`, `run 3`, `flights@s1` or `study NAME`.",
            extra={"argument": True, "metavar": "WHAT..."},
        ),
    ] = ()


class FsckRequest(Request, frozen=True, kw_only=True):
    """Look through the whole store."""

    repair: Annotated[
        bool,
        Meta(
            description="Remove what interrupted runs left behind, nothing that a row names; and package environments that "
            "no release needs and nobody has used for a week."
        ),
    ] = False


class DoctorRequest(Request, frozen=True, kw_only=True):
    """Look at the surroundings."""
