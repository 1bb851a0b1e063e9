"""Why a segment's model is not the same twice: it is fitted again and again, each time with one cause taken away.

Run in a worker, on one segment. A cause is found where two fits differ, and no longer do so without it: clocks that stand
still, generators that are given a seed, threads that run one after the other. The order of sets is the interpreter's own
and cannot be taken away: `rerun` starts two interpreters for it. The user's own lines that did such a thing are noted.
"""

from __future__ import annotations

import ast
import concurrent.futures
import datetime as dt
import os
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np

from modelmill.build.comparing import content_of
from modelmill.build.plan import Step
from modelmill.build.segment import Common, SegmentFit, digest_of_answers
from modelmill.build.work import Setup
from modelmill.model.loading import shown
from modelmill.names import digest_of

CLOCK, SEEDS, THREADS, SETS = "the clock", "an unseeded generator", "threads", "the order of a set"
_MOMENT = 1_700_000_000
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One segment to be looked into."""

    step: Step
    format: str


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen."""

    steady: bool
    """Whether two fits in one process gave the same."""
    digest: str
    """Of the first of them."""
    causes: dict[str, list[str]]
    """Which causes, taken away, make two fits the same -> the user's lines."""
    noted: dict[str, list[str]]
    """What the user's code did in any fit that may differ -> its lines."""


def open_prober(setup: Setup) -> Callable[[Probe, Callable[[int], None]], Probed]:
    """Import the recorded file in this worker and return what probes; `LocalCompute` calls this."""
    common = Common(setup)
    return lambda probe, _: _probe(common, probe)


def _probe(common: Common, probe: Probe) -> Probed:
    noted: dict[str, list[str]] = {cause: [] for cause in _WITHOUT}
    steady, digest = _is_steady(common, probe)
    causes = {}
    for cause, without in _WITHOUT.items():
        with without(common.setup.root, noted[cause]):
            try:
                same, _ = _is_steady(common, probe)
            except Exception:  # noqa: BLE001 - user code, that cannot do without what was taken away
                same = False
        if same and not steady and noted[cause]:
            causes[cause] = noted[cause]
    lines = {cause: list(dict.fromkeys(found)) for cause, found in noted.items() if found}
    return Probed(steady=steady, digest=digest, causes={cause: lines[cause] for cause in causes}, noted=lines)


def _is_steady(common: Common, probe: Probe) -> tuple[bool, str]:
    one, other = (fit_digest(common, probe.step, probe.format) for _ in range(2))
    return one == other, one


def fit_digest(common: Common, step: Step, form: str) -> str:
    """Return a digest of a segment's model, fitted now, and of its answers."""
    common.begin()
    fit = SegmentFit(common, step, common.stretch([step]), 0, [])
    fit.fit()
    fit.predict()
    return digest_of(content_of(fit, form) + digest_of_answers(fit.found))


# ------------------------------------------------------------------ causes, taken away


