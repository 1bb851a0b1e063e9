"""`serve` and `down`: the node of a project, without any building."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import msgspec

from modelmill.errors import NodeNotReady, NodesLagging, StoreLocked
from modelmill.names import ModelName
from modelmill.orchestrator.preparing import prepare_published
from modelmill.outcomes import DownOutcome, NodeFacts, Progress, ServeOutcome, no_progress
from modelmill.release.pointers import Published, find_published, pointer_name
from modelmill.requests import DownRequest, ServeRequest
from modelmill.serving.control import (
    NodeInfo,
    check_port,
    describe_node,
    find_node,
    log_file,
    node_file,
    restart_node,
    start_node,
    stop_node,
    wait_until_applied,
    wait_until_served,
)
from modelmill.serving.log import Level, LogPlan
from modelmill.settings import DEV, Settings, parse_memory
from modelmill.store.blobs import pointers_of

_WATCH_S = 0.2


def serve(settings: Settings, request: ServeRequest, progress: Progress = no_progress) -> ServeOutcome:
    """Serve what is released, or start the processes of the running node anew.

    In the foreground it tells the outcome through `progress` and returns when the node has ended.
    """
    began = time.monotonic()
    folder, environment = settings.store_folder, request.environment
    memory = parse_memory(request.memory) if request.memory else settings.serving(environment).memory_bytes
    published = _published(folder, environment)
    running = find_node(folder, environment)
    prepare_published(folder, published, progress)
    if request.restart:
        node, restarted = _restart(running, progress)
    else:
        node, restarted = _start(settings, request, running, memory), 0
    laggards = wait_until_applied(node, published.revision)
    if laggards:
        raise NodesLagging(
            f"{len(laggards)} worker(s) have not applied what is released",
            got=f"pid {', '.join(map(str, laggards))}",
            next="modelmill status",
        )
    outcome = ServeOutcome(
        node=node_facts(node, folder),
        revision=published.revision,
        restarted=restarted,
        token_file=node.token_file,
        detached=request.detach or request.restart,
        seconds=time.monotonic() - began,
        next="modelmill status" if request.detach or request.restart else "",
    )
    if not outcome.detached:
        watch(folder, node, own=True, begin=partial(progress, "up", {"outcome": outcome}))
    return outcome


def _published(folder: Path, environment: str) -> Published:
    published = find_published(pointers_of(folder), environment)
    if published is None:
        following = "modelmill up" if environment == DEV else f"modelmill deploy {environment}"
        raise NodeNotReady(f"nothing is released to {environment} yet", where=str(folder), next=following)
    return published


def _restart(running: NodeInfo | None, progress: Progress) -> tuple[NodeInfo, int]:
    if running is None:
        raise NodeNotReady("no node runs here", next="modelmill serve")
    progress("line", {"text": f"replacing {running.workers} worker(s) of the node, pid {running.pid}"})
    return running, restart_node(running)


def _start(settings: Settings, request: ServeRequest, running: NodeInfo | None, memory: int) -> NodeInfo:
    if running is not None:
        raise StoreLocked(
            f"this project is served already, on port {running.port} by pid {running.pid}",
            next="modelmill serve --restart      or:  modelmill down",
            safe="it goes on as it was",
        )
    declared = settings.serving(request.environment)
    host = request.host or declared.host
    port = declared.port if request.port is None else request.port
    check_port(host, port, declared.grpc_port)
    return start_node(
        settings.store_folder,
        request.environment,
        host=host,
        port=port,
        workers=request.workers or declared.workers,
        hot=not request.no_hot_path,
        log=log_plan(settings),
        name=declared.name,
        watch=watch_plan(settings, request.environment),
        grpc_port=declared.grpc_port,
        child_memory_mb=declared.child_memory_mb,
        memory=memory,
    )


def watch_plan(settings: Settings, environment: str) -> tuple[str, ...]:
    """Return the command by which an environment's node has its canaries watched."""
    return sys.executable, "-P", "-m", "modelmill.orchestrator.rolling", str(settings.root), environment


def wait_for_node(settings: Settings, environment: str, model: ModelName) -> int:
    """Wait until the node of an environment has applied what is published; return how many workers have.

    Raises `NodesLagging` where they have seen what is published of the model and cannot open it; others do not matter here.
    """
    node = find_node(settings.store_folder, environment)
    published = find_published(pointers_of(settings.store_folder), environment)
    if node is None or published is None:
        return 0
    laggards, broken = wait_until_served(node, published.revision, model)
    if broken:
        raise NodesLagging(
            f"the node of {environment} cannot serve what is released",
            got=f"{model}: {broken}",
            next="modelmill fsck",
            safe="it serves on what it served before, and tries again",
        )
    return node.workers - len(laggards)


