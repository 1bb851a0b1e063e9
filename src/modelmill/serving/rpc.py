"""A node over gRPC: the Open Inference Protocol, version 2, answered by the same plane as over HTTP.

Imported in a worker alone, and only where `[serve] grpc_port` is set: gRPC has threads, and a parent with threads cannot
fork. Each worker listens for itself at the port that the parent has reserved; the system spreads connections over them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError

from modelmill.errors import BodyUnreadable
from modelmill.serving.calls import (
    MOST_BYTES,
    REQUEST_ID,
    Call,
    Reply,
    refusal,
    too_much_held,
    usable_id,
)
from modelmill.serving.messages import MESSAGES, SERVICE
from modelmill.serving.plane import Plane
from modelmill.serving.protocol import LENGTH_HEADER
from modelmill.serving.tensors import address_of, body_of, response_of
from modelmill.serving.waiting import now

CODE = "modelmill-code"
"""The code of an error, such as MM203, in the trailing metadata."""
_GRACE_S = 10.0
_MOST_CALLS = 256
"""How many calls a worker has at a time; beyond that they are refused, since each may hold a whole message."""
_OPTIONS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_send_message_length", -1),
]
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    421: grpc.StatusCode.PERMISSION_DENIED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The status of a refusal over HTTP, and here; what is not named is INTERNAL."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode
Method = Callable[["Calls", Any, Any], Awaitable[Any]]


class Calls:
    """Answers remote calls for a plane."""

    def __init__(self, plane: Plane) -> None:
        """Take what answers."""
        self._plane = plane

    async def live(self, _request: Any, context: Any) -> Any:
        """Say that the process answers."""
        reply = await self._get(b"/v2/health/live", context)
        return MESSAGES["ServerLiveResponse"](live=reply.status == 200)

    async def ready(self, _request: Any, context: Any) -> Any:
        """Say whether a release is applied."""
        reply = await self._get(b"/v2/health/ready", context)
        return MESSAGES["ServerReadyResponse"](ready=reply.status == 200)

    async def model_ready(self, request: Any, context: Any) -> Any:
        """Say whether a model is served; one that there is not is not ready, and no error, as for HTTP's clients."""
        reply = await self._get(address_of(request.name, request.version, "/ready"), context)
        if reply.status not in (200, 404, 503):
            await _abort(context, reply)
        return MESSAGES["ModelReadyResponse"](ready=reply.status == 200)

    async def metadata(self, _request: Any, context: Any) -> Any:
        """Name the server; the extension of bytes behind JSON is none here, where all tensors may be bytes."""
        told = await self._told(b"/v2", context)
        return MESSAGES["ServerMetadataResponse"](name=told["name"], version=told["version"])

    async def model_metadata(self, request: Any, context: Any) -> Any:
        """Describe a model."""
        return MESSAGES["ModelMetadataResponse"](**await self._told(address_of(request.name, request.version), context))

    async def infer(self, request: Any, context: Any) -> Any:
        """Answer an inference request, counted and logged as it is over HTTP."""
        path = address_of(request.model_name, request.model_version, "/infer")
        left_s = context.time_remaining()
        until = now() + left_s if left_s is not None else 0.0
        refused = self._plane.refused(path, request.ByteSize(), until)
        if refused is not None:
            await _abort(context, refused)
        body, json_bytes = body_of(request)
        headers = _headers(context)
        given = usable_id(headers.pop(REQUEST_ID, b""))
        headers[LENGTH_HEADER] = b"%d" % json_bytes
        call = Call("POST", path, tuple(headers.items()), body, request=given, until=until)
        # Shielded: a client that gives up ends no answer halfway, as it does not over HTTP.
        reply = self._plane.now(call, is_plain=False)
        if reply is None:
            reply = await asyncio.shield(self._plane.respond(call))
        if reply.request:
            context.set_trailing_metadata(((REQUEST_ID.decode(), reply.request.decode()),))
        if reply.status != 200:
            await _abort(context, reply)
        length = dict(reply.headers)[LENGTH_HEADER]
        return response_of(reply.body, int(length), raw=bool(request.raw_input_contents))

    async def _get(self, path: bytes, context: Any) -> Reply:
        return await self._plane.respond(Call("GET", path, tuple(_headers(context).items()), b""))

    async def _told(self, path: bytes, context: Any) -> dict[str, Any]:
        reply = await self._get(path, context)
        if reply.status != 200:
            await _abort(context, reply)
        return _decode(reply.body)


_PASSED = frozenset({"authorization", REQUEST_ID.decode()})
"""The metadata that mean what the headers of that name mean."""


def _headers(context: Any) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in context.invocation_metadata() or () if name in _PASSED}


async def _abort(context: Any, reply: Reply) -> None:
    """End a call with the refusal that HTTP would have sent: its code and its sentence first, its parts behind them."""
    told = _decode(reply.body)
    code, sentence = told.pop("code"), told.pop("error")
    parts = [f"{name}: {text}" for name, text in told.items()]
    later = [(name.decode(), value.decode()) for name, value in reply.headers if name == b"retry-after"]
    trailing = (*(context.trailing_metadata() or ()), (CODE, code), *later)
    status = _CODES.get(reply.status, grpc.StatusCode.INTERNAL)
    await context.abort(status, "\n".join([f"{code} {sentence}", *parts]), trailing)


_METHODS: dict[str, Method] = {
    "ServerLive": Calls.live,
    "ServerReady": Calls.ready,
    "ModelReady": Calls.model_ready,
    "ServerMetadata": Calls.metadata,
    "ModelMetadata": Calls.model_metadata,
    "ModelInfer": Calls.infer,
}
"""What is answered; any other method, such as those of Triton alone, is UNIMPLEMENTED."""


def _handler(plane: Plane, calls: Calls, name: str, method: Method) -> Any:
    read = MESSAGES[f"{name}Request"].FromString

    async def answer(content: bytes, context: Any) -> bytes:
        full = too_much_held(plane.held + len(content), len(content))
        if full is not None:
            await _abort(context, refusal(full))
        plane.held += len(content)
        try:
            return await answer_held(content, context)
        finally:
            plane.held -= len(content)

    async def answer_held(content: bytes, context: Any) -> bytes:
        try:
            request = read(content)
        except DecodeError as error:  # gRPC's own way would be UNKNOWN, and a traceback in the log
            await _abort(context, refusal(BodyUnreadable(f"this is no {name}Request", got=str(error)[:120])))
        try:
            found: bytes = (await method(calls, request, context)).SerializeToString()
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the border, as the plane's: no call may see a traceback
            await _abort(context, refusal(error))
        return found

    return grpc.unary_unary_rpc_method_handler(answer)


class RpcServer:
    """Listens for remote calls."""

    def __init__(self, plane: Plane, host: str, port: int) -> None:
        """Take what answers, and where to listen; port 0 takes a free one. Made in the loop that serves."""
        calls = Calls(plane)
        handlers = {name: _handler(plane, calls, name, method) for name, method in _METHODS.items()}
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port: int = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls, and return when those under way are answered."""
        await self._server.stop(_GRACE_S)
