"""One worker of a node: uvicorn over the inherited socket, and a look at the published pointer now and then."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import uvicorn
import uvloop

from modelmill.compute.worker import die_with
from modelmill.errors import ModelmillError
from modelmill.names import ModelName
from modelmill.release.pointers import Published, find_published
from modelmill.serving.app import App
from modelmill.serving.applied import Applied, apply
from modelmill.serving.compared import Compared
from modelmill.serving.control import RETRY_S
from modelmill.serving.copies import Run, taken
from modelmill.serving.door import Door
from modelmill.serving.history import Burden, History, Point
from modelmill.serving.http import HttpProtocol
from modelmill.serving.log import LogPlan, PredictionLog
from modelmill.serving.memory import megabytes, room_of, taken_by, trim
from modelmill.serving.meters import added, quantile
from modelmill.serving.metrics import WORST, Facts, LogFacts, ModelFacts, exposition
from modelmill.serving.plane import Plane
from modelmill.serving.served import ServedModel
from modelmill.serving.shelf import Shelf
from modelmill.serving.state import ChildCounts, NodeState, WorkerState
from modelmill.serving.upkeep import UPKEEP
from modelmill.serving.waiting import refused
from modelmill.store.blobs import pointers_of
from modelmill.store.tokens import read_token

if TYPE_CHECKING:
    from modelmill.serving.rpc import RpcServer

POLL_S = 0.25
_GRACE_S = 5.0
"""How long what was replaced lives on for the requests that found it just before."""
_RECENT_S = 60
_HISTORY_S = 5.0
_WORST_S = 300.0
"""Over which time the worst segments are looked for."""
_WORST_EVERY_S = 15.0
_COMPARED_S = 3600.0
"""Over which time the node itself tells of its shadows."""
_DRAIN_S = 1.0
"""How long a worker that ends tells each client to connect anew, before it closes connections that are idle."""


class WorkerOrder(NamedTuple):
    """What the parent tells a worker."""

    store: str
    environment: str
    slot: int
    socket: int
    state: int
    parent: int
    hot: bool
    node: dict[str, Any]


class _Server(uvicorn.Server):
    """Uvicorn's server with an end that fails no request."""

    plane: Plane
    rpc: RpcServer | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, close each behind its next answer, and only then those that are idle.

        Uvicorn closes idle connections at once: a request that is on its way to one of them fails.
        """
        self.plane.draining = True
        rpc_ends = asyncio.create_task(self.rpc.stop()) if self.rpc else None
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + _DRAIN_S
        while self.server_state.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn tells no end
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if rpc_ends is not None:
            await rpc_ends


class Worker:
    """The loop of one worker."""

    def __init__(self, order: WorkerOrder) -> None:
        """Map the node's state; nothing is applied yet."""
        self.order = order
        self.store = Path(order.store)
        self.state = NodeState(order.state)
        token_file = order.node["token_file"]
        plan = msgspec.convert(order.node["log"], LogPlan)
        UPKEEP.memory_mb = order.node["child_memory_mb"]
        self.log = PredictionLog(plan, self.state.log_cells(order.slot))
        door = Door(read_token(Path(token_file)) if token_file else b"", order.node["name"])
        self.plane = Plane(self, self.log, door)
        self.shelf = Shelf(partial(room_of, order.node["memory"], order.node["workers"], order.parent))
        self._history = History(self.store / "run" / order.environment)
        self._compared = Compared(self.store / "run" / order.environment)
        self._marks: deque[_Mark] = deque(maxlen=_RECENT_S)
        self._worst: tuple[float, list[Burden]] = (0.0, [])
        self._refreshing = asyncio.Lock()
        self._retry_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._history_at = 0.0

    async def run(self) -> None:
        """Serve until a signal ends it."""
        config = uvicorn.Config(
            App(self.plane),
            log_level="warning",
            access_log=False,
            http=partial(HttpProtocol, self.plane, {}, hot=self.order.hot),  # type: ignore[arg-type]  # it makes a protocol
            ws="none",
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
        )
        server = _Server(config)
        server.plane = self.plane
        polling = asyncio.create_task(self._poll())
        listening = socket.socket(fileno=self.order.socket)
        server.rpc = self._listen_rpc()
        await self._first_look()
        if server.rpc is not None:
            await server.rpc.start()
        await server.serve(sockets=[listening])
        polling.cancel()
        self.log.finish()
        if self.plane.applied is not None:
            runs = [run.close() for several in self.plane.applied.runs.values() for run in several]
            await asyncio.gather(*(model.close() for model in self.plane.applied.releases), *runs)

    def _listen_rpc(self) -> RpcServer | None:
        """Listen for gRPC where that is declared; what connects waits until the first look was taken.

        It is imported here, behind the fork, and takes no memory elsewhere.
        """
        host, port = self.order.node["host"], self.order.node["grpc_port"]
        if not port:
            return None
        from modelmill.serving.rpc import RpcServer

        return RpcServer(self.plane, host, port)

    async def _first_look(self) -> None:
        """Map what is published before the first connection is taken: nobody waits for it then."""
        with suppress(ModelmillError):
            await self.refresh()

    async def _poll(self) -> None:
        told = ""
        while True:
            trouble = "; ".join(filter(None, (await self._trouble(), self.log.trouble)))
            if trouble and trouble != told:
                print(trouble, file=sys.stderr, flush=True)
            told = trouble
            self._report()
            await self._keep_history()
            await self.shelf.look()
            await self.log.flush()
            await asyncio.sleep(POLL_S)

    async def _trouble(self) -> str:
        """Look for a release and say what stands in its way; whatever it is, the node answers on and looks again."""
        try:
            await self.refresh()
        except ModelmillError as error:
            return f"{error.code} {error.what}"
        except Exception as error:  # noqa: BLE001 - a worker that stops looking would serve the old for ever
            return f"{type(error).__name__}: {error}"
        applied = self.plane.applied
        troubles = [*applied.broken.items(), *applied.unshadowed.items()] if applied else []
        return "; ".join(f"{name}: {why}" for name, why in troubles)

    async def refresh(self) -> None:
        """Apply what is published, when it is not applied already."""
        async with self._refreshing:
            published = find_published(pointers_of(self.store), self.order.environment)
            before = self.plane.applied
            if published is None or self._is_applied(published):
                return
            self.plane.applied = await apply(self.store, published, before, self.shelf)
            self._retry_at = time.monotonic() + RETRY_S
            if before is not None:
                await self._close_replaced(before, self.plane.applied)
        self._report()

    def _is_applied(self, published: Published) -> bool:
        applied = self.plane.applied
        if applied is None or applied.revision != published.revision:
            return applied is not None and applied.revision > published.revision
        return not (applied.unopened or applied.unshadowed) or time.monotonic() < self._retry_at

    async def _close_replaced(self, before: Applied, now: Applied) -> None:
        """Close what is no longer wanted, in a while; what its shadows counted is written down at once."""
        left = {run for runs in now.runs.values() for run in runs}
        ended = {name: [run for run in runs if run not in left] for name, runs in before.runs.items()}
        await self._keep_compared(ended)
        replaced: list[ServedModel | Run] = [*(before.releases - now.releases)]
        replaced += [run for runs in ended.values() for run in runs]
        if replaced:
            task = asyncio.create_task(self._close(replaced))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, replaced: list[ServedModel | Run]) -> None:
        """Close what was replaced, in a while, and give back its memory: releases refer to themselves in circles."""
        await asyncio.sleep(_GRACE_S)
        while replaced:
            with suppress(ModelmillError):
                await replaced.pop().close()
        await self._count_in()
        releases = self.plane.applied.releases if self.plane.applied else ()
        # An earlier version that is asked by its number counts as release 0.
        self.plane.meters.forget(
            {(one.header.model, number) for one in releases for number in (one.pointer.release, 0)}
        )
        gc.collect()
        await asyncio.to_thread(trim)

    # ---------------------------------------------------------------- what it counts

    def _report(self) -> None:
        """Write what this worker has applied and counted where all workers can read it."""
        applied, meters = self.plane.applied, self.plane.meters
        recent, window_s = self._recent()
        held = self.shelf.counts()
        state = WorkerState(
            pid=os.getpid(),
            revision=applied.revision if applied else -1,
            answered=meters.answered,
            refused=meters.refused,
            failed=meters.failed,
            models=len(applied.models) if applied else 0,
            opened=held.opened + (sum(model.opened for model in applied.models.values()) if applied else 0),
            window_ms=int(window_s * 1000),
            recent=recent,
            latencies=tuple(meters.latencies),
        )
        self.state.write(self.order.slot, state)
        self.state.write_children(self.order.slot, ChildCounts(UPKEEP.ended, UPKEEP.over_memory, UPKEEP.quarantined))
        self.state.write_refused(self.order.slot, refused)
        self.state.write_shelf(self.order.slot, held)
        self.state.write_broken(self.order.slot, len(applied.broken) if applied else 0)

    def _recent(self) -> tuple[tuple[int, ...], float]:
        """Return the latencies of about the last minute, and how long that was; one mark is kept a second."""
        now, counts = time.monotonic(), tuple(self.plane.meters.latencies)
        if not self._marks or now - self._marks[-1].at >= 1:
            self._marks.append(_Mark(now, counts))
        first = self._marks[0]
        return tuple(count - before for count, before in zip(counts, first.counts, strict=True)), now - first.at

    async def _keep_history(self) -> None:
        if time.monotonic() < self._history_at:
            return
        self._history_at = time.monotonic() + _HISTORY_S
        await self._count_in()
        if self.plane.applied is not None:
            await self._keep_compared(self.plane.applied.runs)

    async def _count_in(self) -> None:
        """Write down what segments were asked."""
        asked = self.plane.meters.take()
        if asked:
            await asyncio.to_thread(self._history.add, os.getpid(), asked)
        else:
            self._history.forget(time.time())

    async def _keep_compared(self, runs: Mapping[ModelName, Sequence[Run]]) -> None:
        """Write down what shadows have counted."""
        counted = list(taken(runs))
        if counted:
            await asyncio.to_thread(self._compared.add, os.getpid(), counted)

    async def compared(self) -> dict[str, list[dict[str, Any]]]:
        """Return what runs as a shadow of each model, and what became of the copies in the last hour."""
        self._history_at = 0.0
        await self._keep_history()
        runs = self.plane.applied.runs if self.plane.applied else {}
        return {name: [await self._of_run(name, run) for run in several] for name, several in runs.items()}

    async def _of_run(self, name: ModelName, run: Run) -> dict[str, Any]:
        since = time.time() - _COMPARED_S
        tally = await asyncio.to_thread(self._compared.whole, name, run.shadow.release, since)
        return {"release": run.shadow.release, "share": run.shadow.share} | tally.as_dict()

    async def history(self, model: str, segment: str, minutes: int) -> list[Point]:
        """Return what a segment was asked in the last minutes, the oldest first."""
        self._history_at = 0.0
        await self._keep_history()
        return await asyncio.to_thread(self._history.of, model, segment, time.time() - 60 * minutes)

    async def metrics(self) -> bytes:
        """Return the numbers of all workers in Prometheus' text format."""
        self._report()
        applied = self.plane.applied
        models = applied.models.items() if applied else ()
        facts = Facts(
            workers=self.state.read(),
            retired=self.state.retired(),
            log=self._log_facts(),
            refused=self.state.refused(),
            shelves=self.state.shelves(),
            declared=self.order.node["workers"],
            models={name: ModelFacts(model.pointer.release, len(model.map)) for name, model in models},
            broken=max(self.state.broken().values(), default=0),
            worst=await self._find_worst(),
            children=self.state.children(),
        )
        return exposition(facts)

    async def _find_worst(self) -> list[Burden]:
        """Return the segments that are worst off; looked for now and then, since it means a look at all of them."""
        now = time.monotonic()
        if now > self._worst[0]:
            found = await asyncio.to_thread(self._history.worst, WORST, time.time() - _WORST_S)
            self._worst = now + _WORST_EVERY_S, found
        return self._worst[1]

    def describe(self, *, memory: bool) -> dict[str, Any]:
        """Return what the node is, with all its workers, and their memory where that is asked: it takes a while."""
        self._report()
        workers, broken = self.state.read(), self.state.broken()
        recent = added(worker.recent for worker in workers)
        seconds = max((worker.window_ms for worker in workers), default=0) / 1000
        return self.order.node | {
            "recent": {
                "seconds": seconds,
                "requests_per_s": sum(recent) / seconds if seconds else 0.0,
                "p50_ms": _ms(quantile(recent, 0.5)),
                "p99_ms": _ms(quantile(recent, 0.99)),
            },
            "workers": [_described(worker, broken.get(worker.pid, 0), memory=memory) for worker in workers],
            "predictions": self._log_facts()._asdict(),
            "children": self.state.children()._asdict(),
            "refused": self.state.refused(),
            "graphs": self.state.shelves()._asdict(),
        }

    def _log_facts(self) -> LogFacts:
        living, retired = self.state.log_living(), self.state.log_retired()
        return LogFacts(living.written + retired.written, living.dropped + retired.dropped, retired.lost)


class _Mark(NamedTuple):
    """The latencies at one moment."""

    at: float
    counts: tuple[int, ...]


def _described(worker: WorkerState, broken: int, *, memory: bool) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "revision": worker.revision,
        "requests": worker.requests,
        "answered": worker.answered,
        "refused": worker.refused,
        "failed": worker.failed,
        "models": worker.models,
        "opened": worker.opened,
        "broken": broken,
        "memory_mb": _memory_mb(worker.pid) if memory else None,
    }


def _memory_mb(pid: int) -> float | None:
    taken = taken_by(pid)
    return None if taken is None else megabytes(taken.share)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 4)


def run_worker(order: WorkerOrder) -> None:
    """Serve as the parent ordered, in a process that was just forked from it."""
    threading.Thread(target=die_with, args=(order.parent,), daemon=True).start()

    async def serve() -> None:
        await Worker(order).run()

    with suppress(KeyboardInterrupt):
        uvloop.run(serve())
