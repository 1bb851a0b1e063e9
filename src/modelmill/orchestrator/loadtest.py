"""`loadtest`: the rate that a version bears on a running node, and whether it bears what it has to.

What was found is evidence of the version: an environment may require it of a release (the floor `load`). A test that is
interrupted leaves nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import httpx
import msgspec

from modelmill.errors import LoadRefused, LoadUnanswered, NodeNotReady, NodesLagging, UsageError
from modelmill.names import ModelName, parse_target
from modelmill.orchestrator.knee import FACTOR, FAIL, INCONCLUSIVE, PASS, point_of, round_of, search, verdict_of
from modelmill.orchestrator.load_plot import draw_curves
from modelmill.orchestrator.load_rows import Rows, as_requests, rows_to_ask
from modelmill.orchestrator.served import pick_model, pick_run
from modelmill.orchestrator.slo import Slo, declared_slo, parse_slo
from modelmill.outcomes import CheckFacts, LoadPoint, LoadtestOutcome, Progress, no_progress
from modelmill.registry.evidence import LOADTEST, Evidence, list_evidence, record_evidence
from modelmill.registry.fleet import FleetMap, decode
from modelmill.registry.host import user_name
from modelmill.registry.records import Run
from modelmill.release.releasing import announce, current_release
from modelmill.release.rollouts import list_rollouts
from modelmill.requests import LoadtestRequest
from modelmill.serving.control import NodeInfo, find_node, wait_until_applied
from modelmill.serving.load import Load, LoadOrder, Round, Sent
from modelmill.settings import DEV, Settings
from modelmill.store.files import write_durably
from modelmill.store.opening import Store, open_store

FLOOR = "load"
LIVE = "live"
_OPEN_S = 60.0
"""How long a version may take to open, and to answer its first request."""
_JUDGED = 0.3
"""The share of the time that is spent at the SLO's own rate."""
_STEP = 1 / 16
_LEAST_STEP_S = 0.25
_TURNS = 2
"""Rounds of each side at a rate, where two are compared."""


class LoadtestFound(TypedDict):
    """What a test has found, as parts of its outcome."""

    verdict: str
    why: str
    knee: float
    knee_below: float | None
    by_sender: bool
    curve: tuple[LoadPoint, ...]
    other: tuple[LoadPoint, ...]


class _Asked(NamedTuple):
    """Who is asked: the address of a version, and what it is called."""

    address: str
    name: str


def loadtest(settings: Settings, request: LoadtestRequest, progress: Progress = no_progress) -> LoadtestOutcome:
    """Send load until the knee is found and the SLO's rate is judged; keep what came of it as evidence."""
    began, declared = time.monotonic(), declared_slo(settings, request.environment)
    slo = declared if declared is not None and not request.slo else parse_slo(request.slo)
    out = _plot_file(request.out)
    name, version = _model_and_version(request.model)
    node = _node(settings, request.environment)
    with open_store(settings, create=False) as store:
        model = pick_model(store, name)
        run = pick_run(store, model, version)
        _check_calm(store, request.environment, model)
        sides = [_asked(store, request.environment, run), *_other(store, model, request)]
        rows = rows_to_ask(store, settings, model, _map_of(store, run))
        _let_open(store, node, request.environment)
    for side in sides:
        _check_answers(node, side, rows)
    order = LoadOrder(node.host, node.port, [as_requests(node, side.address, rows.bodies) for side in sides])
    with Load(order) as load:
        testing = _Testing(load, slo, request.seconds, [side.name for side in sides], progress)
        found = testing.run()
    outcome = LoadtestOutcome(
        environment=request.environment,
        model=model,
        version=run.number,
        slo=str(slo),
        **found,
        against=request.against or "",
        requests=rows.source,
        rows=len(rows.bodies),
        segments=rows.segments,
        url=node.url,
        workers=node.workers,
        host=os.uname().nodename,
        cores=len(os.sched_getaffinity(0)),
        by=user_name(),
        out=request.out or "",
        seconds=time.monotonic() - began,
    )
    outcome = msgspec.structs.replace(outcome, next=_next(settings, outcome, request.seconds))
    _keep(settings, run, outcome)
    if out is not None:
        write_durably(out, draw_curves(outcome).encode(), out.parent)
    return outcome


