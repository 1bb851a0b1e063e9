"""How a release takes traffic, and what has to be true before: the model's own wishes, and its environment's floors.

An environment may tighten what a model asks for, never loosen it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from modelmill.model.conditions import parse_duration

SHADOW = "shadow"
Floor = Literal["clean commit", "law", "gate", "load", "approval", "canary"]


REFUSED = "refused"
"""What a release lacks in which too many segments were refused, whatever its environment requires."""


class Limit(msgspec.Struct, frozen=True):
    """A quantity of a live model that stops a release when it is proven to be above a limit."""

    quantity: str
    """``error_rate``, ``p99_ms`` or ``worse``"""
    limit: float
    metric: str = ""
    """Of ``worse``: which metric; the limit is a share of it."""

    def __str__(self) -> str:
        name = f"worse({self.metric})" if self.metric else self.quantity
        return f"{name} > {self.limit:g}"


class Goal(msgspec.Struct, frozen=True):
    """What two releases are compared by while both serve for good: an outcome that is measured of each answer, later."""

    outcome: str
    """Its name, as it is imported."""
    less: bool = False
    """Whether less of it is better."""
    absent: float | None = None
    """What an answer without an outcome counts as; without it, only answers that have one count."""
    after_s: float = 0.0
    """How old an answer has to be to count, in seconds: an outcome takes its time."""


class Policy(msgspec.Struct, frozen=True):
    """The steps of a release: at once where there are none."""

    steps: tuple[float, ...] = ()
    """Shares of requests or of segments, growing to 1; a share of 0 is the shadow: it answers copies that nobody sees."""
    of: Literal["requests", "segments"] = "requests"
    hold_s: float = 0.0
    """How long a step lasts at least, in seconds."""
    abort: tuple[Limit, ...] = ()
    goal: Goal | None = None
    """Of an A/B test: its first step lasts until somebody ends it."""

    @property
    def has_shadow(self) -> bool:
        """Whether the candidate first answers copies that nobody sees."""
        return 0.0 in self.steps

    def texts(self) -> list[str]:
        """Return the steps as they are shown."""
        return [f"{100 * step:g}%" if step else SHADOW for step in self.steps]


ALWAYS = (Limit("error_rate", 0.01),)
"""What stops a canary that declares nothing: without a limit nothing could ever be shown to be well."""


def policy_of(declared: Mapping[str, Any] | None) -> Policy:
    """Return the policy that a model's declaration holds, as `Canary.as_dict` writes it; None is a release at once."""
    if declared is None:
        return Policy()
    return Policy(
        steps=tuple(0.0 if step == SHADOW else float(step.removesuffix("%")) / 100 for step in declared["steps"]),
        of=declared["of"],
        hold_s=parse_duration(declared["hold"]).total_seconds(),
        abort=tuple(map(_limit, declared["abort"])) or ALWAYS,
    )


def _limit(condition: Mapping[str, Any]) -> Limit:
    name, _, metric = condition["left"].removesuffix(")").partition("(")
    return Limit(name, float(condition["right"]), metric)


def unmet(requires: Sequence[str], checks: Mapping[str, bool | None], declared: Policy) -> list[str]:
    """Return what keeps a release from an environment: floors that it does not reach, and too many refused segments.

    What is not known is not reached.
    """
    found = {**checks, "canary": bool(declared.steps)}
    return [floor for floor in requires if not found.get(floor)] + [REFUSED] * (found.get(REFUSED) is False)