def log_plan(settings: Settings) -> LogPlan:
    """Return what the project's node logs of its answers, and how what it wrote becomes a dataset."""
    wanted = settings.predictions
    return LogPlan(
        folder=str(settings.store_folder / "predictions"),
        level=cast("Level", wanted.level),  # the settings know the levels
        sample=wanted.sample,
        models=dict(wanted.models),
        keep_mb=wanted.keep_mb,
        # Named, not imported: what only starts a node, or looks at one, need not load polars.
        settle=(sys.executable, "-P", "-m", "modelmill.orchestrator.settling", str(settings.root)),
    )


def down(settings: Settings, request: DownRequest, progress: Progress = no_progress) -> DownOutcome:
    """Stop the project's node; it first answers what it holds."""
    began = time.monotonic()
    settings.environment(request.environment)
    node = find_node(settings.store_folder, request.environment)
    if node is None:
        return DownOutcome(stopped=False)
    progress("line", {"text": f"stopping the node, pid {node.pid}"})
    stop_node(settings.store_folder, node)
    return DownOutcome(stopped=True, pid=node.pid, seconds=time.monotonic() - began)


def node_facts(node: NodeInfo, folder: Path) -> NodeFacts:
    """Return a node as it is shown, with what its workers say, and what is declared in the store at `folder`."""
    told: dict[str, Any] | None = describe_node(node, memory=True)
    facts = told or {}
    workers, recent = facts.get("workers", []), facts.get("recent", {})
    logged, children = facts.get("predictions", {}), facts.get("children", {})
    memory = [worker["memory_mb"] for worker in workers if worker["memory_mb"] is not None]
    running = NodeFacts(
        url=node.url,
        grpc=node.grpc,
        pid=node.pid,
        port=node.port,
        environment=node.environment,
        started_at=node.started_at,
        workers=len(workers),
        declared_workers=node.workers,
        requests=sum(worker["requests"] for worker in workers),
        errors=sum(worker["failed"] for worker in workers),
        requests_per_s=recent.get("requests_per_s", 0.0),
        p50_ms=recent.get("p50_ms"),
        p99_ms=recent.get("p99_ms"),
        memory_mb=sum(memory) if memory else None,
        refused=facts.get("refused", {}),
        children_ended=children.get("ended", 0),
        children_over_memory=children.get("over_memory", 0),
        quarantined=children.get("quarantined", 0),
        log_file=str(log_file(folder, node.environment)),
        logged=logged.get("written", 0),
        log_dropped=logged.get("dropped", 0) + logged.get("lost", 0),
        opened=max((worker["opened"] for worker in workers), default=0),
        evictions=facts.get("graphs", {}).get("evictions", 0),
        # Each worker counts: the one that answers tells by name only what it cannot open itself.
        healthy=told is not None
        and not told.get("broken")
        and not any(worker.get("broken") for worker in workers)
        and len(workers) >= node.workers,
        broken=facts.get("broken", {}),
        models=tuple(facts.get("models", {})),
        releases={name: model["release"] for name, model in facts.get("models", {}).items()},
    )
    return beside_declared(folder, running, [worker["revision"] for worker in workers])


def beside_declared(folder: Path, facts: NodeFacts, revisions: Iterable[int]) -> NodeFacts:
    """Return a node as it is shown, with what it should run, and how long it has not."""
    pointers = pointers_of(folder)
    published = find_published(pointers, facts.environment)
    if published is None:
        return facts
    declared = {str(name): pointer.release for name, pointer in published.models.items()}
    at = pointers.published_at(pointer_name(facts.environment))
    agreed = declared == facts.releases and all(revision >= published.revision for revision in revisions)
    behind_s = max(0.0, (datetime.now(UTC) - at).total_seconds()) if at is not None and not agreed else None
    return msgspec.structs.replace(facts, declared=declared, declared_at=at, behind_s=behind_s)


def watch(folder: Path, node: NodeInfo, *, own: bool, begin: Callable[[], None]) -> None:
    """Stay until the node is stopped, or until a signal ends us: then the node that we started ends first.

    Raises `NodeNotReady` where the node ends by itself: whoever keeps the command alive starts it again.

    `begin` says that we are here, once a signal would be heard: whoever reads it may send one at once.
    """
    signalled: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        signalled.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        begin()
        while not signalled and find_node(folder, node.environment) is not None:
            time.sleep(_WATCH_S)
        if not signalled and node_file(folder, node.environment).exists():  # whoever is stopped takes it away
            raise NodeNotReady(
                "the node has ended, and nobody had stopped it",
                where=str(log_file(folder, node.environment)),
                likely="it was killed, or there was no memory left",
                next="modelmill serve      (needs only what is on the disk; a supervisor does so by itself)",
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if own:
            with suppress(ProcessLookupError):
                stop_node(folder, node)
