"""Asking models: from an address and a body to an answer, and the one place where a refusal becomes a 4xx in JSON.

Transports know nothing of models: they hand over a `Call` and send a `Reply`. Two of them share this: the hot path in
`http`, which asks `now`, and plain ASGI in `app`, which awaits `respond`. What is no question to a model goes to `pages`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import ceil
from time import perf_counter
from typing import Any, NamedTuple

from modelmill.artifact.saved import Cold
from modelmill.errors import BodyUnreadable, ModelBusy, NodeNotReady
from modelmill.model.decoding import read_json
from modelmill.names import Segment, parse_target
from modelmill.serving import invocations, protocol
from modelmill.serving.applied import Applied, Model
from modelmill.serving.calls import (
    INFER,
    INVOCATIONS,
    JSON,
    MODEL_INVOCATIONS,
    PREDICT,
    Call,
    Reply,
    body_of,
    plain_target,
    refusal,
    reply_of,
)
from modelmill.serving.choices import Choice, Found
from modelmill.serving.copies import Copies, Run
from modelmill.serving.door import Door
from modelmill.serving.log import PredictionLog, as_logged
from modelmill.serving.meters import Meters, Place
from modelmill.serving.pages import Host, Pages
from modelmill.serving.quick import Quick, SplitQuick
from modelmill.serving.served import Answered, describe_answers
from modelmill.serving.split import Split
from modelmill.serving.turns import Lines, Turns, kind_of
from modelmill.serving.waiting import Asked, Kind, Line, asking, too_late

_MOST_TARGETS = 100_000
_NOBODY: Sequence[tuple[Place, bool]] = ()
_AS_ANY = nullcontext()


class Target(NamedTuple):
    """What an address names: how a model is asked, which, and the segment in the address."""

    ask: Callable[[Plane, Target, Call], Question]
    model: Model
    segment: Segment | None
    lines: Lines
    """Who waits for the model in this process."""
    line: Line | None
    """Who waits for its child process, where all do who ask it."""
    quick: Callable[[bytes, Segment | None, Choice | None], Found | None] | None
    """The quick way, where the model has one."""
    here: Choice | None = None
    """What answers for the segment in the address."""
    opens: int = 0
    """The version that has to be opened first; 0 where it is open."""
    runs: Sequence[Run] = ()
    """The shadows that answer copies of what is asked."""
    is_cold: bool = False
    """Whether what answers has to be opened: it is looked for again then."""


class Question(NamedTuple):
    """A request that was read: what the model is asked, and how its answer is told."""

    batch: Any
    tell: Callable[[Answered], Reply]
    timeout_s: float = 0.0
    """How long its caller waits, where the request itself says so."""


class Plane:
    """Answers calls with what is applied at that moment."""

    def __init__(self, host: Host, log: PredictionLog, door: Door) -> None:
        """Take the worker that it answers for, where predictions are logged, and who may ask."""
        self._log, self._door, self._pages = log, door, Pages(host, self)
        self.applied: Applied | None = None
        self.meters = Meters()
        self.turns = Turns()
        self.copies = Copies(is_busy=lambda: self.turns.is_busy)
        self.draining = False
        """Whether the worker is about to end: it is not ready, and closes each connection behind its answer."""
        self.held = 0
        """How many bytes have come of bodies that arrive or wait, over all connections."""
        self._targets: dict[bytes, Target] = {}
        self._targets_of: Applied | None = None
        self._quick: dict[Model, Quick | SplitQuick] = {}
        self._lines: dict[Model, Lines] = {}

    # ---------------------------------------------------------------- the two ways in

    def quick(self, path: bytes, body: bytes) -> tuple[bytes, bytes] | None:
        """Return the body of an answer, all of whose headers are the usual ones, and the request's id.

        None for `now` to look closer. The hottest lines of the node: an address that was asked before, one row that is
        valid, and a head that `now` has let in before.
        """
        target = self._targets.get(path)
        if target is None or target.quick is None or self._targets_of is not self.applied:
            return None
        began = perf_counter()
        is_looked_at = began > self.turns.until
        if is_looked_at and self.turns.holds(target.lines.few, began):
            return None
        found = target.quick(body, target.segment, target.here)
        if found is None:
            return None
        if is_looked_at:
            target.lines.few.pace.add(perf_counter() - began)
        if target.runs:
            self.copies.keep(target.runs, found)
        return found.body, self._count(found, began)

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
            self._door.check(call)
            target = self._target(call)
            if target is None or target.opens or not target.model.answers_here or self._log.waits:
                return None
            line = target.lines.of(len(call.body))
            if self.turns.holds(line, began):
                return None
            found = target.quick(call.body, target.segment, target.here) if is_plain and target.quick else None
            if found is not None:
                if target.runs:
                    self.copies.keep(target.runs, found)
                line.pace.add(perf_counter() - began)
                return Reply(200, found.body, JSON, self._count(found, began, call.request))
            reply = self._answer_now(call, target, began)
            line.pace.add(perf_counter() - began)
        except Cold:  # it is opened beside the requests of others
            return None
        except Exception as error:  # noqa: BLE001 - the border: no request may see a traceback
            reply = refusal(error)
            self.meters.count(reply.status, perf_counter() - began, _failed_at(error))
        return reply

    def _answer_now(self, call: Call, target: Target, began: float) -> Reply:
        question = target.ask(self, target, call)
        if question.timeout_s and perf_counter() - began > question.timeout_s:
            raise too_late()
        answered = target.model.answer_now(question.batch)
        return self._counted(question.tell(answered), call, target, answered, began)

    def knows(self, path: bytes) -> bool:
        """Return whether an address asks a model, and was asked before."""
        return self._targets_of is self.applied and path in self._targets

    def refused(self, path: bytes, length: int, until: float) -> Reply | None:
        """Return the refusal of a request whose body has not been read, and that need not be: too many wait before it."""
        target = self._targets.get(path)
        if target is None or self._targets_of is not self.applied:
            return None
        line = target.line or target.lines.of(length)
        if not line.waiting:
            return None
        began = perf_counter()
        share = 1 if target.line else self.turns.share
        error = line.refusal(Asked(kind_of(length), until), began, share)
        if error is None:
            return None
        reply = _render(error)
        self.meters.count(reply.status, perf_counter() - began)
        return reply

    def _counted(self, reply: Reply, call: Call, target: Target, answered: Answered, began: float) -> Reply:
        """Count and log an answer of the general way; return it with the request's id."""
        seconds = perf_counter() - began
        self.meters.count(reply.status, seconds, answered.about())
        if target.runs:
            is_busy = target.line is not None and target.line.pressure() >= Kind.COPY
            self.copies.keep_answered(target.runs, answered, is_busy=is_busy)
        share = self._log.share(target.model.header.model)
        if not share:
            return reply
        parts = [
            (as_logged(who), (began, seconds, inputs, numbers), rows)
            for who, inputs, numbers, rows in answered.logged()
        ]
        return Reply(reply.status, reply.body, reply.headers, self._log.keep_parts(parts, share, call.request))

    async def respond(self, call: Call) -> Reply:
        """Return the reply to a call."""
        began, failed = perf_counter(), _NOBODY
        try:
            self._door.check(call)
            target = self._target(call) if call.method == "POST" else None
            if target is not None:
                return await self._answer(call, target, began)
            reply = await self._pages.answer(call)
        except Exception as error:  # noqa: BLE001 - the border: no request may see a traceback
            reply, failed = refusal(error), _failed_at(error)
        if call.method == "POST":  # what asks for answers; health checks would drown them
            self.meters.count(reply.status, perf_counter() - began, failed)
        return reply

    async def _answer(self, call: Call, target: Target, began: float) -> Reply:
        if target.opens:
            target = await self._opened(call, target)
        reply = await (self._answer_here if target.model.is_packed else self._answer_there)(call, target, began)
        if self._log.waits:
            await self._log.settled()
        return reply

    async def _answer_here(self, call: Call, target: Target, began: float) -> Reply:
        """Answer in this process, now or when it is the request's turn."""
        length = len(call.body)
        line = target.lines.of(length)
        if not self.turns.holds(line, perf_counter()):
            return self._answer_now(call, target, began)
        self.held += length
        try:
            who = Asked(kind_of(length), call.until)
            return await self.turns.take(line, who, partial(self._answer_now, call, target, began))
        finally:
            self.held -= length

    async def _answer_there(self, call: Call, target: Target, began: float) -> Reply:
        """Answer by a model of which some run in other processes."""
        question = target.ask(self, target, call)
        ends = [until for until in (call.until, began + question.timeout_s if question.timeout_s else 0.0) if until]
        until, length = min(ends, default=0.0), len(call.body)
        if until and perf_counter() > until:
            raise too_late()
        kind = kind_of(length)
        self.held += length
        try:
            with asking(kind, until) if until or kind != Kind.PLAIN else _AS_ANY:
                answered = await target.model.answer(question.batch)
        finally:
            self.held -= length
        return self._counted(question.tell(answered), call, target, answered, began)

    def serving(self) -> Applied:
        """Return what is applied; raises `NodeNotReady` before anything is."""
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
            self._lines = {model: lines for model, lines in self._lines.items() if model in served}
        target = self._targets.get(call.path)
        if target is None:
            target = self._find_target(call.path.decode("ascii", "replace"))
            if target is not None and not target.is_cold:
                self._targets[call.path] = target
        return target

    def _find_target(self, path: str) -> Target | None:
        for pattern, ask, quick in _ASKING:
            match = pattern.fullmatch(path)
            if match is not None:
                name, segment = parse_target(plain_target(match[1]))
                model = self.serving().get(name)
                if segment:
                    model.parser.keys_of(segment)
                version = int(match["version"] or 0)
                opened = model.open_at(version) if version else model
                runs = (
                    () if version else self.serving().runs.get(model.header.model, ())
                )  # a version is asked for itself
                lines = self._lines.setdefault(model, Lines(Line(), Line()))
                line = getattr(opened or model, "line", None)
                target = Target(
                    ask, opened or model, segment, lines, line, None, opens=0 if opened else version, runs=runs
                )
                return self._with_quick_way(target, quick)
        return None

    def _with_quick_way(self, target: Target, quick: str) -> Target:
        way = None if target.opens or not quick or self._log.waits else self._quick_way(target.model)
        if way is None:
            return target
        try:
            return target._replace(quick=getattr(way, quick), here=way.choice_at(target.segment))
        except Cold:
            return target._replace(is_cold=True)

    async def _opened(self, call: Call, target: Target) -> Target:
        """Return a target once its version is open; the next call finds it so."""
        model = await target.model.open_version(target.opens)
        self._targets.pop(call.path, None)
        return target._replace(model=model, opens=0)

    def _quick_way(self, model: Model) -> Quick | SplitQuick | None:
        """Return the quick way to a model's single answers, where all of them are given in this process."""
        if not model.answers_here:
            return None
        share = self._log.share(model.header.model)
        found = self._quick.get(model)
        if found is None:
            if isinstance(model, Split) and model.by_requests:
                found = SplitQuick(model, self.meters, share)
            else:
                found = Quick(model, self.meters, share)
            self._quick[model] = found
        return found

    def predict(self, target: Target, call: Call) -> Question:
        """Read an object or a list of objects, to be answered by one answer or a list of answers."""
        model = target.model
        batch, is_list = model.parser.read(body_of(call), target.segment)
        invocations.check_count(len(batch))

        def tell(answered: Answered) -> Reply:
            told = describe_answers(answered)
            return reply_of(told if is_list else told[0])

        return Question(batch, tell)

    def infer(self, target: Target, call: Call) -> Question:
        """Read an inference request, as V2 asks."""
        model = target.model
        request, behind = protocol.read_request(body_of(call), _json_bytes(call))
        batch = protocol.batch_of(model, request, behind, target.segment)

        def tell(answered: Answered) -> Reply:
            reply = protocol.reply_to(model, request, answered)
            if not reply.json_bytes:
                return Reply(200, reply.body, JSON)
            length = str(reply.json_bytes).encode()
            content = (b"content-type", b"application/octet-stream")
            return Reply(200, reply.body, (content, (protocol.LENGTH_HEADER, length)))

        return Question(batch, tell, protocol.timeout_of(request))

    def invoke(self, target: Target, call: Call) -> Question:
        """Read a request as MLflow's scoring servers take it; the answer has `predictions`, one a row."""
        model = target.model
        is_csv = (call.header(b"content-type") or b"").partition(b";")[0].strip().lower() == b"text/csv"
        body = body_of(call)
        rows = invocations.rows_of_csv(body, model.parser.columns) if is_csv else invocations.rows_of(read_json(body))
        rows = [model.parser.with_segment(target.segment, row) for row in rows] if target.segment else rows
        invocations.check_count(len(rows))

        def tell(answered: Answered) -> Reply:
            return reply_of({"predictions": invocations.predictions(model.header.labels, answered.numbers())})

        return Question(model.parser.batch(rows), tell)


