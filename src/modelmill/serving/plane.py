"""What a node answers: every address, its handler, and the one place where whatever is refused becomes a 4xx in JSON.

Transports know nothing of models: they hand over a `Call` and send a `Reply`. Two of them share this: the hot path in
`http`, which asks `now`, and plain ASGI in `app`, which awaits `respond`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Awaitable, Callable, Sequence
from hmac import compare_digest
from time import perf_counter
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from modelmill.errors import (
    BodyTooLarge,
    BodyUnreadable,
    FieldInvalid,
    ModelmillError,
    NodeNotReady,
    PlatformError,
    RouteUnknown,
    TokenRefused,
)
from modelmill.model.request import read_json
from modelmill.names import Segment, format_segment, parse_target
from modelmill.serving import invocations, protocol
from modelmill.serving.applied import Answered, Applied, ServedModel, describe_answers
from modelmill.serving.history import Point
from modelmill.serving.log import PredictionLog, as_logged
from modelmill.serving.meters import Meters
from modelmill.serving.metrics import CONTENT_TYPE
from modelmill.serving.quick import Choice, Found, Quick

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""
Pairs = tuple[tuple[bytes, bytes], ...]

MOST_BYTES = 32 << 20
REQUEST_ID = b"x-request-id"
"""Answers that are logged tell the request's id in it; a caller may give its own."""
_USABLE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
CHANGING = frozenset({b"content-encoding", protocol.LENGTH_HEADER})
"""Headers that change what a body means."""
_OPEN = frozenset({b"/v2/health/live", b"/v2/health/ready"})
"""Addresses that need no token: a load balancer has none."""
_MOST_TARGETS = 100_000
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


def _reply(content: Any, status: int = 200) -> Reply:
    return Reply(status, _encode(content), JSON)


class Target(NamedTuple):
    """What an address names: how a model is asked, which, and the segment in the address."""

    ask: Callable[[Plane, Target, Call], Question]
    model: ServedModel
    segment: Segment | None
    quick: Callable[[bytes, Segment | None, Choice | None], Found | None] | None
    """The quick way, where the model has one."""
    here: Choice | None = None
    """What answers for the segment in the address."""
    opens: int = 0
    """The version that has to be opened first; 0 where it is open."""


class Question(NamedTuple):
    """A request that was read: what the model is asked, and how its answer is told."""

    batch: Any
    tell: Callable[[Answered], Reply]


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


