"""What a function of numpy arrays does, as a program that runs without the function.

`@features` and the part of `@predict` around `model.predict(x)` are mostly arithmetic. Such a function is called once with
recording arrays, which note every numpy operation (NEP 13, `__array_ufunc__`, and NEP 18, `__array_function__`). The
program is a list of these operations. It runs the same numpy functions in the same order, so its results are the same bits;
whoever uses it proves that on real rows first. Anything that looks at values, lengths or shapes cannot be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import msgspec
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from modelmill.artifact.outside import listening
from modelmill.errors import BlobBroken
from modelmill.model.roles import RoleFunction
from modelmill.model.rows import Rows

Array = NDArray[Any]
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "column_stack": np.column_stack,
    "where": np.where,
    "clip": np.clip,
    "round": np.round,
    "astype": lambda array, dtype: array.astype(dtype),
    "pick": lambda array, column: array[:, column],
    "column": lambda array: array.reshape(-1, 1),
    "likeliest": lambda array: array.argmax(axis=1),
}
_MOST_STEPS = 200
_OUTSIDE = frozenset(
    {
        "now",
        "utcnow",
        "today",
        "time",
        "time_ns",
        "monotonic",
        "perf_counter",
        "random",
        "default_rng",
        "environ",
        "getenv",
    }
)


class Untraceable(Exception):
    """The function does something that a program cannot repeat."""


class Reference(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """An earlier value: an input, counted first, or the result of a step."""

    index: int


class Constant(msgspec.Struct, frozen=True, tag="c", array_like=True):
    """A number, a text or a truth; with a dtype, a numpy scalar given as text."""

    value: int | float | str | bool | None
    dtype: str = ""

    def read(self) -> Any:
        """Return the value."""
        if not self.dtype:
            return self.value
        dtype = np.dtype(self.dtype)
        return np.array(self.value, dtype="i8").view(dtype)[()] if dtype.kind in "mM" else dtype.type(self.value)


class Many(msgspec.Struct, frozen=True, tag="m", array_like=True):
    """A list of arguments."""

    arguments: tuple[Reference | Constant, ...]


Argument = Reference | Constant | Many


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One operation."""

    operation: str
    arguments: tuple[Argument, ...]


