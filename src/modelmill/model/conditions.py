"""Conditions of a model's policy as typed expressions: ``worse("mae") > 0.10``, ``no_worse("mae", than="champion")``.

They are parsed, checked, stored and shown from the first day. A gate acts on every retraining, a canary on every release;
triggers act later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import DeclarationInvalid, did_you_mean
from modelmill.model.columns import Column
from modelmill.model.metrics import MEANS, higher_is_better
from modelmill.model.rows import Rows

Baseline = Literal["champion", "mean", "pooled"]
Slice = Mapping[Any, Any]
"""Columns, or their names, each with a value or with the least and the largest one."""
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
    on: tuple[tuple[str, Any], ...] = ()
    """The slice of the rows that is meant: a column with its value, or with the least and the largest one."""

    def __str__(self) -> str:
        text = f"{self.left} {self.op} {self.right}".strip()
        return f"{text} where {', '.join(_slice_text(*part) for part in self.on)}" if self.on else text

    def as_dict(self) -> dict[str, Any]:
        """Return the condition as data, as it is stored and compared."""
        found: dict[str, Any] = {"left": self.left, "op": self.op, "right": self.right}
        return found | {"on": dict(self.on)} if self.on else found

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows belong to its slice, (rows,); all of them where it has none."""
        found = np.ones(len(rows), dtype=np.bool_)
        for name, value in self.on:
            column = rows[name]
            found &= (column >= value[0]) & (column <= value[1]) if isinstance(value, tuple) else column == value
        return found


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


def better(metric: str, *, than: Baseline, by: float = 0.0, on: Slice | None = None) -> Condition:
    """Ask that a metric is better than a baseline's by at least the share `by`; `on` a slice, see `at_least`."""
    _check_baseline(than)
    right = f"{than} by {by:g}" if by else than
    return Condition(f"better({metric})", "than", right, metric, "better", than, by, _slice(on))


def no_worse(metric: str, *, than: Baseline, on: Slice | None = None) -> Condition:
    """Ask that a metric is not clearly worse than a baseline's: a paired comparison on the same rows, or `on` a slice."""
    _check_baseline(than)
    return Condition(f"no_worse({metric})", "than", than, metric, "no_worse", than, on=_slice(on))


def at_least(metric: str, value: float, *, on: Slice | None = None) -> Condition:
    """Ask that a metric is as good as a value: an accuracy or r2 at least that, an error at most.

    With `on` it is a floor of a slice, on whose test rows alone it is judged: ``on={Flight.hour: (18, 23)}`` from the least to
    the largest value, ``on={Flight.origin: "JFK"}`` of one. A segment without such rows is not asked.
    """
    limit = _number(metric, value)
    sign = ">=" if higher_is_better(metric) else "<="
    return Condition(metric, sign, limit, metric, "at_least", value=limit, on=_slice(on))


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
        if condition.on and not champion:
            raise DeclarationInvalid(f"{what}: `{condition}` is about a slice; a need is asked of the whole fleet")
        if condition.than == "champion" and not champion:
            raise DeclarationInvalid(
                f"{what}: `{condition}` asks for a champion, and before anything is built there is none",
                expected="a comparison with mean or pooled",
            )


def check_mean(condition: Condition) -> None:
    """Refuse to have a canary watch a metric that is no mean over rows: it would wait for ever."""
    if condition.metric not in MEANS:
        raise DeclarationInvalid(
            f"canary abort: `{condition}` cannot be judged while labels come",
            expected=f"a mean over rows: {', '.join(MEANS)}",
            likely=f"`{condition.metric}` of a few rows says nothing of that of all rows",
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


def check_slices(conditions: Sequence[Condition], columns: Mapping[str, Column]) -> None:
    """Refuse slices by columns that the schema does not have, or that no request carries."""
    for condition in conditions:
        for name, _ in condition.on:
            column = columns.get(name)
            if column is None or column.role in ("target", "subject"):
                known = [one.name for one in columns.values() if one.role not in ("target", "subject")]
                raise DeclarationInvalid(
                    f"`{condition}`: there is no column `{name}` to slice by", likely=did_you_mean(name, known)
                )


def _slice(on: Slice | None) -> tuple[tuple[str, Any], ...]:
    """Return a declared slice as data that compares; a pair is a range."""
    found = tuple((str(column), value) for column, value in (on or {}).items())
    for name, value in found:
        pair = isinstance(value, tuple)
        if (pair and (len(value) != 2 or not value[0] <= value[1])) or isinstance(value, list | dict | set):
            raise DeclarationInvalid(
                f"`{name}` cannot be sliced by `{value!r}`",
                expected="a value, or the least and the largest one: (18, 23)",
            )
    return found


def _slice_text(name: str, value: Any) -> str:
    return f"{name} {value[0]}..{value[1]}" if isinstance(value, tuple) else f"{name} = {value}"


def _check_baseline(than: str) -> None:
    if than not in _BASELINES:
        raise DeclarationInvalid(f"`{than}` is not a baseline", likely=did_you_mean(than, _BASELINES))


def _number(name: str, limit: object) -> float:
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise DeclarationInvalid(f"`{name}` is compared with `{limit!r}`", expected="a number")
    return float(limit)
