"""The routes of a node as one plain ASGI callable. Whatever is refused is a 4xx whose JSON names the field."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from modelmill.errors import (
    BodyTooLarge,
    BodyUnreadable,
    FieldInvalid,
    ModelmillError,
    NodeNotReady,
    PlatformError,
    RouteUnknown,
)
from modelmill.names import format_segment, parse_target
from modelmill.serving import protocol
from modelmill.serving.applied import Applied, ServedModel, describe_answer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BYTES = 32 << 20
MOST_ROWS = 100_000
_JSON = [(b"content-type", b"application/json")]


class Reply(NamedTuple):
    """What is sent back."""

    status: int
    body: Any


class Request(NamedTuple):
    """A request whose body is not read yet."""

    method: str
    path: str
    receive: Receive
    length: int | None


class App:
    """Answers requests with what is applied at that moment."""

    def __init__(self, node: Callable[[], dict[str, Any]], refresh: Callable[[], Awaitable[None]]) -> None:
        """Take what describes the node, and what looks for a new release at once."""
        self.applied: Applied | None = None
        self.requests = 0
        self.errors = 0
        self._describe_node, self._refresh = node, refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            return
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        request = Request(scope["method"], raw.decode("ascii", "replace").split("?")[0], receive, _length(scope))
        reply = await self._reply(request)
        if request.method == "POST":  # what asks for answers; health checks would drown them
            self.requests += 1
            self.errors += reply.status >= 500
        body = msgspec.json.encode(reply.body)
        headers = [*_JSON, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})

    async def _reply(self, request: Request) -> Reply:
        try:
            return await self._route(request)
        except ModelmillError as error:
            return Reply(error.status, error.as_dict())
        except Exception as error:  # noqa: BLE001 - the border: no request may see a traceback
            failed = PlatformError(f"the node failed: {type(error).__name__}: {error}", next="see the node's log")
            return Reply(500, failed.as_dict())

    async def _route(self, request: Request) -> Reply:
        for pattern, methods, handle in _ROUTES:
            match = pattern.fullmatch(request.path)
            if match is None:
                continue
            if request.method not in methods:
                raise _wrong_method(request, methods)
            return await handle(self, request, *match.groups())
        raise RouteUnknown(f"there is no address `{request.path[:120]}`", expected="POST /MODEL, GET /MODEL/schema")

    def _serving(self) -> Applied:
        if self.applied is None:
            raise NodeNotReady("this node has not applied a release yet", next="try again in a second")
        return self.applied

    # ---------------------------------------------------------------- the node

    async def live(self, _: Request) -> Reply:
        """Say that the process answers."""
        return Reply(200, {"live": True})

    async def ready(self, _: Request) -> Reply:
        """Say whether a release is applied."""
        self._serving()
        return Reply(200, {"ready": True})

    async def server(self, _: Request) -> Reply:
        """Name the server, as V2 asks."""
        return Reply(200, {"name": "modelmill", "version": "2", "extensions": []})

    async def node(self, _: Request) -> Reply:
        """Say what each worker has applied."""
        models = self.applied.models if self.applied else {}
        facts = {name: {"release": m.pointer.release, "segments": len(m.map)} for name, m in models.items()}
        return Reply(
            200, self._describe_node() | {"models": facts, "broken": self.applied.broken if self.applied else {}}
        )

    async def refresh(self, _: Request) -> Reply:
        """Look for a new release now."""
        await self._refresh()
        return Reply(200, {"revision": self.applied.revision if self.applied else None})

    # ---------------------------------------------------------------- a model

    async def predict(self, request: Request, target: str) -> Reply:
        """Answer an object with one answer, a list of objects with a list of answers."""
        name, segment = parse_target(_plain(target))
        body = await _read_json(request)
        model = self._serving().get(name)  # only now: a slow sender is answered by what is released by then
        objects = body if isinstance(body, list) else [body]
        if segment is not None:
            objects = [_with_segment(model, segment, item) for item in objects]
        answers = [describe_answer(model, answer) for answer in await model.answer(_limited(objects))]
        return Reply(200, answers if isinstance(body, list) else answers[0])

    async def schema(self, _: Request, target: str) -> Reply:
        """Describe the fields of a request."""
        header = self._model(target).header
        fields = [{"name": c.name, "type": c.kind, "rule": c.rule(), "doc": c.doc} for c in header.spec.request_columns]
        return Reply(200, {"model": header.model, "doc": header.spec.doc, "fields": fields, "by": header.by})

    async def example(self, _: Request, target: str) -> Reply:
        """Return a request that the model accepts."""
        model = self._model(target)
        return Reply(200, model.parser.example(model.header.example))

    async def model_metadata(self, _: Request, target: str) -> Reply:
        """Describe a model, as V2 asks."""
        return Reply(200, protocol.metadata_of(self._model(target)))

    async def model_ready(self, _: Request, target: str) -> Reply:
        """Say whether a model is served."""
        return Reply(200, {"name": self._model(target).header.model, "ready": True})

    async def infer(self, request: Request, target: str) -> Reply:
        """Answer an inference request, as V2 asks."""
        name, segment = parse_target(_plain(target))
        body = await _read_json(request)
        model = self._serving().get(name)
        objects = protocol.rows_of(body)
        if segment is not None:
            objects = [_with_segment(model, segment, item) for item in objects]
        answers = await model.answer(_limited(objects))
        return Reply(200, protocol.reply_of(model, answers, body.get("id")))

    def _model(self, target: str) -> ServedModel:
        name, _ = parse_target(_plain(target))
        return self._serving().get(name)


def _with_segment(model: ServedModel, segment: tuple[str, ...], item: Any) -> Any:
    """Return a row with the keys that its address names, typed as the schema says."""
    if not isinstance(item, dict) or not segment:
        return item
    if len(segment) != len(model.header.by):
        expected = f"{model.header.model}[{','.join(model.header.by)}]"
        raise BodyUnreadable(f"`{format_segment(segment)}` is no segment of this model", expected=expected)
    kinds = {column.name: column.kind for column in model.header.spec.keys}
    keys = {name: _typed(kinds[name], text) for name, text in zip(model.header.by, segment, strict=True)}
    for name, value in keys.items():
        if item.get(name, value) != value:
            raise FieldInvalid(
                f"field `{name}` differs from the address", expected=repr(value)[:80], got=repr(item[name])[:80]
            )
    return keys | item


def _typed(kind: str, text: str) -> Any:
    if kind == "int" and re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    return text == "true" if kind == "bool" and text in ("true", "false") else text


def _plain(target: str) -> str:
    # Brackets and commas may come percent-encoded; what is encoded inside a value stays so until it is split.
    return re.sub(
        r"%5b",
        "[",
        re.sub(r"%5d", "]", re.sub(r"%2c", ",", target, flags=re.IGNORECASE), flags=re.IGNORECASE),
        flags=re.IGNORECASE,
    )


def _limited(objects: list[Any]) -> list[Any]:
    if not objects or len(objects) > MOST_ROWS:
        raise BodyUnreadable(f"a request has 1 to {MOST_ROWS} rows", got=str(len(objects)))
    return objects


async def _read_json(request: Request) -> Any:
    body = bytearray()
    if request.length is not None and request.length > MOST_BYTES:
        raise BodyTooLarge(f"a request has at most {MOST_BYTES >> 20} MiB", got=f"{request.length} bytes")
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise BodyUnreadable("the connection was closed before the body was complete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise BodyTooLarge(f"a request has at most {MOST_BYTES >> 20} MiB")
    try:
        return msgspec.json.decode(bytes(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BodyUnreadable("the body is not valid JSON", got=str(error)[:200]) from None


def _length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


def _wrong_method(request: Request, methods: tuple[str, ...]) -> RouteUnknown:
    error = RouteUnknown(f"{request.method} is not possible at `{request.path[:120]}`", expected=" or ".join(methods))
    error.status = 405  # type: ignore[misc]  # the address exists, the method does not
    return error


Handler = Callable[..., Awaitable[Reply]]
_GET, _POST = ("GET", "HEAD"), ("POST",)
_MODEL = r"([^/]{1,2000})"
_ROUTES: list[tuple[re.Pattern[str], tuple[str, ...], Handler]] = [
    (re.compile(r"/v2/health/live"), _GET, App.live),
    (re.compile(r"/v2/health/ready"), _GET, App.ready),
    (re.compile(r"/v2/?"), _GET, App.server),
    (re.compile(r"/-/node"), _GET, App.node),
    (re.compile(r"/-/refresh"), _POST, App.refresh),
    (re.compile(rf"/v2/models/{_MODEL}/ready"), _GET, App.model_ready),
    (re.compile(rf"/v2/models/{_MODEL}/infer"), _POST, App.infer),
    (re.compile(rf"/v2/models/{_MODEL}"), _GET, App.model_metadata),
    (re.compile(rf"/{_MODEL}/schema"), _GET, App.schema),
    (re.compile(rf"/{_MODEL}/example"), _GET, App.example),
    (re.compile(rf"/{_MODEL}"), _POST, App.predict),
]
