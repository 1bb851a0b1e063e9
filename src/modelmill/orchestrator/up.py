"""`up`: from rows to a node that answers."""

from __future__ import annotations

import shlex
import time
from functools import partial
from typing import Any

import msgspec

from modelmill.errors import NodesLagging, StoreLocked
from modelmill.model.request import parser_of
from modelmill.names import Digest, ModelName
from modelmill.orchestrator.deploying import apply_plan
from modelmill.orchestrator.planning import make_plan
from modelmill.orchestrator.preparing import prepare_environments
from modelmill.orchestrator.project import open_project
from modelmill.orchestrator.rows import ENVIRONMENT
from modelmill.orchestrator.serve import log_plan, node_facts, watch, watch_plan
from modelmill.orchestrator.training import Trained, train_in
from modelmill.outcomes import DeployOutcome, Progress, ReleaseFacts, UpOutcome, no_progress
from modelmill.registry.fleet import decode
from modelmill.release.pointers import find_published
from modelmill.requests import TrainRequest, UpRequest
from modelmill.serving.control import (
    NodeInfo,
    check_port,
    find_node,
    start_node,
    wait_until_served,
)
from modelmill.settings import Settings
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import Store, open_store


def up(settings: Settings, request: UpRequest, progress: Progress = no_progress) -> UpOutcome:
    """Build what changed, release it to dev, and have a node serve it.

    In the foreground it tells the outcome through `progress` and returns when the node has ended.
    """
    began = time.monotonic()
    project = open_project(settings, request.file, request.model)
    options = {name: getattr(request, name) for name in TrainRequest.__struct_fields__}
    with open_store(settings) as store:
        with ProjectLock(store.lock_path, "up"):
            running = _own_node(store, request)
            if running is None:
                serve = settings.serving(ENVIRONMENT)
                check_port(serve.host, _port(settings, request), serve.grpc_port)
            trained = train_in(store, project, TrainRequest(**options), progress)
            deployed = _deploy(settings, store, trained, progress)
            node = running or _start(settings, store, request)
            facts = _confirm(store, node, deployed)
        outcome = UpOutcome(
            train=trained.outcome,
            plan=deployed.plan,
            release=facts,
            **_where(store, trained, node),
            detached=request.detach,
            seconds=time.monotonic() - began,
            next="modelmill status" if request.detach else "Ctrl-C stops it",
        )
        if not request.detach:
            begin = partial(progress, "up", {"outcome": outcome})
            watch(store.folder, node, own=running is None, begin=begin)
    return outcome


def _deploy(settings: Settings, store: Store, trained: Trained, progress: Progress) -> DeployOutcome:
    """Plan the release and apply the plan, as `deploy dev` does; here the node itself is the rehearsal."""
    prepare_environments(store.folder, store.blobs, decode(store.blobs.get(trained.map_digest)), progress)
    planned = make_plan(store, settings, ENVIRONMENT, trained.project.model.name, None)
    return apply_plan(store, settings, planned, "up", None, rehearsal=False)


def _own_node(store: Store, request: UpRequest) -> NodeInfo | None:
    """Return the node that serves this store already; it takes a new release without being started again."""
    node = find_node(store.folder)
    if node is not None and request.port not in (None, 0, node.port):
        raise StoreLocked(
            f"this project is served already, on port {node.port} by pid {node.pid}",
            next=f"modelmill down && modelmill up --port {request.port}",
            safe="it goes on as it was",
        )
    return node


def _start(settings: Settings, store: Store, request: UpRequest) -> NodeInfo:
    serve = settings.serving(ENVIRONMENT)
    return start_node(
        store.folder,
        ENVIRONMENT,
        host=serve.host,
        port=_port(settings, request),
        workers=serve.workers,
        log=log_plan(settings),
        name=serve.name,
        watch=watch_plan(settings, ENVIRONMENT),
        grpc_port=serve.grpc_port,
        child_memory_mb=serve.child_memory_mb,
        memory=serve.memory_bytes,
    )


def _port(settings: Settings, request: UpRequest) -> int:
    return settings.serving(ENVIRONMENT).port if request.port is None else request.port


def _confirm(store: Store, node: NodeInfo, deployed: DeployOutcome) -> ReleaseFacts:
    """Wait until every live worker has applied the release."""
    began = time.monotonic()
    published = find_published(store.pointers, ENVIRONMENT)
    laggards, broken = wait_until_served(node, published.revision if published else 0, ModelName(deployed.plan.model))
    if laggards or broken:
        raise NodesLagging(
            f"{len(laggards) or node.workers} worker(s) have not confirmed release r{deployed.release}",
            got=f"pid {', '.join(map(str, laggards))}" if laggards else "",
            likely=broken or "they are still loading it",
            next="modelmill status",
            safe=f"the pointer stays moved: they apply r{deployed.release} as soon as they can",
        )
    return ReleaseFacts(
        environment=ENVIRONMENT,
        number=deployed.release,
        version=deployed.plan.version,
        new=not deployed.plan.nothing,
        confirmed=node.workers,
        workers=node.workers,
        seconds=time.monotonic() - began,
    )


def _where(store: Store, trained: Trained, node: NodeInfo) -> dict[str, Any]:
    """Return where it answers, with a request that it accepts."""
    url = f"{node.url}/{trained.project.model.name}"
    request = curl_line(url, example_request(store, trained.map_digest))
    return {"node": node_facts(node, store.folder), "url": url, "curl": request}


def example_request(store: Store, map_digest: Digest) -> dict[str, Any]:
    """Return a request that a released model accepts."""
    header = decode(store.blobs.get(map_digest)).header
    return parser_of(header.spec, header.by, header.feature_names).example(header.example)


def curl_line(url: str, example: dict[str, Any]) -> str:
    """Return a request that can be pasted into a terminal."""
    return f"curl -s {url.removeprefix('http://')} -d {shlex.quote(msgspec.json.encode(example).decode())}"