class Program(msgspec.Struct, frozen=True, array_like=True):
    """Operations on named inputs; the last value is the result."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    result: int

    def encode(self) -> bytes:
        """Return the program as bytes."""
        return msgspec.msgpack.encode(self)

    def run(self, inputs: Mapping[str, Any] | Rows) -> Array:
        """Return the result for these inputs."""
        values: list[Any] = [inputs[name] for name in self.inputs]
        for step in self.steps:
            values.append(_operation(step.operation)(*[_read(argument, values) for argument in step.arguments]))
        found: Array = values[self.result]
        return found


@lru_cache(maxsize=1024)
def open_program(content: bytes) -> Program:
    """Return the program in these bytes; the same bytes are the same program."""
    try:
        program = msgspec.msgpack.decode(content, type=Program)
        for step in program.steps:
            _operation(step.operation)
    except (msgspec.DecodeError, UnicodeDecodeError, Untraceable) as error:
        raise BlobBroken(f"these bytes are no program: {error}") from error
    return program


def trace_features(role: RoleFunction, rows: Rows) -> Program:
    """Return what a @features function does with rows; raises `Untraceable`."""
    _check(role)

    def trace() -> Program:
        recorder = _Recorder()
        return recorder.trace(lambda: role.call({"rows": _TracedRows(recorder, rows)}))

    return _repeated(trace)


def trace_predict(role: RoleFunction, x: Array, classes: int = 0) -> Program:
    """Return what a @predict function does with ``x`` and ``answers``; raises `Untraceable`.

    ``answers`` are those of the fitted object to ``x``: (rows,) numbers, or (rows, classes) probabilities.
    """
    _check(role)
    if not {"model", "x"}.issuperset(role.asks):
        raise Untraceable("it asks for more than the model and x")

    def trace() -> Program:
        recorder = _Recorder()
        traced_x = recorder.input("x", x)
        answers = recorder.input("answers", np.zeros((len(x), classes) if classes else len(x)))
        model = (_TracedClassifier if classes else _TracedModel)(recorder, traced_x, answers)
        return recorder.trace(lambda: role.call({"model": model, "x": traced_x}))

    return _repeated(trace)


def _repeated(trace: Callable[[], Program]) -> Program:
    """Return a program that a function gives twice, and reaches nothing outside for: else it would keep what it found there."""
    with listening() as reached:
        first, second = trace(), trace()
    if reached:
        raise Untraceable(f"it reaches outside: {reached[0][:80]}")
    if first.encode() != second.encode():  # bytes, since a NaN is not equal to itself
        raise Untraceable("it does something else when it is called again")
    return second


def _check(role: RoleFunction) -> None:
    """Refuse a function that names the clock or chance: a program would repeat what they said while it was traced."""
    code = getattr(role.function, "__code__", None)
    if role.frames:
        raise Untraceable("it asks for a data frame")
    if code is None:
        raise Untraceable("it is no plain function")
    named = _OUTSIDE.intersection(_names(role.function))
    if named:
        raise Untraceable(f"it names `{min(named)}`, which differs from call to call")


def _names(function: Any) -> set[str]:
    """Return what a function names, and what the functions of its own module name that it names."""
    found, todo = set[str](), [function.__code__]
    while todo:
        code = todo.pop()
        fresh = {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))} - found
        found |= fresh
        todo += [c for c in code.co_consts if isinstance(c, CodeType)]
        todo += [one.__code__ for one in map(function.__globals__.get, fresh) if _is_beside(one, function)]
    return found


def _is_beside(one: Any, function: Any) -> bool:
    return isinstance(one, FunctionType) and one.__module__ == function.__module__


class _Recorder:
    """Notes inputs and operations in the order in which they happen."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._inputs: list[_Traced] = []
        self._steps: list[tuple[str, tuple[Any, ...], _Traced]] = []

    def input(self, name: str, example: Array) -> _Traced:
        if name not in self._names:
            self._names.append(name)
            self._inputs.append(_Traced(self, example))
        return self._inputs[self._names.index(name)]

    def note(self, operation: str, arguments: tuple[Any, ...]) -> _Traced:
        if len(self._steps) >= _MOST_STEPS:
            raise Untraceable("it does too much")
        result = _operation(operation)(*[_example(argument) for argument in arguments])
        if not isinstance(result, np.ndarray):
            raise Untraceable(f"{operation} gives no array")
        traced = _Traced(self, result)
        self._steps.append((operation, arguments, traced))
        return traced

    def trace(self, function: Callable[[], Any]) -> Program:
        try:
            return self._program(function())
        except Untraceable:
            raise
        except Exception as error:  # whatever the function does to a recording array
            raise Untraceable(f"{type(error).__name__}: {error}"[:120]) from error

    def _program(self, result: Any) -> Program:
        places = {id(traced): place for place, traced in enumerate([*self._inputs, *(step[2] for step in self._steps)])}
        if id(result) not in places:
            raise Untraceable("it returns something else")
        steps = tuple(Step(name, tuple(_written(a, places) for a in arguments)) for name, arguments, _ in self._steps)
        return Program(tuple(self._names), steps, places[id(result)])