_rendered: dict[tuple[str, int], Reply] = {}


def _render(error: ModelBusy) -> Reply:
    """Return a refusal as it is sent again and again: there are few sentences, and few whole seconds."""
    key = error.what, ceil(error.after_s)
    if key not in _rendered:
        _rendered[key] = refusal(error)
    return _rendered[key]


def _failed_at(error: Exception) -> Sequence[tuple[Place, bool]]:
    """Return whose failure an error was, where it was a model's."""
    place = getattr(error, "place", None)
    return [] if place is None else [(place, True)]


def _json_bytes(call: Call) -> int | None:
    length = call.header(protocol.LENGTH_HEADER)
    if length is None:
        return None
    if not length.isdigit() or len(length) > 12:
        raise BodyUnreadable("`Inference-Header-Content-Length` is no number", got=length.decode("latin-1")[:40])
    return int(length)


_ASKING: list[tuple[re.Pattern[str], Callable[[Plane, Target, Call], Question], str]] = [
    (re.compile(INFER), Plane.infer, "infer"),
    (re.compile(PREDICT), Plane.predict, "predict"),
    (re.compile(INVOCATIONS), Plane.invoke, ""),
    (re.compile(MODEL_INVOCATIONS), Plane.invoke, ""),
]
"""The addresses by which models are asked; how they are, and the name of the quick way to do so."""