class Plane:
    """Answers calls with what is applied at that moment."""

    def __init__(self, host: Host, log: PredictionLog, token: bytes = b"") -> None:
        """Take the worker that it answers for, where predictions are logged, and the token that requests must carry."""
        self._log = log
        self._authorization = b"Bearer " + token if token else b""
        self.applied: Applied | None = None
        self.meters = Meters()
        self.draining = False
        """Whether the worker is about to end: it is not ready, and closes each connection behind its answer."""
        self._host = host
        self._targets: dict[bytes, Target] = {}
        self._targets_of: Applied | None = None
        self._quick: dict[ServedModel, Quick] = {}

    # ---------------------------------------------------------------- the two ways in

    def quick(self, path: bytes, headers: Headers, body: bytes) -> tuple[bytes, bytes] | None:
        """Return the body of an answer, all of whose headers are the usual ones, and the request's id.

        None for `now` to look closer.

        The hottest lines of the node: an address that was asked before, and one row that is valid.
        """
        target = self._targets.get(path)
        if target is None or target.quick is None or self._targets_of is not self.applied:
            return None
        if self._authorization and not self._is_allowed(headers):
            return None
        began = perf_counter()
        found = target.quick(body, target.segment, target.here)
        return None if found is None else (found.body, self._count(found, began))

    def _count(self, found: Found, began: float, given: bytes = b"") -> bytes:
        """Count and log an answer of the quick way; return the request's id."""
        seconds, choice = perf_counter() - began, found.choice
        self.meters.count_answer(seconds, choice.meter)
        if not choice.share:
            return b""
        return self._log.keep(choice.answerer, choice.share, (began, seconds, found.inputs, found.numbers), given)

    def now(self, call: Call, *, is_plain: bool) -> Reply | None:
        """Return the reply to a POST that needs nothing but this process; None where it needs more.

        `is_plain` says that no header changes what the body means.
        """
        began = perf_counter()
        try:
            self._check_token(call)
            target = self._target(call)
            if target is None or target.opens or not target.model.is_packed or self._log.waits:
                return None
            found = target.quick(call.body, target.segment, target.here) if is_plain and target.quick else None
            if found is not None:
                return Reply(200, found.body, JSON, self._count(found, began, call.request))
            question = target.ask(self, target, call)
            answered = target.model.answer_now(question.batch)
            reply = question.tell(answered)
        except Exception as error:  # noqa: BLE001 - the border: no request may see a traceback
            reply = refusal(error)
            self.meters.count(reply.status, perf_counter() - began)
            return reply
        return self._counted(reply, call, target.model, answered, began)

    def _counted(self, reply: Reply, call: Call, model: ServedModel, answered: Answered, began: float) -> Reply:
        """Count and log an answer of the general way; return it with the request's id."""
        seconds = perf_counter() - began
        self.meters.count(reply.status, seconds, answered.about(model.header.model))
        share = self._log.share(model.header.model)
        if not share:
            return reply
        parts = [
            (as_logged(who), (began, seconds, inputs, numbers), rows)
            for who, inputs, numbers, rows in answered.logged(model)
        ]
        return reply._replace(request=self._log.keep_parts(parts, share, call.request))

    async def respond(self, call: Call) -> Reply:
        """Return the reply to a call."""
        began = perf_counter()
        try:
            self._check_token(call)
            target = self._target(call) if call.method == "POST" else None
            if target is not None:
                return await self._answer(call, target, began)
            reply = await self._route(call)
        except Exception as error:  # noqa: BLE001 - the border: no request may see a traceback
            reply = refusal(error)
        if call.method == "POST":  # what asks for answers; health checks would drown them
            self.meters.count(reply.status, perf_counter() - began)
        return reply

    async def _answer(self, call: Call, target: Target, began: float) -> Reply:
        if target.opens:
            target = await self._opened(call, target)
        question = target.ask(self, target, call)
        answered = await target.model.answer(question.batch)
        reply = self._counted(question.tell(answered), call, target.model, answered, began)
        if self._log.waits:
            await self._log.settled()
        return reply

    async def _route(self, call: Call) -> Reply:
        path = call.path.decode("ascii", "replace")
        for pattern, methods, handle in _ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if call.method not in methods:
                raise _wrong_method(call, path, methods)
            return await handle(self, call, *match.groups())
        raise RouteUnknown(f"there is no address `{path[:120]}`", expected="POST /MODEL, GET /MODEL/schema")

    def _check_token(self, call: Call) -> None:
        if self._authorization and call.path not in _OPEN and not self._is_allowed(call.headers):
            raise TokenRefused("this node asks for its token", expected="the header `Authorization: Bearer TOKEN`")

    def _is_allowed(self, headers: Headers) -> bool:
        return any(name == b"authorization" and compare_digest(value, self._authorization) for name, value in headers)

    def _serving(self) -> Applied:
        if self.applied is None:
            raise NodeNotReady("this node has not applied a release yet", next="try again in a second")
        return self.applied

    # ---------------------------------------------------------------- asking a model

    def _target(self, call: Call) -> Target | None:
        """Return what an address to ask names, None for an address that is none."""
        if self._targets_of is not self.applied or len(self._targets) > _MOST_TARGETS:
            self._targets, self._targets_of = {}, self.applied
            served = set(self.applied.models.values()) if self.applied else set()
            self._quick = {model: quick for model, quick in self._quick.items() if model in served}
        target = self._targets.get(call.path)
        if target is None:
            target = self._find_target(call.path.decode("ascii", "replace"))
            if target is not None:
                self._targets[call.path] = target
        return target

    def _find_target(self, path: str) -> Target | None:
        for pattern, ask, quick in _ASKING:
            match = pattern.fullmatch(path)
            if match is not None:
                name, segment = parse_target(_plain(match[1]))
                model = self._serving().get(name)
                if segment:
                    model.parser.keys_of(segment)
                version = int(match["version"] or 0)
                opened = model.versions.get(version) if version not in (0, model.header.run) else model
                target = Target(ask, opened or model, segment, None, opens=0 if opened else version)
                return self._with_quick_way(target, quick)
        return None

    def _with_quick_way(self, target: Target, quick: str) -> Target:
        way = None if target.opens or not quick or self._log.waits else self._quick_way(target.model)
        return target._replace(quick=getattr(way, quick), here=way.choice_at(target.segment)) if way else target

    async def _opened(self, call: Call, target: Target) -> Target:
        """Return a target once its version is open; the next call finds it so."""
        model = await target.model.open_version(target.opens)
        self._targets.pop(call.path, None)
        return target._replace(model=model, opens=0)

    def _quick_way(self, model: ServedModel) -> Quick | None:
        """Return the quick way to a model's single answers, where all of them are given in this process."""
        if not model.is_packed:
            return None
        share = self._log.share(model.header.model)
        return self._quick.get(model) or self._quick.setdefault(model, Quick(model, self.meters, share))

    def predict(self, target: Target, call: Call) -> Question:
        """Read an object or a list of objects, to be answered by one answer or a list of answers."""
        model = target.model
        batch, is_list = model.parser.read(_body(call), target.segment)
        _check_count(len(batch))

        def tell(answered: Answered) -> Reply:
            told = describe_answers(model, answered)
            return _reply(told if is_list else told[0])

        return Question(batch, tell)

    def infer(self, target: Target, call: Call) -> Question:
        """Read an inference request, as V2 asks."""
        model = target.model
        request, behind = protocol.read_request(_body(call), _json_bytes(call))
        batch = protocol.batch_of(model, request, behind, target.segment)

        def tell(answered: Answered) -> Reply:
            reply = protocol.reply_to(model, request, answered)
            if not reply.json_bytes:
                return Reply(200, reply.body, JSON)
            length = str(reply.json_bytes).encode()
            content = (b"content-type", b"application/octet-stream")
            return Reply(200, reply.body, (content, (protocol.LENGTH_HEADER, length)))

        return Question(batch, tell)

    def invoke(self, target: Target, call: Call) -> Question:
        """Read a request as MLflow's scoring servers take it; the answer has `predictions`, one a row."""
        model = target.model
        rows = invocations.rows_of(read_json(_body(call)))
        rows = [model.parser.with_segment(target.segment, row) for row in rows] if target.segment else rows
        _check_count(len(rows))

        def tell(answered: Answered) -> Reply:
            return _reply({"predictions": invocations.predictions(model.header.labels, answered.numbers())})

        return Question(model.parser.batch(rows), tell)

    # ---------------------------------------------------------------- the node

    async def live(self, _: Call) -> Reply:
        """Say that the process answers."""
        return _reply({"live": True})

    async def ready(self, _: Call) -> Reply:
        """Say whether a release is applied."""
        self._serving()
        if self.draining:
            raise NodeNotReady("this worker is about to end", next="try again")
        return _reply({"ready": True})

    async def server(self, _: Call) -> Reply:
        """Name the server, as V2 asks."""
        return _reply({"name": "modelmill", "version": "2", "extensions": ["binary_tensor_data"]})

    async def node(self, call: Call) -> Reply:
        """Say what each worker has applied."""
        applied = self.applied
        models = applied.models if applied else {}
        facts = {name: {"release": m.pointer.release, "segments": len(m.map)} for name, m in models.items()}
        memory = b"memory" in call.query
        return _reply(
            self._host.describe(memory=memory) | {"models": facts, "broken": applied.broken if applied else {}}
        )

    async def refresh(self, _: Call) -> Reply:
        """Look for a new release now."""
        await self._host.refresh()
        return _reply({"revision": self.applied.revision if self.applied else None})

    async def metrics(self, _: Call) -> Reply:
        """Tell Prometheus."""
        return Reply(200, await self._host.metrics(), ((b"content-type", CONTENT_TYPE),))

    async def history(self, call: Call, target: str) -> Reply:
        """Say what one segment was asked, minute by minute."""
        name, segment = parse_target(_plain(target))
        minutes = dict(parse_qsl(call.query.decode("ascii", "replace"))).get("minutes", "60")
        if not minutes.isdecimal() or not 0 < int(minutes) <= _MOST_MINUTES:
            raise FieldInvalid(f"`minutes` is a number from 1 to {_MOST_MINUTES}", got=minutes[:40])
        self._serving().get(name)
        points = await self._host.history(name, format_segment(segment or ()), int(minutes))
        return _reply({"model": name, "segment": format_segment(segment or ()), "minutes": points})

    # ---------------------------------------------------------------- about a model

    async def schema(self, _: Call, target: str) -> Reply:
        """Describe the fields of a request."""
        header = self._model(target).header
        fields = [{"name": c.name, "type": c.kind, "rule": c.rule(), "doc": c.doc} for c in header.spec.request_columns]
        return _reply({"model": header.model, "doc": header.spec.doc, "fields": fields, "by": header.by})

    async def example(self, _: Call, target: str) -> Reply:
        """Return a request that the model accepts."""
        model = self._model(target)
        return _reply(model.parser.example(model.header.example))

    async def model_metadata(self, _: Call, target: str, version: str | None) -> Reply:
        """Describe a model, as V2 asks."""
        return _reply(protocol.metadata_of(await self._at(target, version)))

    async def model_ready(self, _: Call, target: str, version: str | None) -> Reply:
        """Say whether a model is served."""
        return _reply({"name": (await self._at(target, version)).header.model, "ready": True})

    async def index(self, _: Call) -> Reply:
        """List the models, as Triton's clients ask."""
        models = self._serving().models.values()
        served = [
            {"name": m.header.model, "version": str(m.header.run), "state": "READY", "reason": ""} for m in models
        ]
        return _reply(served)

    async def _at(self, target: str, version: str | None) -> ServedModel:
        model = self._model(target)
        return await model.open_version(int(version)) if version else model

    def _model(self, target: str) -> ServedModel:
        name, _ = parse_target(_plain(target))
        return self._serving().get(name)