class _Traced(NDArrayOperatorsMixin):
    """A recording array. It holds an example of its values, for dtypes and dimensions alone."""

    __hash__ = None  # type: ignore[assignment]  # as an array has none

    def __init__(self, recorder: _Recorder, example: Array) -> None:
        self._recorder, self.example = recorder, example

    @property
    def dtype(self) -> Any:
        return self.example.dtype

    @property
    def ndim(self) -> int:
        return self.example.ndim

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> _Traced:
        if method != "__call__" or options or getattr(np, ufunc.__name__, None) is not ufunc:
            raise Untraceable(f"{ufunc.__name__}.{method}")
        return self._recorder.note(ufunc.__name__, inputs)

    def __array_function__(
        self, function: Callable[..., Any], _: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]
    ) -> _Traced:
        if options or _FUNCTIONS.get(function.__name__) is not function:
            raise Untraceable(function.__name__)
        return self._recorder.note(function.__name__, arguments)

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise Untraceable("its values are asked for")

    def __bool__(self) -> bool:
        raise Untraceable("its values decide")

    def __len__(self) -> int:
        raise Untraceable("its length is asked for")

    def __iter__(self) -> Any:
        raise Untraceable("its values are asked for")

    def __getitem__(self, which: Any) -> _Traced:
        whole = slice(None)
        if isinstance(which, tuple) and len(which) == 2 and which[0] == whole and self.ndim == 2:
            if isinstance(which[1], int):
                return self._recorder.note("pick", (self, which[1]))
        elif isinstance(which, tuple) and len(which) == 2 and which == (whole, None) and self.ndim == 1:
            return self._recorder.note("column", (self,))
        raise Untraceable("it picks some of the rows")

    def astype(self, dtype: Any) -> _Traced:
        return self._recorder.note("astype", (self, np.dtype(dtype).str))

    def clip(self, low: Any = None, high: Any = None) -> _Traced:
        return self._recorder.note("clip", (self, low, high))

    def round(self, decimals: int = 0) -> _Traced:
        return self._recorder.note("round", (self, decimals))

    def reshape(self, *shape: Any) -> _Traced:
        if shape in ((-1, 1), ((-1, 1),)) and self.ndim == 1:
            return self._recorder.note("column", (self,))
        raise Untraceable("it reshapes")


class _TracedRows:
    """Rows whose columns record what is done with them."""

    def __init__(self, recorder: _Recorder, rows: Rows) -> None:
        self._recorder, self._rows = recorder, rows

    def __getitem__(self, name: str) -> _Traced:
        return self._recorder.input(name, self._rows[name])

    def __getattr__(self, name: str) -> _Traced:
        if name.startswith("_") or name not in self._rows:
            raise Untraceable(f"rows.{name}")
        return self[name]


class _TracedModel:
    """A fitted object that can do one thing: answer all of ``x``."""

    def __init__(self, recorder: _Recorder, x: _Traced, answers: _Traced) -> None:
        self._recorder, self._x, self._answers = recorder, x, answers

    def predict(self, x: Any) -> _Traced:
        if x is not self._x:
            raise Untraceable("it asks the model about something else than x")
        return self._answers

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(f"it reads `model.{name}`")


class _TracedClassifier(_TracedModel):
    """A fitted classifier: it answers with probabilities, or the likeliest class."""

    def predict_proba(self, x: Any) -> _Traced:
        return super().predict(x)

    def predict(self, x: Any) -> _Traced:
        return self._recorder.note("likeliest", (super().predict(x),))


def _operation(name: str) -> Callable[..., Any]:
    """Return an operation by name: one of ours, or any of numpy's universal functions, which compute and nothing else."""
    found = _FUNCTIONS.get(name) or getattr(np, name, None)
    if name not in _FUNCTIONS and not isinstance(found, np.ufunc):
        raise Untraceable(f"there is no operation `{name[:40]}`")
    return found  # type: ignore[return-value]  # the line above has looked


def _example(argument: Any) -> Any:
    if isinstance(argument, _Traced):
        return argument.example
    return [_example(part) for part in argument] if isinstance(argument, list | tuple) else argument


def _written(argument: Any, places: Mapping[int, int]) -> Argument:
    if isinstance(argument, list | tuple):
        return Many(tuple(_single(part, places) for part in argument))
    return _single(argument, places)


def _single(argument: Any, places: Mapping[int, int]) -> Reference | Constant:
    if isinstance(argument, _Traced):
        return Reference(places[id(argument)])
    if isinstance(argument, np.datetime64 | np.timedelta64):
        return Constant(int(argument.astype(np.int64)), argument.dtype.str)
    if isinstance(argument, np.number | np.bool_):
        return Constant(argument.item(), argument.dtype.str)
    if isinstance(argument, int | float | str | None):
        return Constant(argument)
    raise Untraceable(f"a {type(argument).__name__}")


def _read(argument: Argument, values: Sequence[Any]) -> Any:
    if isinstance(argument, Reference):
        return values[argument.index]
    if isinstance(argument, Many):
        return [_read(part, values) for part in argument.arguments]
    return argument.read()
