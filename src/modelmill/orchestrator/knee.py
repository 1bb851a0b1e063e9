"""What a load test measures at a rate, what it says of an SLO, and which rates it asks for: numbers alone, nothing is sent.

Rates rise geometrically until one breaks; then the rates between the highest that held and the lowest that broke are halved,
as ratios, until the two are close. The highest rate that held is the **knee**.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from modelmill.orchestrator.slo import Slo
from modelmill.outcomes import LoadPoint
from modelmill.serving.load import CONNECTIONS, Round, Sent

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
FOLLOWS = 0.9
"""The share of what was due in the last three quarters of a round that has to be answered within them."""
_EDGE = 5
"""Requests that may be under way at the end of a round beside those that a server within the limit has under way."""
LATE_SHARE = 0.1
"""How late the sender may be at its p99: this share of the tightest limit."""
_LEAST_LATE_MS, _MOST_LATE_MS = 0.5, 10.0
"""But never less than can be told from a busy machine's own delays; and so much where no latency is limited."""
_BUSY = 0.95
"""A sender that uses more of its core than this has none to spare."""
ENOUGH = 100
"""Requests without which a p99 is just their largest latency: fewer never pass."""
FACTOR = 2.0
CLOSE = 1.1
"""How close the knee is enclosed: the lowest rate that broke is at most so many times the highest that held."""
TRIES = 3
"""How often a rate is asked at which the sender was late."""
MOST_RATE = 50_000.0
_DEFAULT_LIMIT_MS = 100.0


def late_limit_ms(slo: Slo) -> float:
    """Return how late the sender may be before its round says nothing."""
    tightest = slo.tightest_ms
    return _MOST_LATE_MS if tightest is None else max(_LEAST_LATE_MS, LATE_SHARE * tightest)


def _limit_s(slo: Slo) -> float:
    return (slo.p99_ms or slo.p50_ms or _DEFAULT_LIMIT_MS) / 1000


def round_of(slo: Slo, side: int, rate: float, seconds: float, seed: int) -> Round:
    """Return a round at a rate: what a server that holds the SLO needs of connections, and of time for its last answers.

    By Little's law a server that answers within L seconds has rate x L requests under way; twice that, and some, are let
    in. More would only queue, in the node, and keep it busy after the round.
    """
    limit_s = _limit_s(slo)
    connections = math.ceil(min(max(2 * rate * limit_s + 4, 8), CONNECTIONS))
    return Round(side, rate, seconds, seed, connections, max(0.5, 2 * limit_s))


def point_of(slo: Slo, rate: float, rounds: Sequence[Sent]) -> LoadPoint:
    """Return what one or more rounds at a rate have measured."""
    latencies = np.concatenate([np.frombuffer(sent.latencies) for sent in rounds]) * 1000
    lateness = np.concatenate([np.frombuffer(sent.lateness) for sent in rounds]) * 1000
    due, answered, failed, kept_up, to_keep_up, planned = (
        sum(getattr(sent, name) for sent in rounds)
        for name in ("due", "answered", "failed", "kept_up", "to_keep_up", "planned")
    )
    p50, p99, p999, most = np.quantile(latencies, [0.5, 0.99, 0.999, 1.0], method="higher").tolist()
    late = float(np.quantile(lateness, 0.99, method="higher")) if len(lateness) else math.inf
    edge = len(rounds) * (_EDGE + rate * _limit_s(slo))
    point = LoadPoint(
        rate=rate,
        asked=due,
        per_s=rate * kept_up / max(1, to_keep_up),
        answered=answered,
        errors=failed,
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        most_ms=most,
        late_ms=late,
        late=late > late_limit_ms(slo) or max(sent.busy for sent in rounds) > _BUSY,
        follows=due == planned and answered >= due - _EDGE and kept_up >= FOLLOWS * to_keep_up - edge,
        said=next((sent.said for sent in rounds if sent.said), ""),
    )
    return msgspec.structs.replace(point, broken=tuple(broken(slo, point)))


def broken(slo: Slo, point: LoadPoint) -> list[str]:
    """Return what of an SLO a rate breaks, in words; nothing where it holds there."""
    found = [
        f"{name} {value:.3g} ms, limit {limit:g} ms"
        for name, value, limit in (("p50", point.p50_ms, slo.p50_ms), ("p99", point.p99_ms, slo.p99_ms))
        if limit is not None and value > limit
    ]
    if point.errors > slo.errors * point.asked:
        found.append(f"{point.errors:,} of {point.asked:,} requests failed: {point.said}")
    if not point.follows:
        found.append(f"throughput does not follow: {point.per_s:,.0f}/s were answered")
    return found


def verdict_of(slo: Slo, curve: Sequence[LoadPoint]) -> tuple[str, str]:
    """Return the verdict about the SLO's own rate, and why; what a lower rate cannot carry, a higher one cannot either."""
    overloaded = [point for point in curve if point.rate <= slo.qps and not point.late and not point.follows]
    judged = [point for point in curve if point.rate == slo.qps]
    if overloaded:
        lowest = min(overloaded, key=lambda point: point.rate)
        return FAIL, f"at {lowest.rate:g}/s {'; '.join(lowest.broken)}"
    if not judged:
        return INCONCLUSIVE, f"{slo.qps:g}/s was not asked for"
    point = judged[-1]
    if point.late:
        return INCONCLUSIVE, f"the sender itself was {point.late_ms:.3g} ms late at {point.rate:g}/s"
    if point.broken:
        return FAIL, f"at {point.rate:g}/s {'; '.join(point.broken)}"
    if slo.p99_ms is not None and point.asked < ENOUGH:
        return INCONCLUSIVE, f"a p99 of {point.asked} requests says little: {ENOUGH} are needed"
    return PASS, f"p99 {point.p99_ms:.3g} ms at {point.rate:g}/s"


class Search:
    """Which rate to ask for next."""

    def __init__(self, slo: Slo) -> None:
        """Begin well below the SLO's own rate."""
        self.next: float | None = max(1.0, slo.qps / FACTOR**3)
        self.held = 0.0
        """The highest rate that held; 0 before any did."""
        self.broke = math.inf
        """The lowest rate that broke."""
        self.by_sender = False
        """Whether it was the sender that could not go on: the knee is at least what held."""
        self._late = 0

    def tell(self, point: LoadPoint) -> None:
        """Take what came of a rate. Where the sender was late it is asked again, some times: a higher one tells no more."""
        if point.late:
            self._late += 1
            self.by_sender = self._late == TRIES
            self.next = None if self.by_sender else point.rate
            return
        self._late = 0
        if point.broken:
            self.broke = min(self.broke, point.rate)
        else:
            self.held = max(self.held, point.rate)
        self.next = self._choose()

    def _choose(self) -> float | None:
        if math.isinf(self.broke):
            return self.held * FACTOR if self.held * FACTOR <= MOST_RATE else None
        if not self.held:
            return self.broke / FACTOR if self.broke / FACTOR >= 1 else None
        return math.sqrt(self.held * self.broke) if self.broke > self.held * CLOSE else None


def search(slo: Slo, measure: Callable[[float], LoadPoint], has_time: Callable[[], bool]) -> Search:
    """Ask for rates until the knee is enclosed, the sender is late or time is up."""
    found = Search(slo)
    while found.next is not None and has_time():
        found.tell(measure(found.next))
    return found
