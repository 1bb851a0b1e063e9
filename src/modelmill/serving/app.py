"""A node as one plain ASGI callable: it reads a request to its end, within limits, and sends what the plane answers.

It takes whatever the hot path in `http` does not, and is its oracle: for the same request both send the same bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from modelmill.errors import BodyUnreadable, ModelmillError
from modelmill.serving.calls import (
    MOST_BYTES,
    REQUEST_ID,
    TIMEOUTS,
    Call,
    Reply,
    refusal,
    timeout_of,
    too_large,
    usable_id,
)
from modelmill.serving.plane import Plane
from modelmill.serving.waiting import now

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class App:
    """Speaks ASGI for a plane."""

    def __init__(self, plane: Plane) -> None:
        """Take what answers."""
        self._plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            return
        reply = await self._reply(scope, receive)
        told = [(REQUEST_ID, reply.request)] if reply.request else []
        headers = [*reply.headers, *told, (b"content-length", b"%d" % len(reply.body))]
        if self._plane.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        until, length = _until(scope), _length(scope)
        refused = self._plane.refused(path, length or 0, until) if scope["method"] == "POST" else None
        if refused is not None:
            return refused
        try:
            body = await _read(receive, length) if scope["method"] == "POST" else b""
        except ModelmillError as error:
            return refusal(error)
        query, given = scope.get("query_string", b""), _given_id(scope)
        call = Call(scope["method"], path, scope["headers"], body, query, given, until)
        return await self._plane.respond(call)


def _until(scope: Scope) -> float:
    waits_s = max((timeout_of(value) for name, value in scope["headers"] if name in TIMEOUTS), default=0.0)
    return now() + waits_s if waits_s else 0.0


def _given_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == REQUEST_ID:
            return usable_id(value)
    return b""


async def _read(receive: Receive, length: int | None) -> bytes:
    if length is not None and length > MOST_BYTES:
        raise too_large(f"{length} bytes")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyUnreadable("the connection was closed before the body was complete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise too_large()
    return bytes(body)


def _length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
