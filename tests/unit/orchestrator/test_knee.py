"""What follows from what a load test measures; the servers here are sums, and answer by the rule that a test states."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.orchestrator.knee import CLOSE, TRIES, late_limit_ms, point_of, round_of, search, verdict_of
from modelmill.orchestrator.slo import Slo, parse_slo
from modelmill.outcomes import LoadPoint
from modelmill.serving.load import CONNECTIONS, Round, Sent, moments

SLO = parse_slo("p99=20ms,qps=2000")


def served(planned: Round, service_s: float, *, late_s: float = 0.0001, failed: int = 0, busy: float = 0.1) -> Sent:
    """Return what a server makes of a round that takes one request after the other, each so many seconds."""
    free, latencies, ends = 0.0, [], []
    for due in moments(planned).tolist():
        free = max(free, due) + service_s
        latencies.append(free - due)
        ends.append(free)
    in_time = [end for end in ends if end <= planned.seconds + planned.patience_s]
    window = planned.seconds / 4
    return Sent(
        planned=len(ends),
        due=len(ends),
        latencies=np.array(latencies).tobytes(),
        lateness=np.full(len(ends), late_s).tobytes(),
        answered=len(in_time),
        failed=failed,
        kept_up=sum(window <= end <= planned.seconds for end in ends),
        to_keep_up=int((moments(planned) >= window).sum()),
        busy=busy,
        said="no" if failed else "",
    )


def simulated(slo: Slo, service_s: float, **more: float) -> tuple[list[float], Callable[[float], LoadPoint]]:
    asked: list[float] = []

    def measure(rate: float) -> LoadPoint:
        asked.append(rate)
        planned = round_of(slo, 0, rate, 2.0, seed=len(asked))
        return point_of(slo, rate, [served(planned, service_s, **more)])  # type: ignore[arg-type]

    return asked, measure


def always() -> bool:
    return True


@settings(max_examples=20, deadline=None)
@given(capacity=st.floats(30, 5_000))
def test_the_knee_of_a_server_is_below_its_capacity_and_near_it(capacity: float) -> None:
    asked, measure = simulated(SLO, 1 / capacity)
    found = search(SLO, measure, always)
    # One request after the other with Poisson arrivals (M/D/1): the p99 of 20 ms is reached below the capacity, and where
    # a request takes 1/capacity alone, not far below unless that is near the limit itself.
    assert found.held <= 1.1 * capacity
    if capacity >= 1000:
        assert found.held >= 0.6 * capacity
    assert found.broke <= found.held * CLOSE or found.held == 0
    assert len(asked) <= 20


def test_rates_rise_geometrically_and_are_then_halved_as_ratios() -> None:
    asked, measure = simulated(SLO, 1 / 3000)
    found = search(SLO, measure, always)
    assert asked[:5] == [250, 500, 1000, 2000, 4000]
    assert asked[5] == pytest.approx(math.sqrt(2000 * 4000))
    assert 2000 <= found.held < found.broke <= 4000


def test_a_server_that_never_holds_has_no_knee() -> None:
    asked, measure = simulated(SLO, 0.5)
    found = search(SLO, measure, always)
    assert (found.held, found.next) == (0, None)
    assert min(asked) < 2


def test_the_search_ends_with_the_time() -> None:
    asked, measure = simulated(SLO, 1 / 3000)
    search(SLO, measure, lambda: len(asked) < 2)
    assert asked == [250, 500]


def test_a_late_sender_ends_the_search_and_gives_no_verdict() -> None:
    asked, measure = simulated(SLO, 1 / 3000, late_s=0.01)
    found = search(SLO, measure, always)
    assert (asked, found.by_sender, found.held, found.broke) == ([250] * TRIES, True, 0, math.inf)
    verdict, why = verdict_of(SLO, [measure(2000)])
    assert (verdict, "the sender itself was 10 ms late" in why) == ("inconclusive", True)


@pytest.mark.parametrize("service_s", [1 / 100_000, 0.5])
def test_a_late_sender_neither_passes_nor_fails_anything(service_s: float) -> None:
    for more in ({"late_s": 0.0021}, {"busy": 0.99}):
        _, measure = simulated(SLO, service_s, **more)
        assert verdict_of(SLO, [measure(rate) for rate in (250, 2000)])[0] == "inconclusive"


def test_lateness_is_judged_by_the_tightest_limit() -> None:
    limits = {"p99=20ms,qps=1": 2, "p50=2ms,p99=90ms,qps=1": 0.5, "p99=3s,qps=1": 300, "qps=1": 10}
    assert {text: late_limit_ms(parse_slo(text)) for text in limits} == pytest.approx(limits)


def verdict(text: str, rates: tuple[float, ...], service_s: float, **more: float) -> tuple[str, str]:
    slo = parse_slo(text)
    _, measure = simulated(slo, service_s, **more)
    return verdict_of(slo, [measure(rate) for rate in rates])


@pytest.mark.parametrize(
    ("text", "rates", "service_s", "expected", "said"),
    [
        ("p99=20ms,qps=2000", (500, 2000), 1 / 10_000, "pass", "at 2000/s"),
        ("p50=1us,qps=2000", (2000,), 1 / 10_000, "fail", "p50"),
        ("p99=20ms,qps=2000", (2000,), 1 / 1000, "fail", "throughput"),
        ("qps=2000", (2000,), 1 / 1000, "fail", "throughput"),
        ("qps=2000", (2000,), 1 / 10_000, "pass", ""),
        ("p99=20ms,qps=2000", (500, 1000), 1 / 10_000, "inconclusive", "not asked for"),
        ("p99=20ms,qps=2000", (250,), 0.5, "fail", "at 250/s"),
        ("p99=1s,qps=20", (20,), 1 / 1000, "inconclusive", "p99 of 40 requests"),
        ("p99=10ms,qps=20", (20,), 0.02, "fail", "p99"),
        ("p50=1s,qps=20", (20,), 1 / 1000, "pass", ""),
    ],
)
def test_a_verdict_is_about_the_rate_of_the_slo(
    text: str, rates: tuple[float, ...], service_s: float, expected: str, said: str
) -> None:
    found, why = verdict(text, rates, service_s)
    assert (found, said in why) == (expected, True), why


def test_errors_break_an_slo_beyond_its_share() -> None:
    assert verdict("qps=200", (200,), 0.001, failed=1)[0] == "fail"
    assert verdict("qps=200,errors=1%", (200,), 0.001, failed=4)[0] == "pass"
    found, why = verdict("qps=200,errors=1%", (200,), 0.001, failed=5)
    assert (found, "5 of 400 requests failed: no" in why) == ("fail", True)


@given(rate=st.floats(1, 50_000), limit=st.integers(1, 60_000))
def test_a_round_lets_in_what_a_server_within_the_limit_needs(rate: float, limit: int) -> None:
    planned = round_of(parse_slo(f"p99={limit}ms,qps=10"), 0, rate, 1.0, 1)
    assert min(CONNECTIONS, rate * limit / 1000) <= planned.connections <= CONNECTIONS
    assert planned.patience_s >= 2 * limit / 1000


def test_the_rounds_of_a_rate_are_one_measurement() -> None:
    rounds = [served(round_of(SLO, 0, 500, 1.0, seed), 0.001) for seed in (1, 2)]
    together = point_of(SLO, 500, rounds)
    every = np.concatenate([np.frombuffer(one.latencies) for one in rounds]) * 1000
    assert (together.asked, together.answered, together.most_ms) == (1000, 1000, every.max())
    assert together.p99_ms == np.sort(every)[990]