def _noting(root: Path, lines: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that notes from which of the user's lines it was called."""

    def noting(*arguments: Any, **options: Any) -> Any:
        frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to a caller
        while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(root):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None:
            lines.append(f"{shown(Path(frame.f_code.co_filename), root)}:{frame.f_lineno} {frame.f_code.co_name}()")
        return function(*arguments, **options)

    return noting


@contextmanager
def _still_clock(root: Path, lines: list[str]) -> Iterator[None]:
    def at(value: float) -> Callable[..., Any]:
        return _noting(root, lines, lambda: value)

    with _replaced(
        root,
        {
            (time, "time"): at(float(_MOMENT)),
            (time, "time_ns"): at(_MOMENT * 10**9),
            (time, "perf_counter"): at(1.0),
            (time, "perf_counter_ns"): at(10**9),
            (time, "monotonic"): at(1.0),
            (time, "monotonic_ns"): at(10**9),
            (time, "process_time"): at(1.0),
            (dt, "datetime"): _still(dt.datetime, root, lines),
            (dt, "date"): _still(dt.date, root, lines),
        },
    ):
        yield


def _still(kind: type[Any], root: Path, lines: list[str]) -> type[Any]:
    """Return a kind of moment whose now is always the same."""
    moment = dt.datetime.fromtimestamp(_MOMENT, dt.UTC).replace(tzinfo=None)
    now = moment if kind is dt.datetime else moment.date()
    noting = staticmethod(_noting(root, lines, lambda *_, **__: now))
    names = ("now", "utcnow", "today") if kind is dt.datetime else ("today",)
    return _standing_for(kind, dict.fromkeys(names, noting))


def _standing_for(kind: type[Any], members: dict[str, Any]) -> type[Any]:
    """Return a subclass of which whatever is a `kind` is an instance, too: libraries look at types."""
    meta = type("Standing", (type(kind),), {"__instancecheck__": lambda _, value: isinstance(value, kind)})
    found: type[Any] = meta(kind.__name__, (kind,), members)
    return found


@contextmanager
def _seeded(root: Path, lines: list[str]) -> Iterator[None]:
    def fixed(function: Callable[..., Any]) -> Callable[..., Any]:
        return _noting(root, lines, function)

    generators = ("RandomState", *_BIT_GENERATORS)
    with _replaced(
        root,
        {
            **{(np.random, name): _seeded_kind(getattr(np.random, name), root, lines) for name in generators},
            (np.random, "default_rng"): _seeded_function(np.random.default_rng, root, lines),
            (np.random, "seed"): _seeded_function(np.random.seed, root, lines),
            (random, "Random"): _seeded_kind(random.Random, root, lines),
            (random, "SystemRandom"): fixed(lambda: random.Random(0)),  # noqa: S311 - it is to be the same
            (random, "seed"): _seeded_function(random.seed, root, lines),
            (os, "urandom"): fixed(bytes),
            (secrets, "token_bytes"): fixed(lambda count=32: bytes(count)),
            (secrets, "randbelow"): fixed(lambda _: 0),
            (uuid, "uuid4"): fixed(lambda: uuid.UUID(int=0)),
        },
    ):
        yield


def _seeded_function(function: Callable[..., Any], root: Path, lines: list[str]) -> Callable[..., Any]:
    """Return a function that is given a seed where it was given none."""
    noting = _noting(root, lines, lambda: function(0))

    def seeded(*given: Any, **named: Any) -> Any:
        has_seed = any(value is not None for value in (*given, *named.values()))
        return function(*given, **named) if has_seed else noting()

    return seeded


def _seeded_kind(kind: type[Any], root: Path, lines: list[str]) -> type[Any]:
    """Return a kind of generator that is given a seed where it was given none."""
    note = _noting(root, lines, lambda: None)

    def init(self: Any, seed: Any = None, *rest: Any) -> None:
        if seed is None:
            note()
        kind.__init__(self, 0 if seed is None else seed, *rest)

    return _standing_for(kind, {"__init__": init})


@contextmanager
def _one_after_the_other(root: Path, lines: list[str]) -> Iterator[None]:
    def start(thread: threading.Thread) -> None:
        thread._started.set()  # type: ignore[attr-defined]  # noqa: SLF001 - so that it can be joined
        thread.run()

    def submit(_: Any, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who asks for the result
            future.set_exception(error)
        return future

    def wait(_: threading.Condition, timeout: float | None = None) -> bool:
        if timeout is None:
            raise RuntimeError("threads that wait for one another cannot run one after the other")
        return False

    with ExitStack() as stack:
        stack.enter_context(patch.object(threading.Condition, "wait", wait))
        stack.enter_context(patch.object(threading.Barrier, "wait", lambda *_, **__: 0))  # as if all had come
        stack.enter_context(patch.object(threading.Thread, "start", _noting(root, lines, start)))
        stack.enter_context(patch.object(threading.Thread, "join", lambda *_, **__: None))
        stack.enter_context(patch.object(concurrent.futures.ThreadPoolExecutor, "submit", _noting(root, lines, submit)))
        stack.enter_context(
            _replaced(root, {(concurrent.futures, "as_completed"): lambda futures, *_, **__: iter(list(futures))})
        )
        yield


@contextmanager
def _replaced(root: Path, changes: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """Replace functions where they are defined, and wherever the user's modules have imported them to."""
    modules = [m for m in list(sys.modules.values()) if Path(getattr(m, "__file__", None) or "/").is_relative_to(root)]
    with ExitStack() as stack:
        for (place, name), new in changes.items():
            old = getattr(place, name)
            for module in modules:
                for label in [label for label, value in vars(module).items() if value is old]:
                    stack.enter_context(patch.object(module, label, new))
            stack.enter_context(patch.object(place, name, new))
        yield


_WITHOUT = {CLOCK: _still_clock, SEEDS: _seeded, THREADS: _one_after_the_other}


def lines_with_sets(root: Path) -> list[str]:
    """Return the user's lines that make a set, in the order of the files: where an order may come from a hash."""
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            is_set = isinstance(node, ast.Set | ast.SetComp) or called in ("set", "frozenset", "hash")
            if is_set and isinstance(node, ast.expr):
                found.append((str(shown(path, root)), node.lineno))
    return [f"{file}:{line}" for file, line in sorted(set(found))]
