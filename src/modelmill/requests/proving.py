"""What the verbs that prove are asked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill.requests.parts import AtLeastOne, Request


class ReproduceRequest(Request, frozen=True, kw_only=True):
    """Build versions again from their record, and compare."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="`air-time[JFK,B6,BOS] 3`, `air-time 3` for all that it built, or `3` where there is one model.",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]] VERSION"},
        ),
    ] = ()
    sample: Annotated[
        str | None,
        Meta(description="Only so many of the segments, drawn at random.", extra={"metavar": "1%"}),
    ] = None
    place: Annotated[
        str | None,
        Meta(
            description="`here`: with the packages that are installed, not those of the lock.",
            extra={"option": "--in", "metavar": "here"},
        ),
    ] = None
    workers: Annotated[AtLeastOne | None, Meta(description="Worker processes; one a core if left out.")] = None


class DiffRequest(Request, frozen=True, kw_only=True):
    """Compare two things of one kind."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="Two versions (`air-time 2 3`, `air-time[JFK,B6,BOS] 2 3`), two releases (`r1 r2`), "
            "or two snapshots (`flights@s1 flights@s2`).",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]] A B"},
        ),
    ] = ()
    answers: Annotated[bool, Meta(description="Ask both the same rows, and say how answers moved.")] = False
    every: Annotated[
        bool, Meta(description="Give the metrics of every segment, not of a few.", extra={"option": "--all"})
    ] = False


class AuditRequest(Request, frozen=True, kw_only=True):
    """Say at which level a model is."""

    model: Annotated[
        str | None, Meta(description="Which model; each of them if left out.", extra={"argument": True})
    ] = None
    fail_under: Annotated[
        Annotated[int, Meta(ge=1, le=4)] | None,
        Meta(description="Exit with 3 where a model is below this level.", extra={"metavar": "LEVEL"}),
    ] = None
