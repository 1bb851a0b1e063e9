"""What a node answers besides predictions: its health, its numbers, and what its models are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qsl

from modelmill.errors import FieldInvalid, NodeNotReady, RouteUnknown
from modelmill.names import format_segment, parse_target
from modelmill.serving import protocol
from modelmill.serving.applied import Applied, Model
from modelmill.serving.calls import ASKED, MODEL, VERSION, Call, Reply, plain_target, reply_of
from modelmill.serving.history import Point
from modelmill.serving.metrics import CONTENT_TYPE


class Host(Protocol):
    """The worker for which a plane answers."""

    def describe(self, *, memory: bool) -> dict[str, Any]:
        """Return what the node is, with all its workers, and their memory where that is asked: it takes a while."""

    async def refresh(self) -> None:
        """Look for a new release at once."""

    async def metrics(self) -> bytes:
        """Return the numbers of all workers in Prometheus' text format."""

    async def history(self, model: str, segment: str, minutes: int) -> list[Point]:
        """Return what a segment was asked in the last minutes, the oldest first."""

    async def compared(self) -> dict[str, list[dict[str, Any]]]:
        """Return what runs as a shadow of each model, and what became of the copies in the last hour."""


class Served(Protocol):
    """What is served at the moment."""

    applied: Applied | None
    draining: bool

    def serving(self) -> Applied:
        """Return what is applied; raises `NodeNotReady` before anything is."""


class Pages:
    """Answers calls about a node and its models."""

    def __init__(self, host: Host, served: Served) -> None:
        """Take the worker that is asked about, and what is served."""
        self._host, self._served = host, served

    async def answer(self, call: Call) -> Reply:
        """Return the reply to a call; raises `RouteUnknown` for an address that there is not."""
        path = call.path.decode("ascii", "replace")
        for pattern, methods, handle in _ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if call.method not in methods:
                raise _wrong_method(call, path, methods)
            return await handle(self, call, *match.groups())
        raise RouteUnknown(f"there is no address `{path[:120]}`", expected="POST /MODEL, GET /MODEL/schema")

    # ---------------------------------------------------------------- the node

    async def live(self, _: Call) -> Reply:
        """Say that the process answers."""
        return reply_of({"live": True})

    async def ready(self, _: Call) -> Reply:
        """Say whether a release is applied."""
        self._served.serving()
        if self._served.draining:
            raise NodeNotReady("this worker is about to end", next="try again")
        return reply_of({"ready": True})

    async def server(self, _: Call) -> Reply:
        """Name the server, as V2 asks."""
        return reply_of({"name": "modelmill", "version": "2", "extensions": ["binary_tensor_data"]})

    async def node(self, call: Call) -> Reply:
        """Say what each worker has applied."""
        applied = self._served.applied
        models = applied.models if applied else {}
        facts = {name: {"release": m.pointer.release, "segments": len(m.map)} for name, m in models.items()}
        memory = b"memory" in call.query
        shadows = await self._host.compared() if applied and applied.runs else {}
        told = {"models": facts, "shadows": shadows, "broken": applied.broken if applied else {}}
        if applied and applied.unshadowed:
            told["unshadowed"] = applied.unshadowed
        return reply_of(self._host.describe(memory=memory) | told)

    async def refresh(self, _: Call) -> Reply:
        """Look for a new release now."""
        await self._host.refresh()
        return reply_of({"revision": self._served.applied.revision if self._served.applied else None})

    async def metrics(self, _: Call) -> Reply:
        """Tell Prometheus."""
        return Reply(200, await self._host.metrics(), ((b"content-type", CONTENT_TYPE),))

    async def history(self, call: Call, target: str) -> Reply:
        """Say what one segment was asked, minute by minute."""
        name, segment = parse_target(plain_target(target))
        minutes = dict(parse_qsl(call.query.decode("ascii", "replace"))).get("minutes", "60")
        if not minutes.isdecimal() or not 0 < int(minutes) <= _MOST_MINUTES:
            raise FieldInvalid(f"`minutes` is a number from 1 to {_MOST_MINUTES}", got=minutes[:40])
        self._served.serving().get(name)
        points = await self._host.history(name, format_segment(segment or ()), int(minutes))
        return reply_of({"model": name, "segment": format_segment(segment or ()), "minutes": points})

    # ---------------------------------------------------------------- about a model

    async def schema(self, _: Call, target: str) -> Reply:
        """Describe the fields of a request."""
        header = self._model(target).header
        fields = [{"name": c.name, "type": c.kind, "rule": c.rule(), "doc": c.doc} for c in header.spec.request_columns]
        return reply_of({"model": header.model, "doc": header.spec.doc, "fields": fields, "by": header.by})

    async def example(self, _: Call, target: str) -> Reply:
        """Return a request that the model accepts."""
        model = self._model(target)
        return reply_of(model.parser.example(model.header.example))

    async def model_metadata(self, _: Call, target: str, version: str | None) -> Reply:
        """Describe a model, as V2 asks."""
        return reply_of(protocol.metadata_of(await self._at(target, version)))

    async def model_ready(self, _: Call, target: str, version: str | None) -> Reply:
        """Say whether a model is served."""
        return reply_of({"name": (await self._at(target, version)).header.model, "ready": True})

    async def index(self, _: Call) -> Reply:
        """List the models, as Triton's clients ask."""
        models = self._served.serving().models.values()
        served = [
            {"name": m.header.model, "version": str(m.header.run), "state": "READY", "reason": ""} for m in models
        ]
        return reply_of(served)

    async def _at(self, target: str, version: str | None) -> Model:
        model = self._model(target)
        return await model.open_version(int(version)) if version else model

    def _model(self, target: str) -> Model:
        name, _ = parse_target(plain_target(target))
        return self._served.serving().get(name)


def _wrong_method(call: Call, path: str, methods: tuple[str, ...]) -> RouteUnknown:
    error = RouteUnknown(f"{call.method} is not possible at `{path[:120]}`", expected=" or ".join(methods))
    error.status = 405  # type: ignore[misc]  # the address exists, the method does not
    return error


_MOST_MINUTES = 24 * 60
Handler = Callable[..., Awaitable[Reply]]
_GET, _POST = ("GET", "HEAD"), ("POST",)
_ROUTES: list[tuple[re.Pattern[str], tuple[str, ...], Handler]] = [
    (re.compile(r"/v2/health/live"), _GET, Pages.live),
    (re.compile(r"/v2/health/ready"), _GET, Pages.ready),
    (re.compile(r"/(?:ping|health)"), _GET, Pages.ready),
    (re.compile(r"/v2/?"), _GET, Pages.server),
    (re.compile(r"/metrics"), _GET, Pages.metrics),
    (re.compile(r"/-/node"), _GET, Pages.node),
    (re.compile(rf"/-/history/{MODEL}"), _GET, Pages.history),
    (re.compile(r"/-/refresh"), _POST, Pages.refresh),
    (re.compile(rf"/v2/models/{MODEL}(?:/versions/{VERSION})?/ready"), _GET, Pages.model_ready),
    (re.compile(rf"/v2/models/{MODEL}(?:/versions/{VERSION})?"), _GET, Pages.model_metadata),
    (re.compile(r"/v2/repository/index"), _POST, Pages.index),
    (re.compile(rf"/{MODEL}/schema"), _GET, Pages.schema),
    (re.compile(rf"/{MODEL}/example"), _GET, Pages.example),
    # For their methods alone: a POST there asks a model, and never comes here.
    *((re.compile(pattern), _POST, Pages.schema) for pattern in ASKED),
]
