"""What the verbs that measure a release are asked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill.requests.parts import EnvironmentOption, ModelOption, ReasonOption, Request


class LoadtestRequest(Request, frozen=True, kw_only=True):
    """Find out what a version bears."""

    model: Annotated[
        str | None,
        Meta(
            description="The model, and the version if not the newest, such as air-time@3.",
            extra={"argument": True, "metavar": "[MODEL][@VERSION]"},
        ),
    ] = None
    slo: Annotated[
        str,
        Meta(
            description="What it has to bear, such as p99=20ms,qps=2000; left out, what the environment declares.",
            extra={"metavar": "SLO"},
        ),
    ] = ""
    environment: EnvironmentOption = "dev"
    against: Annotated[
        str | None,
        Meta(
            description="Another version, or `live` for what the environment serves: asked in turn in the same run.",
            extra={"metavar": "VERSION"},
        ),
    ] = None
    seconds: Annotated[float, Meta(ge=2, le=600, description="How long load is sent, about.")] = 20.0
    out: Annotated[
        str | None,
        Meta(description="Where the plot is written, as .svg.", extra={"metavar": "FILE", "path": True}),
    ] = None


class AbRequest(Request, frozen=True, kw_only=True):
    """Have two versions serve side by side, and say which does better by an outcome that is measured."""

    version: Annotated[
        int | None,
        Meta(
            description="The version that is tried; without one, the last test is shown.",
            extra={"argument": True, "metavar": "VERSION"},
        ),
    ] = None
    environment: Annotated[
        str, Meta(description="Whose requests are shared.", extra={"option": "--in", "metavar": "ENVIRONMENT"})
    ] = "dev"
    model: ModelOption = None
    share: Annotated[
        str, Meta(description="How many of the entities the version answers, such as 10%.", extra={"metavar": "SHARE"})
    ] = "50%"
    outcome: Annotated[
        str,
        Meta(
            description="What is measured of each answer, as `labels import --outcome` names it.",
            extra={"metavar": "NAME"},
        ),
    ] = ""
    less: Annotated[bool, Meta(description="Less of it is better.")] = False
    absent: Annotated[
        float | None,
        Meta(
            description="What an answer without an outcome counts as, such as 0 where only purchases are reported; "
            "else it does not count.",
            extra={"metavar": "NUMBER"},
        ),
    ] = None
    after: Annotated[
        str | None,
        Meta(description="How old an answer has to be to count, such as 1d.", extra={"metavar": "DURATION"}),
    ] = None
    stop: Annotated[bool, Meta(description="End it: the current release answers everybody.")] = False
    reason: ReasonOption = ""
