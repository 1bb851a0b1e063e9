"""What is counted: classes of latencies that add, minutes of segments, and Prometheus' text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from modelmill.serving.history import KEPT_S, Burden, History
from modelmill.serving.meters import BOUNDS, CLASSES, Meters, added, quantile
from modelmill.serving.metrics import WORST, Facts, LogFacts, ModelFacts, exposition
from modelmill.serving.state import ShelfCounts, WorkerState

LATENCIES = st.lists(st.floats(1e-6, 20), min_size=1, max_size=200)


@given(LATENCIES, st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_of_classes_is_wrong_by_a_tenth_at_most(latencies: list[float], share: float) -> None:
    meters = Meters()
    for latency in latencies:
        meters.count(200, latency)
    exact = sorted(latencies)[max(0, -int(-share * len(latencies) // 1) - 1)]
    found = quantile(meters.latencies, share)
    assert found is not None
    assert exact / 1.11 <= found <= exact * 1.11


def test_nothing_has_no_quantile() -> None:
    assert quantile([0] * CLASSES, 0.5) is None
    assert added([]) == [0] * CLASSES


def test_a_latency_beyond_all_bounds_is_counted() -> None:
    meters = Meters()
    meters.count(200, 1e9)
    meters.count(200, 0.0)
    assert sum(meters.latencies) == 2
    assert quantile(meters.latencies, 1.0) == pytest.approx(BOUNDS[-1], rel=0.1)


def test_requests_are_counted_by_their_end() -> None:
    meters = Meters()
    for status in (200, 404, 422, 500):
        meters.count(status, 0.001)
    assert (meters.answered, meters.refused, meters.failed) == (1, 2, 1)


def count(meters: Meters, segment: str, times: int, *, failed: bool = False) -> None:
    for _ in range(times):
        meters.count(200, 0.001, [(("sales", segment, 1), failed)])


def test_what_serves_no_more_is_forgotten_once_it_was_taken() -> None:
    meters = Meters()
    places = [("air", "UA", 1), ("air", "UA", 2), ("rail", "UA", 1)]
    for place in places:
        meters.count(200, 0.001, [(place, False)])
    meters.forget({("air", 2)})
    assert set(meters.take()) == set(places)
    kept = meters.of(places[1])
    meters.forget({("air", 2)})
    assert meters.of(places[1]) is kept
    kept.count += 1
    assert set(meters.take()) == {places[1]}


def test_minutes_that_are_over_are_forgotten_and_the_one_that_goes_on_is_not(tmp_path: Path) -> None:
    meters, history = Meters(), History(tmp_path)
    for seconds in (0.001, 0.1):
        meters.count(200, seconds, [(("air", "UA", 1), False)])
        history.add(1, meters.take(), now=600.0)
        history.forget(659.0)
    (whole,) = history.of("air", "UA", 0.0)
    assert whole.asked == 2
    assert whole.p99 == pytest.approx(0.1, rel=0.2)
    assert whole.p50 is not None
    assert whole.p50 < 0.01
    assert history._pending
    history.forget(660.0)
    assert not history._pending


def test_the_minutes_of_a_segment_add_over_workers(tmp_path: Path) -> None:
    history, other = History(tmp_path), History(tmp_path)
    meters = Meters()
    count(meters, "a", 3)
    history.add(1, meters.take(), now=120)
    count(meters, "a", 2, failed=True)
    history.add(1, meters.take(), now=130)
    count(meters, "a", 5)
    other.add(2, meters.take(), now=150)
    count(meters, "a", 7)
    other.add(2, meters.take(), now=180)
    points = history.of("sales", "a", 0)
    assert [(point.window, point.asked, point.failed) for point in points] == [(120, 10, 2), (180, 7, 0)]
    assert points[0].p50 == pytest.approx(0.001, rel=0.1)
    assert history.of("sales", "b", 0) == []
    assert [point.window for point in history.of("sales", "a", 150)] == [180]


def test_the_worst_are_those_that_failed_then_those_that_were_asked(tmp_path: Path) -> None:
    history, meters = History(tmp_path), Meters()
    count(meters, "much", 9)
    count(meters, "some", 2)
    count(meters, "bad", 1, failed=True)
    history.add(1, meters.take(), now=120)
    assert history.worst(2, 0) == [Burden("sales", "bad", 1, 1), Burden("sales", "much", 9, 0)]


def test_a_day_is_kept(tmp_path: Path) -> None:
    history, meters = History(tmp_path), Meters()
    count(meters, "a", 1)
    history.add(1, meters.take(), now=60)
    count(meters, "a", 1)
    history.add(1, meters.take(), now=120 + KEPT_S)
    assert len(history.of("sales", "a", 0)) == 1


def facts(models: int, segments: int) -> Facts:
    worker = WorkerState(7, 3, 10, 2, 1, 1, latencies=(1,) * CLASSES)
    return Facts(
        workers=[worker, worker],
        retired=WorkerState(answered=5),
        log=LogFacts(40, 2, 1),
        refused={"busy": 3},
        shelves=ShelfCounts(opened=3, used=7000, limit=9000, loads=5, waits=8, evictions=2),
        declared=3,
        models={f"model-{place}": ModelFacts(2, segments) for place in range(models)},
        broken=0,
        worst=[Burden("model-0", f'{place},"x', 9, 1) for place in range(WORST)],
    )


def test_the_exposition_is_read_by_prometheus_own_parser() -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposition(facts(1, 5)).decode())}
    requests = {sample.labels["outcome"]: sample.value for sample in families["modelmill_requests"].samples}
    assert requests == {"answered": 25, "refused": 4, "failed": 2}
    early = {sample.labels["reason"]: sample.value for sample in families["modelmill_refused_early"].samples}
    assert early == {"busy": 3}
    assert families["modelmill_workers_declared"].samples[0].value == 3
    assert families["modelmill_graphs_open"].samples[0].value == 3
    assert families["modelmill_graph_evictions"].samples[0].value == 2
    latencies = families["modelmill_request_seconds"].samples
    assert latencies[-2].value == 2 * CLASSES or latencies[-1].value == 2 * CLASSES
    assert families["modelmill_worst_failed"].samples[3].labels == {"model": "model-0", "segment": '3,"x'}


def test_twenty_thousand_models_stay_a_small_page() -> None:
    text = exposition(facts(1, 20_000))
    series = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert len(text) < 1 << 20
    assert len(series) < 2_000
