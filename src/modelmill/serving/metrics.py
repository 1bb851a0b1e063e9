"""The node's numbers for Prometheus: all workers together, each model, and the segments that are worst off.

Segments are thousands, and a series each would cost Prometheus more than the models cost us: their histories are kept by
the node itself (see `history`), and only the worst are told here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from modelmill.serving.history import Burden
from modelmill.serving.meters import BOUNDS, added
from modelmill.serving.state import ChildCounts, ShelfCounts, WorkerState

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
WORST = 20
_STRIDE = 4
"""Every fourth bound is told: classes that double."""


class ModelFacts(NamedTuple):
    """A model of the node, in numbers."""

    release: int
    segments: int


class LogFacts(NamedTuple):
    """The prediction log of a node, in records."""

    written: int
    dropped: int
    lost: int
    """By workers that were killed."""


class Facts(NamedTuple):
    """What is told."""

    workers: Sequence[WorkerState]
    retired: WorkerState
    """What workers that have ended counted."""
    log: LogFacts
    refused: Mapping[str, int]
    """Requests that nobody had time for, by reason."""
    shelves: ShelfCounts
    declared: int
    """How many workers there should be."""
    models: Mapping[str, ModelFacts]
    broken: int
    worst: Sequence[Burden]
    children: ChildCounts = ChildCounts()
    """The processes that run Python for the workers."""


def exposition(facts: Facts) -> bytes:
    """Return the numbers in Prometheus' text format."""
    return generate_latest(_Node(facts))


class _Node(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        yield from self._of_node()
        yield from self._of_models()
        yield from self._of_segments()

    def _of_node(self) -> Iterator[Metric]:
        facts = self._facts
        ever = [*facts.workers, facts.retired]
        requests = CounterMetricFamily(
            "modelmill_requests", "Requests for answers, by how they ended.", labels=["outcome"]
        )
        for outcome in ("answered", "refused", "failed"):
            requests.add_metric([outcome], sum(getattr(worker, outcome) for worker in ever))
        yield requests
        yield _latencies(ever)
        early = CounterMetricFamily(
            "modelmill_refused_early", "Requests that nobody had time for, by reason.", labels=["reason"]
        )
        for reason, count in facts.refused.items():
            early.add_metric([reason], count)
        yield early
        log = CounterMetricFamily(
            "modelmill_predictions_logged", "Records of the prediction log, by what became of them.", labels=["outcome"]
        )
        for outcome, count in facts.log._asdict().items():
            log.add_metric([outcome], count)
        yield log
        yield from self._of_children()
        yield from self._of_graphs()
        yield GaugeMetricFamily("modelmill_workers", "Workers that run.", len(facts.workers))
        yield GaugeMetricFamily("modelmill_workers_declared", "Workers that should run.", facts.declared)
        revision = min((worker.revision for worker in facts.workers), default=-1)
        yield GaugeMetricFamily("modelmill_revision", "The revision that every worker has applied.", revision)
        yield GaugeMetricFamily("modelmill_broken_models", "Models whose release cannot be opened.", facts.broken)

    def _of_children(self) -> Iterator[Metric]:
        counts = self._facts.children
        ended = CounterMetricFamily(
            "modelmill_children_ended",
            "Processes of models that ended by themselves, by what ended them.",
            labels=["by"],
        )
        ended.add_metric(["memory"], counts.over_memory)
        ended.add_metric(["other"], counts.ended - counts.over_memory)
        yield ended
        yield GaugeMetricFamily(
            "modelmill_children_quarantined",
            "Processes of models that are not started for a while.",
            counts.quarantined,
        )

    def _of_graphs(self) -> Iterator[Metric]:
        held = self._facts.shelves
        yield GaugeMetricFamily("modelmill_graphs_open", "Graphs that are open, in all workers.", held.opened)
        yield GaugeMetricFamily("modelmill_graphs_bytes", "What they take, as it was measured.", held.used)
        yield GaugeMetricFamily("modelmill_graphs_bytes_limit", "What they may take.", held.limit)
        yield CounterMetricFamily("modelmill_graph_loads", "Graphs that were opened.", held.loads)
        waits = "Requests that waited for a graph that another had opened."
        yield CounterMetricFamily("modelmill_graph_waits", waits, held.waits)
        yield CounterMetricFamily(
            "modelmill_graph_evictions", "Graphs that were closed for want of room.", held.evictions
        )

    def _of_models(self) -> Iterator[Metric]:
        releases = GaugeMetricFamily("modelmill_release", "The release that is served.", labels=["model"])
        segments = GaugeMetricFamily("modelmill_segments", "Segments that are served.", labels=["model"])
        for name, model in self._facts.models.items():
            releases.add_metric([name], model.release)
            segments.add_metric([name], model.segments)
        yield releases
        yield segments

    def _of_segments(self) -> Iterator[Metric]:
        labels = ["model", "segment"]
        asked = GaugeMetricFamily("modelmill_worst_asked", "Requests in the last hour, worst segments.", labels=labels)
        failed = GaugeMetricFamily("modelmill_worst_failed", "How often their own model gave no answer.", labels=labels)
        for one in self._facts.worst:
            asked.add_metric([one.model, one.segment], one.asked)
            failed.add_metric([one.model, one.segment], one.failed)
        yield asked
        yield failed


def _latencies(workers: Sequence[WorkerState]) -> Metric:
    counts = added(worker.latencies for worker in workers)
    buckets, below, seconds = [], 0, 0.0
    for place, count in enumerate(counts):
        below += count
        seconds += count * BOUNDS[min(place, len(BOUNDS) - 1)]
        if place % _STRIDE == 0 and place < len(BOUNDS):
            buckets.append((f"{BOUNDS[place]:.3g}", below))
    buckets.append(("+Inf", below))
    family = HistogramMetricFamily("modelmill_request_seconds", "From a request's last byte to its answer.")
    family.add_metric([], buckets, sum_value=seconds)
    return family
