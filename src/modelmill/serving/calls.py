"""Requests and replies, as the transports hand them over and take them back."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from modelmill.errors import BodyTooLarge, BodyUnreadable, ModelmillError, NodeNotReady, PlatformError, TooMuchHeld
from modelmill.serving import protocol

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""
Pairs = tuple[tuple[bytes, bytes], ...]

MOST_BYTES = 32 << 20
MOST_HELD_BYTES = 256 << 20
"""How much of bodies a worker holds that arrive or wait; beyond that, those that are large are refused."""
LARGE_BYTES = 1 << 20
TIMEOUTS = frozenset({b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"})
"""How many milliseconds the caller waits: as a client says it, and as Envoy tells a server of its own accord."""
REQUEST_ID = b"x-request-id"
"""Answers that are logged tell the request's id in it; a caller may give its own."""
_USABLE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
CHANGING = frozenset({b"content-encoding", protocol.LENGTH_HEADER})
"""Headers that change what a body means."""
_encode = msgspec.json.Encoder().encode
_GZIP = 16 + zlib.MAX_WBITS
_WINDOWS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}


class Call(NamedTuple):
    """A request, complete."""

    method: str
    path: bytes
    """As it was sent, percent-encoded, without the query."""
    headers: Headers
    body: bytes
    query: bytes = b""
    request: bytes = b""
    """The id that the caller gave it."""
    until: float = 0.0
    """When the caller waits no more, as `waiting` has it; 0 where it did not say."""
    is_let_in: bool = False
    """Whether one with the same head was let in before: of its headers there are only those that say how the body is read."""

    def header(self, name: bytes) -> bytes | None:
        """Return a header, None where there is none."""
        for given, value in self.headers:
            if given == name:
                return value
        return None


class Reply(NamedTuple):
    """What is sent back."""

    status: int
    body: bytes
    headers: Pairs
    """Without content-length, which the transport adds."""
    request: bytes = b""
    """The request's id, where it is logged."""


JSON = ((b"content-type", b"application/json"),)
"""The headers of all answers but those in bytes."""


def reply_of(content: Any, status: int = 200) -> Reply:
    """Return a reply in JSON."""
    return Reply(status, _encode(content), JSON)


def refusal(error: Exception) -> Reply:
    """Return what is sent instead of an answer."""
    if isinstance(error, NodeNotReady):
        later = (b"retry-after", b"%d" % max(1, ceil(error.after_s)))
        return Reply(error.status, _encode(error.as_dict()), (*JSON, later))
    if isinstance(error, ModelmillError):
        return reply_of(error.as_dict(), error.status)
    failed = PlatformError(f"the node failed: {type(error).__name__}: {error}", next="see the node's log")
    return reply_of(failed.as_dict(), 500)


def body_of(call: Call) -> bytes:
    """Return the body, unpacked where it was packed; raises `BodyTooLarge` before it takes more than it may."""
    encoding = call.header(b"content-encoding")
    if encoding is None or encoding == b"identity":
        return call.body
    window = _WINDOWS.get(encoding.lower())
    if window is None:
        raise BodyUnreadable("the body has an unknown encoding", got=encoding.decode("latin-1")[:40], expected="gzip")
    unpacker = zlib.decompressobj(window)
    try:
        body = unpacker.decompress(call.body, MOST_BYTES)
    except zlib.error as error:
        raise BodyUnreadable("the body is not what its encoding says", got=str(error)[:120]) from None
    if unpacker.unconsumed_tail:
        raise too_large()
    if not unpacker.eof:
        raise BodyUnreadable("the body is cut off", expected=encoding.decode("latin-1"))
    return body


def usable_id(given: bytes) -> bytes:
    """Return a caller's id for its request, empty where it is none that can be logged and told again."""
    return given if _USABLE_ID.fullmatch(given) else b""


def timeout_of(given: bytes) -> float:
    """Return for how many seconds a caller waits; 0 where it said none that makes sense."""
    return int(given) / 1000 if given.isdigit() and len(given) < 10 else 0.0


def too_large(got: str = "") -> BodyTooLarge:
    """Return the refusal of a body that is too large."""
    return BodyTooLarge(f"a request has at most {MOST_BYTES >> 20} MiB", got=got)


def too_much_held(held: int, length: int) -> TooMuchHeld | None:
    """Return the refusal of a body of which so much has come, where bodies of so many bytes are held; None where it may."""
    if held <= MOST_HELD_BYTES or length <= LARGE_BYTES:
        return None
    return TooMuchHeld("too many large requests are arriving at once", next="try again")


def plain_target(target: str) -> str:
    """Return a target as it was written before it was put into an address.

    A client that encodes addresses encodes the bracket, too. Where it stands plain, nothing was encoded but the values.
    """
    return target if "[" in target else unquote(target)


MODEL = r"([^/]{1,2000}?)"
VERSION = r"(?P<version>[1-9][0-9]{0,8})"
"""How a model and a version stand in an address."""
INFER = rf"/v2/models/{MODEL}(?:/versions/{VERSION})?/infer"
PREDICT = rf"/{MODEL}(?:@{VERSION})?"
INVOCATIONS = rf"/invocations/{MODEL}(?:@{VERSION})?"
MODEL_INVOCATIONS = rf"/models/{MODEL}(?:@{VERSION})?/invocations"
ASKED = (INFER, PREDICT, INVOCATIONS, MODEL_INVOCATIONS)
"""The addresses by which models are asked, all by POST."""
