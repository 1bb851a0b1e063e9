"""What a model has to bear: a service level objective, as it is written on a command line."""

from __future__ import annotations

import re

import msgspec

from modelmill.errors import SettingInvalid, SloInvalid, did_you_mean
from modelmill.settings import Settings

EXAMPLE = "p99=20ms,qps=2000"
_KEYS = ("p50", "p99", "qps", "errors")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_MOST_QPS = 50_000.0


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """At so many requests a second, so much latency and so many errors at most."""

    qps: float
    """Requests a second."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: float = 0.0
    """The share of requests that may fail."""

    @property
    def tightest_ms(self) -> float | None:
        """Return the smallest limit of a latency; None where there is none."""
        return min((limit for limit in (self.p50_ms, self.p99_ms) if limit is not None), default=None)

    def covers(self, other: Slo) -> bool:
        """Return whether whatever bears this bears the other as well: no less load, no wider limit."""
        limits = ((self.p50_ms, other.p50_ms), (self.p99_ms, other.p99_ms))
        within = all(limit is None or (own is not None and own <= limit) for own, limit in limits)
        return within and self.qps >= other.qps and self.errors <= other.errors

    def __str__(self) -> str:
        """Return it as it is written; the limit of errors only where there is a share."""
        limits = [f"{name}={_time(limit)}" for name, limit in (("p50", self.p50_ms), ("p99", self.p99_ms)) if limit]
        share = [f"errors={self.errors * 100:g}%"] if self.errors else []
        return ",".join([*limits, f"qps={self.qps:g}", *share])


def _time(milliseconds: float) -> str:
    return f"{milliseconds:g}ms" if milliseconds < 1000 else f"{milliseconds / 1000:g}s"


def parse_slo(text: str) -> Slo:
    """Return what ``p99=20ms,qps=2000,errors=0.1%`` says; raises `SloInvalid`. The rate is needed, the limits are not."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in _KEYS:
            raise _wrong(f"`{name[:40]}` is nothing that an SLO limits", likely=did_you_mean(name[:40], _KEYS))
        if name in found:
            raise _wrong(f"`{name}` stands twice in an SLO")
        found[name] = value
    if "qps" not in found:
        raise _wrong("an SLO names the rate that it is about: `qps=...`", got=text[:80])
    return Slo(
        qps=_rate(found["qps"]),
        p50_ms=_milliseconds("p50", found["p50"]) if "p50" in found else None,
        p99_ms=_milliseconds("p99", found["p99"]) if "p99" in found else None,
        errors=_share(found["errors"]) if "errors" in found else 0.0,
    )


def declared_slo(settings: Settings, environment: str) -> Slo | None:
    """Return what models have to bear in an environment, None where nothing is declared; raises `SettingInvalid`."""
    text = settings.environment(environment).slo
    try:
        return parse_slo(text) if text else None
    except SloInvalid as error:
        name = f"environments.{environment}.slo"
        raise SettingInvalid(f"setting `{name}`: {error.what}", got=text[:80], expected=f'"{EXAMPLE}"') from None


def _rate(text: str) -> float:
    value = _number(text)
    if value is None or not 1 <= value <= _MOST_QPS:
        raise _wrong(f"`qps` is a number of requests a second from 1 to {_MOST_QPS:,.0f}", got=text[:40])
    return value


def _milliseconds(name: str, text: str) -> float:
    match = _DURATION.fullmatch(text)
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < value <= 60_000:
        raise _wrong(f"`{name}` is a time up to 60s, such as 20ms, 500us or 1.5s", got=text[:40])
    return value


def _share(text: str) -> float:
    value = _number(text.removesuffix("%"))
    share = None if value is None else value / 100 if text.endswith("%") else value
    if share is None or share > 1:
        raise _wrong("`errors` is a share, such as 0.1% or 0.001", got=text[:40])
    return share


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,12}(?:\.\d{1,12})?", text, re.ASCII) else None


def _wrong(what: str, **parts: str) -> SloInvalid:
    return SloInvalid(what, expected=EXAMPLE, next=f"modelmill loadtest --slo {EXAMPLE}", **parts)
