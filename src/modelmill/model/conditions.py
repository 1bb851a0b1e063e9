"""Conditions of a model's policy as typed expressions: ``worse("mae") > 0.10``, ``no_worse("mae", than="champion")``.

They are parsed, checked, stored and shown from the first day. A gate acts on every retraining; triggers and canaries act later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from modelmill.errors import DeclarationInvalid, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.metrics import higher_is_better

Baseline = Literal["champion", "mean", "pooled"]
_BASELINES = ("champion", "mean", "pooled")
_PERIODS = ("hour", "day", "week", "month")
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is true or false of a model at a moment; `metric` is empty where none is meant."""

    left: str
    op: str = ""
    right: float | str = ""
    metric: str = ""
    asks: Literal["", "better", "no_worse", "at_least"] = ""
    """What a gate asks; empty for a condition that no gate can judge."""
    than: str = ""
    """The baseline that it is compared with."""
    value: float = 0.0
    """The minimum, or by which share it has to be better."""

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}".strip()

    def as_dict(self) -> dict[str, Any]:
        """Return the condition as data, as it is stored and compared."""
        return {"left": self.left, "op": self.op, "right": self.right}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that is known while a model lives; compared with a limit it becomes a condition."""

    name: str
    metric: str = ""

    def __gt__(self, limit: float) -> Condition:
        return Condition(self.name, ">", _number(self.name, limit), self.metric)

    def __ge__(self, limit: float) -> Condition:
        return Condition(self.name, ">=", _number(self.name, limit), self.metric)

    def __lt__(self, limit: float) -> Condition:
        return Condition(self.name, "<", _number(self.name, limit), self.metric)

    def __le__(self, limit: float) -> Condition:
        return Condition(self.name, "<=", _number(self.name, limit), self.metric)


error_rate = Quantity("error_rate")
"""The share of requests that failed, 0 to 1."""
p99_ms = Quantity("p99_ms")
"""The 99th percentile of the latency, in milliseconds."""
new_labels = Quantity("new_labels")
"""How many labels arrived since the last build."""
new_rows = Quantity("new_rows")
"""How many rows arrived since the last build."""


def worse(metric: str) -> Quantity:
    """Return by which share a metric is worse than when the version was built: 0.10 is 10 % worse."""
    return Quantity(f"worse({metric})", metric)


def better(metric: str, *, than: Baseline, by: float = 0.0) -> Condition:
    """Ask that a metric is better than a baseline's by at least the share `by`."""
    _check_baseline(than)
    right = f"{than} by {by:g}" if by else than
    return Condition(f"better({metric})", "than", right, metric, "better", than, by)


def no_worse(metric: str, *, than: Baseline) -> Condition:
    """Ask that a metric is not clearly worse than a baseline's: a paired comparison on the same rows."""
    _check_baseline(than)
    return Condition(f"no_worse({metric})", "than", than, metric, "no_worse", than)


def at_least(metric: str, value: float) -> Condition:
    """Ask that a metric is as good as a value: an accuracy or r2 at least that, an error at most."""
    limit = _number(metric, value)
    return Condition(metric, ">=" if higher_is_better(metric) else "<=", limit, metric, "at_least", value=limit)


def drifted(column: Column | str | Any) -> Condition:
    """Ask whether a column, or ``"prediction"``, is distributed otherwise than the reference's own past allows."""
    return Condition(f"drift({column})")


def every(period: str) -> Condition:
    """Be true once a period: hour, day, week, month."""
    if period not in _PERIODS:
        raise DeclarationInvalid(f"`{period}` is not a period", likely=did_you_mean(period, _PERIODS))
    return Condition(f"every({period})")


@dataclass(frozen=True, slots=True)
class Canary:
    """How a release takes traffic: shares of requests or of segments, and what stops it."""

    steps: Sequence[str]
    of: Literal["requests", "segments"] = "requests"
    hold: str = "30m"
    abort: Sequence[Condition] = ()

    def __post_init__(self) -> None:
        """Refuse steps that do not grow, durations that are none, and conditions that are none."""
        _check_steps(self.steps)
        if self.of not in ("requests", "segments"):
            raise DeclarationInvalid(f"a canary is of requests or of segments, not of `{self.of}`")
        parse_duration(self.hold)
        check_conditions("canary abort", self.abort)

    def as_dict(self) -> dict[str, Any]:
        """Return the canary as data."""
        return {
            "steps": list(self.steps),
            "of": self.of,
            "hold": self.hold,
            "abort": [condition.as_dict() for condition in self.abort],
        }


def parse_duration(text: str) -> timedelta:
    """Return what ``30s``, ``30m``, ``2h`` or ``1d`` says."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise DeclarationInvalid(f"`{text}` is not a duration", expected="like 30s, 30m, 2h, 1d")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def check_conditions(what: str, conditions: Sequence[object]) -> None:
    """Refuse anything in a list of conditions that is not one."""
    for condition in conditions:
        if isinstance(condition, Quantity):
            raise DeclarationInvalid(
                f"{what}: `{condition.name}` is a number, not a condition", next=f"compare it:  {condition.name} > 0.10"
            )
        if not isinstance(condition, Condition):
            raise DeclarationInvalid(
                f"{what}: `{condition!r}` is not a condition", expected='like mm.worse("mae") > 0.1'
            )


def check_judged(what: str, conditions: Sequence[Condition], *, champion: bool) -> None:
    """Refuse what cannot be judged of a model before it answers anybody, such as its latency."""
    for condition in conditions:
        if not condition.asks:
            raise DeclarationInvalid(
                f"{what}: `{condition}` cannot be judged when a model is built",
                expected="mm.better(...), mm.no_worse(...) or mm.at_least(...)",
                next="a canary's abort=[...] is for what is seen while it answers, retrain=[...] for triggers",
            )
        if condition.than == "champion" and not champion:
            raise DeclarationInvalid(
                f"{what}: `{condition}` asks for a champion, and before anything is built there is none",
                expected="a comparison with mean or pooled",
            )


def _check_steps(steps: Sequence[str]) -> None:
    shares = []
    for step in steps:
        match = _SHARE.fullmatch(step)
        if step != "shadow" and not match:
            raise DeclarationInvalid(f"`{step}` is not a canary step", expected='"shadow", or a share like "2%"')
        if step == "shadow" and step is not steps[0]:
            raise DeclarationInvalid("a shadow is the first step of a canary, or none", got=", ".join(steps))
        if match:
            shares.append(float(match[1]))
    if not shares or shares != sorted(set(shares)) or shares[-1] != 100:
        raise DeclarationInvalid("canary steps must grow and end with 100%", got=", ".join(steps))


def _check_baseline(than: str) -> None:
    if than not in _BASELINES:
        raise DeclarationInvalid(f"`{than}` is not a baseline", likely=did_you_mean(than, _BASELINES))


def _number(name: str, limit: object) -> float:
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise DeclarationInvalid(f"`{name}` is compared with `{limit!r}`", expected="a number")
    return float(limit)