def load_check(store: Store, run: Run, declared: Slo | None = None) -> CheckFacts | None:
    """Return what the newest load test of a version has found, None where there was none.

    Of what an environment has declared, a test tells only where it was passed at as much load, or failed at no more.
    """
    found = [one for one in list_evidence(store.database, run.model, run.number) if one.kind == LOADTEST]
    telling = [one for one in found if declared is None or _tells(one, declared)]
    if telling:
        facts = telling[-1].facts
        return CheckFacts(
            floor=FLOOR, ok=telling[-1].verdict, text=f"{facts['slo']}: {facts['verdict']}, {facts['why']}"
        )
    if not found:
        return None
    return CheckFacts(
        floor=FLOOR, ok=None, text=f"{declared} is asked for; the last test was of {found[-1].facts['slo']}"
    )


def _tells(test: Evidence, declared: Slo) -> bool:
    """Return whether a load test of one SLO says anything of another."""
    tested = parse_slo(test.facts["slo"])
    return tested.covers(declared) if test.verdict else declared.covers(tested)


def _keep(settings: Settings, run: Run, outcome: LoadtestOutcome) -> None:
    facts = {"map": run.map, **msgspec.to_builtins(outcome)}
    verdict = {PASS: True, FAIL: False}.get(outcome.verdict)
    with open_store(settings, create=False) as store:
        record_evidence(store.database, run.model, LOADTEST, number=run.number, verdict=verdict, facts=facts)


def _next(settings: Settings, outcome: LoadtestOutcome, seconds: float) -> str:
    if outcome.verdict == INCONCLUSIVE:
        target = f"{outcome.model}@{outcome.version}"
        return f"modelmill loadtest {target} --slo {outcome.slo} --seconds {2 * seconds:g}"
    if outcome.verdict == FAIL:
        return "modelmill status"
    others = [place for place in settings.places if place != outcome.environment]
    return f"modelmill plan {others[0] if others and outcome.environment == DEV else outcome.environment}"


# ------------------------------------------------------------------ who is asked


def _plot_file(out: str | None) -> Path | None:
    """Return the file of the plot; better refused before the load than after it."""
    if out is None:
        return None
    path = Path(out).absolute()
    if path.suffix != ".svg":
        raise UsageError(f"`{out}` is no .svg file", next="modelmill loadtest --out load.svg")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder `{path.parent}`", next=f"mkdir -p {path.parent}")
    return path


def _model_and_version(text: str | None) -> tuple[str | None, int | None]:
    name, _, number = (text or "").partition("@")
    if number and not number.isdecimal():
        raise UsageError(f"`{text}` names no version", expected="MODEL@VERSION, such as air-time@3")
    return (str(parse_target(name)[0]) if name else None), (int(number) if number else None)


def _node(settings: Settings, environment: str) -> NodeInfo:
    settings.environment(environment)
    node = find_node(settings.store_folder, environment)
    if node is None:
        following = "modelmill up --detach" if environment == DEV else f"modelmill serve --env {environment} --detach"
        raise NodeNotReady(f"no node of {environment} runs here: load is sent to a running one", next=following)
    return node


def _check_calm(store: Store, environment: str, model: ModelName) -> None:
    """Raise `LoadRefused` while a canary is judged by what its node is asked."""
    if any(rollout.ended_at is None for rollout in list_rollouts(store.database, environment, model)):
        raise LoadRefused(
            f"a canary of `{model}` is under way in {environment}: the load would be judged with it",
            next="modelmill status",
            safe="nothing was sent",
        )


def _map_of(store: Store, run: Run) -> FleetMap:
    assert run.map is not None  # noqa: S101 - `pick_run` has looked
    return decode(store.blobs.get(run.map))


def _asked(store: Store, environment: str, run: Run) -> _Asked:
    """Return the address at which a version answers: the model's own where it is what the environment serves."""
    current = current_release(store.database, environment, run.model)
    own = current is not None and current.map == run.map
    return _Asked(f"/{run.model}" if own else f"/{run.model}@{run.number}", f"version {run.number}")


def _other(store: Store, model: ModelName, request: LoadtestRequest) -> list[_Asked]:
    if request.against is None:
        return []
    if request.against == LIVE:
        return [_Asked(f"/{model}", LIVE)]
    if not request.against.isdecimal():
        raise UsageError(f"`{request.against}` is neither `live` nor the number of a version", next="modelmill status")
    return [_asked(store, request.environment, pick_run(store, model, int(request.against)))]


