"""What the verbs that release are asked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill.requests.parts import Environment, ModelOption, ReasonOption, Request


class PlanRequest(Request, frozen=True, kw_only=True):
    """Say what a release would do."""

    environment: Environment = ""
    model: ModelOption = None
    version: Annotated[int | None, Meta(description="Which version to release; the newest if left out.")] = None
    every: Annotated[
        bool, Meta(description="List everything that changes, not only the first few.", extra={"option": "--all"})
    ] = False
    out: Annotated[
        str | None,
        Meta(
            description="Write the plan to a file, for `modelmill deploy FILE`.",
            extra={"path": True, "option": "-o", "metavar": "FILE"},
        ),
    ] = None


class DeployRequest(Request, frozen=True, kw_only=True):
    """Release what is planned."""

    target: Annotated[
        str,
        Meta(
            description="The environment, or the file of a plan.",
            extra={"argument": True, "metavar": "ENVIRONMENT|FILE"},
        ),
    ] = ""
    model: ModelOption = None
    version: Annotated[int | None, Meta(description="Which version to release; the newest if left out.")] = None
    yes: Annotated[bool, Meta(description="Do it without asking.")] = False
    plan: Annotated[str | None, Meta(description="The id of the plan that it has to be.", extra={"metavar": "ID"})] = (
        None
    )
    reason: ReasonOption = ""
    detach: Annotated[bool, Meta(description="Do not wait for the steps of a canary.")] = False


class PromoteRequest(Request, frozen=True, kw_only=True):
    """Release a version to another environment; nothing else may change."""

    version: Annotated[
        int | None, Meta(description="The version's number.", extra={"argument": True, "metavar": "VERSION"})
    ] = None
    environment: Annotated[
        str,
        Meta(
            description="The environment, as modelmill.toml declares it.",
            extra={"option": "--to", "metavar": "ENVIRONMENT"},
        ),
    ] = ""
    model: ModelOption = None
    reason: ReasonOption = ""
    detach: Annotated[bool, Meta(description="Do not wait for the steps of a canary.")] = False


class ApproveRequest(Request, frozen=True, kw_only=True):
    """Say that a version may be released to an environment, or that it may not."""

    version: Annotated[
        int | None, Meta(description="The version's number.", extra={"argument": True, "metavar": "VERSION"})
    ] = None
    environment: Annotated[
        str,
        Meta(
            description="The environment, as modelmill.toml declares it.",
            extra={"option": "--for", "metavar": "ENVIRONMENT"},
        ),
    ] = ""
    model: ModelOption = None
    decline: Annotated[bool, Meta(description="Say that it may not; what was approved before is taken back.")] = False
    reason: ReasonOption = ""


class RollbackRequest(Request, frozen=True, kw_only=True):
    """Go back to what an environment served before."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model, or some of its segments such as 'sales[s1,*]', and the environment; "
            "the model may be left out.",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]] ENVIRONMENT"},
        ),
    ] = ()
    to: Annotated[
        str | None,
        Meta(description="Which release, such as r11; the one before if left out.", extra={"metavar": "RELEASE"}),
    ] = None
    reason: ReasonOption = ""
    hold: Annotated[
        str | None,
        Meta(
            description="For how long nothing is released, such as 2h; until `resume` if left out.",
            extra={"metavar": "TIME"},
        ),
    ] = None


class HoldRequest(Request, frozen=True, kw_only=True):
    """Have nothing released for a while."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model and the environment; the model may be left out.",
            extra={"argument": True, "metavar": "[MODEL] ENVIRONMENT"},
        ),
    ] = ()
    reason: ReasonOption = ""
    length: Annotated[
        str | None,
        Meta(
            description="For how long, such as 2h; until `resume` if left out.",
            extra={"option": "--for", "metavar": "TIME"},
        ),
    ] = None


class ResumeRequest(Request, frozen=True, kw_only=True):
    """Lift a hold."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model and the environment; the model may be left out.",
            extra={"argument": True, "metavar": "[MODEL] ENVIRONMENT"},
        ),
    ] = ()
    reason: ReasonOption = ""


class ShadowRequest(Request, frozen=True, kw_only=True):
    """Have a version answer copies of an environment's requests, or no longer."""

    version: Annotated[
        int | None,
        Meta(
            description="The version's number; without one, all shadows are shown.",
            extra={"argument": True, "metavar": "VERSION"},
        ),
    ] = None
    environment: Annotated[
        str, Meta(description="Whose requests are copied.", extra={"option": "--in", "metavar": "ENVIRONMENT"})
    ] = "dev"
    model: ModelOption = None
    share: Annotated[
        str, Meta(description="How many of the requests are copied, such as 10%.", extra={"metavar": "SHARE"})
    ] = "100%"
    stop: Annotated[bool, Meta(description="End it; without a version, all of the model's.")] = False
    reason: ReasonOption = ""


class HistoryRequest(Request, frozen=True, kw_only=True):
    """Say what was current when."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model and the environment; either may be left out.",
            extra={"argument": True, "metavar": "[MODEL] [ENVIRONMENT]"},
        ),
    ] = ()
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many at most.")] = 20