def refusal(error: Exception) -> Reply:
    """Return what is sent instead of an answer."""
    if isinstance(error, ModelmillError):
        return _reply(error.as_dict(), error.status)
    failed = PlatformError(f"the node failed: {type(error).__name__}: {error}", next="see the node's log")
    return _reply(failed.as_dict(), 500)


def _body(call: Call) -> bytes:
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


def _check_count(rows: int) -> None:
    if not 0 < rows <= protocol.MOST_ROWS:
        raise BodyUnreadable(f"a request has 1 to {protocol.MOST_ROWS} rows", got=str(rows))


def _json_bytes(call: Call) -> int | None:
    length = call.header(protocol.LENGTH_HEADER)
    if length is None:
        return None
    if not length.isdigit() or len(length) > 12:
        raise BodyUnreadable("`Inference-Header-Content-Length` is no number", got=length.decode("latin-1")[:40])
    return int(length)


def usable_id(given: bytes) -> bytes:
    """Return a caller's id for its request, empty where it is none that can be logged and told again."""
    return given if _USABLE_ID.fullmatch(given) else b""


def too_large(got: str = "") -> BodyTooLarge:
    """Return the refusal of a body that is too large."""
    return BodyTooLarge(f"a request has at most {MOST_BYTES >> 20} MiB", got=got)