def _let_open(store: Store, node: NodeInfo, environment: str) -> None:
    """Have the node know of versions that were built since it was last told anything."""
    published = announce(store, environment)
    laggards = wait_until_applied(node, published.revision)
    if laggards:
        raise NodesLagging(
            f"{len(laggards)} worker(s) have not applied what is released",
            got=f"pid {', '.join(map(str, laggards))}",
            next="modelmill status",
        )


def _check_answers(node: NodeInfo, side: _Asked, rows: Rows) -> None:
    """Ask once, which opens a version that was not; raises `LoadUnanswered` when there is no answer."""
    headers = {"content-type": "application/json", **node.headers}
    try:
        answer = httpx.post(f"{node.url}{side.address}", content=rows.bodies[0], headers=headers, timeout=_OPEN_S)
        told = "" if answer.status_code == httpx.codes.OK else answer.text[:300]
    except httpx.HTTPError as error:
        told = f"{type(error).__name__}: {error}"
    if told:
        raise LoadUnanswered(
            f"{side.name} does not answer at {side.address}", got=told, next="modelmill status", safe="no load was sent"
        )


# ------------------------------------------------------------------ the test


class _Testing:
    """One load test: a search for the knee, with more time at the SLO's own rate."""

    def __init__(self, load: Load, slo: Slo, seconds: float, names: Sequence[str], progress: Progress) -> None:
        self.load, self.slo, self.seconds, self.names, self.progress = load, slo, seconds, names, progress
        self.until = time.monotonic() + seconds
        self.curves: list[dict[float, LoadPoint]] = [{} for _ in names]
        self.rounds = 0

    def run(self) -> LoadtestFound:
        """Return the verdict, the knee and the curves."""
        self._warm()
        found = search(self.slo, self._measure, self._has_time)
        curve = self._curve(0)
        overloaded = any(not point.follows and not point.late and point.rate <= self.slo.qps for point in curve)
        if self.slo.qps not in self.curves[0] and not overloaded:
            self._measure(self.slo.qps)
        verdict, why = verdict_of(self.slo, self._curve(0))
        return LoadtestFound(
            verdict=verdict,
            why=why,
            knee=found.held,
            knee_below=found.broke if found.broke < float("inf") else None,
            by_sender=found.by_sender,
            curve=self._curve(0),
            other=self._curve(1) if len(self.names) > 1 else (),
        )

    def _has_time(self) -> bool:
        """Return whether another step may begin; the SLO's own rate always has its time."""
        reserved = 0.0 if self.slo.qps in self.curves[0] else _JUDGED * self.seconds
        return time.monotonic() + reserved < self.until

    def _curve(self, side: int) -> tuple[LoadPoint, ...]:
        return tuple(point for _, point in sorted(self.curves[side].items()))

    def _warm(self) -> None:
        """Ask for a second, uncounted: what opens at its first request is open then, in every worker."""
        for side in range(len(self.names)):
            self.load.send(
                Round(side, max(8.0, self.slo.qps / FACTOR**3), 0.5, seed=0, connections=64, patience_s=_OPEN_S)
            )

    def _measure(self, rate: float) -> LoadPoint:
        """Measure a rate; two sides are asked in turn, and begin in turn, so that neither has the better moments."""
        share = _JUDGED if rate == self.slo.qps else _STEP
        turns = _TURNS if len(self.names) > 1 else 1
        seconds = max(_LEAST_STEP_S, share * self.seconds / turns / len(self.names))
        rounds: list[list[Sent]] = [[] for _ in self.names]
        for turn in range(turns):
            self.rounds += 1
            order = range(len(self.names))
            for side in reversed(order) if turn % 2 else order:
                rounds[side].append(self.load.send(round_of(self.slo, side, rate, seconds, self.rounds)))
        for side, sent in enumerate(rounds):
            self.curves[side][rate] = point_of(self.slo, rate, sent)
            self.progress("line", {"text": self._told(side, self.curves[side][rate])})
        return self.curves[0][rate]

    def _told(self, side: int, point: LoadPoint) -> str:
        holds = "the sender was late" if point.late else "; ".join(point.broken) or "holds"
        name = f"{self.names[side]}   " if len(self.names) > 1 else ""
        rate = f"{point.rate:,.0f}" if point.rate >= 100 else f"{point.rate:.3g}"
        return f"load      {name}{rate}/s   p50 {point.p50_ms:.3g} ms   p99 {point.p99_ms:.3g} ms   {holds}"
