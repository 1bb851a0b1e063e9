"""One worker of a node: uvicorn over the inherited socket, and a look at the published pointer now and then."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
import uvloop

from modelmill.compute.worker import die_with
from modelmill.errors import ModelmillError
from modelmill.release.pointers import Published, find_published
from modelmill.serving.app import App
from modelmill.serving.applied import Applied, apply
from modelmill.serving.http import HttpProtocol
from modelmill.serving.plane import Plane
from modelmill.serving.state import NodeState, WorkerState
from modelmill.store.blobs import pointers_of

POLL_S = 0.25
_GRACE_S = 5.0
"""How long what was replaced lives on for the requests that found it just before."""
_RETRY_S = 5.0
"""After how long a model that could not be opened is tried again: a file may have come back."""
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, close each behind its next answer, and only then those that are idle.

        Uvicorn closes idle connections at once: a request that is on its way to one of them fails.
        """
        self.plane.draining = True
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + _DRAIN_S
        while self.server_state.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn tells no end
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class Worker:
    """The loop of one worker."""

    def __init__(self, order: WorkerOrder) -> None:
        """Map the node's state; nothing is applied yet."""
        self.order = order
        self.store = Path(order.store)
        self.state = NodeState(order.state)
        self.plane = Plane(self._describe, self.refresh)
        self._refreshing = asyncio.Lock()
        self._retry_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until a signal ends it."""
        config = uvicorn.Config(
            App(self.plane),
            log_level="warning",
            access_log=False,
            http=partial(HttpProtocol, self.plane, hot=self.order.hot),  # type: ignore[arg-type]  # it makes a protocol
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
        await self._first_look()
        await server.serve(sockets=[listening])
        polling.cancel()
        if self.plane.applied is not None:
            await asyncio.gather(*(model.close() for model in self.plane.applied.models.values()))

    async def _first_look(self) -> None:
        """Map what is published before the first connection is taken: nobody waits for it then."""
        with suppress(ModelmillError):
            await self.refresh()

    async def _poll(self) -> None:
        told = ""
        while True:
            trouble = await self._trouble()
            if trouble and trouble != told:
                print(trouble, file=sys.stderr, flush=True)
            told = trouble
            self._report()
            await asyncio.sleep(POLL_S)

    async def _trouble(self) -> str:
        """Look for a release and say what stands in its way; whatever it is, the node answers on and looks again."""
        try:
            await self.refresh()
        except ModelmillError as error:
            return f"{error.code} {error.what}"
        except Exception as error:  # noqa: BLE001 - a worker that stops looking would serve the old for ever
            return f"{type(error).__name__}: {error}"
        broken = self.plane.applied.broken if self.plane.applied else {}
        return "; ".join(f"{name}: {why}" for name, why in broken.items())

    async def refresh(self) -> None:
        """Apply what is published, when it is not applied already."""
        async with self._refreshing:
            published = find_published(pointers_of(self.store), self.order.environment)
            before = self.plane.applied
            if published is None or self._is_applied(published):
                return
            self.plane.applied = await apply(self.store, published, before)
            self._retry_at = time.monotonic() + _RETRY_S
        self._report()
        if before is not None:
            self._close_later(before, self.plane.applied)

    def _is_applied(self, published: Published) -> bool:
        applied = self.plane.applied
        if applied is None or applied.revision != published.revision:
            return applied is not None and applied.revision > published.revision
        return not applied.broken or time.monotonic() < self._retry_at

    def _close_later(self, before: Applied, now: Applied) -> None:
        replaced = [model for name, model in before.models.items() if now.models.get(name) is not model]
        if replaced:
            task = asyncio.create_task(_close(replaced))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _report(self) -> None:
        applied = self.plane.applied
        revision, models = (applied.revision, len(applied.models)) if applied else (-1, 0)
        state = WorkerState(os.getpid(), revision, self.plane.requests, self.plane.errors, models)
        self.state.write(self.order.slot, state)

    def _describe(self) -> dict[str, Any]:
        self._report()
        return self.order.node | {"workers": [state._asdict() for state in self.state.read()]}


async def _close(replaced: list[Any]) -> None:
    await asyncio.sleep(_GRACE_S)
    for model in replaced:
        with suppress(ModelmillError):
            await model.close()


def run_worker(order: WorkerOrder) -> None:
    """Serve as the parent ordered, in a process that was just forked from it."""
    threading.Thread(target=die_with, args=(order.parent,), daemon=True).start()

    async def serve() -> None:
        await Worker(order).run()

    with suppress(KeyboardInterrupt):
        uvloop.run(serve())