def _plain(target: str) -> str:
    """Return a target as it was written before it was put into an address.

    A client that encodes addresses encodes the bracket, too. Where it stands plain, nothing was encoded but the values.
    """
    return target if "[" in target else unquote(target)


def _wrong_method(call: Call, path: str, methods: tuple[str, ...]) -> RouteUnknown:
    error = RouteUnknown(f"{call.method} is not possible at `{path[:120]}`", expected=" or ".join(methods))
    error.status = 405  # type: ignore[misc]  # the address exists, the method does not
    return error


_MOST_MINUTES = 24 * 60
Handler = Callable[..., Awaitable[Reply]]
_GET, _POST = ("GET", "HEAD"), ("POST",)
_MODEL = r"([^/]{1,2000}?)"
_VERSION = r"(?P<version>[1-9][0-9]{0,8})"
_ASKING: list[tuple[re.Pattern[str], Callable[[Plane, Target, Call], Question], str]] = [
    (re.compile(rf"/v2/models/{_MODEL}(?:/versions/{_VERSION})?/infer"), Plane.infer, "infer"),
    (re.compile(rf"/{_MODEL}(?:@{_VERSION})?"), Plane.predict, "predict"),
    (re.compile(rf"/invocations/{_MODEL}(?:@{_VERSION})?"), Plane.invoke, ""),
    (re.compile(rf"/models/{_MODEL}(?:@{_VERSION})?/invocations"), Plane.invoke, ""),
]
"""The addresses by which models are asked, all by POST; how they are, and the name of the quick way to do so."""
_ROUTES: list[tuple[re.Pattern[str], tuple[str, ...], Handler]] = [
    (re.compile(r"/v2/health/live"), _GET, Plane.live),
    (re.compile(r"/v2/health/ready"), _GET, Plane.ready),
    (re.compile(r"/(?:ping|health)"), _GET, Plane.ready),
    (re.compile(r"/v2/?"), _GET, Plane.server),
    (re.compile(r"/metrics"), _GET, Plane.metrics),
    (re.compile(r"/-/node"), _GET, Plane.node),
    (re.compile(rf"/-/history/{_MODEL}"), _GET, Plane.history),
    (re.compile(r"/-/refresh"), _POST, Plane.refresh),
    (re.compile(rf"/v2/models/{_MODEL}(?:/versions/{_VERSION})?/ready"), _GET, Plane.model_ready),
    (re.compile(rf"/v2/models/{_MODEL}(?:/versions/{_VERSION})?"), _GET, Plane.model_metadata),
    (re.compile(r"/v2/repository/index"), _POST, Plane.index),
    (re.compile(rf"/{_MODEL}/schema"), _GET, Plane.schema),
    (re.compile(rf"/{_MODEL}/example"), _GET, Plane.example),
    *((pattern, _POST, Plane.schema) for pattern, *_ in _ASKING),  # for their methods alone: POST never comes here
]
