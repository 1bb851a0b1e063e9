"""`Model`: the declaration of a model or a fleet, and the pass-through decorators that give it its functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, overload

from modelmill.errors import DeclarationInvalid, did_you_mean
from modelmill.model.batching import Batching, read_batching
from modelmill.model.conditions import (
    Canary,
    Condition,
    check_conditions,
    check_judged,
    check_mean,
    check_slices,
    parse_duration,
)
from modelmill.model.levels import read_levels
from modelmill.model.linear import LinearTrain
from modelmill.model.metrics import check_metric, default_metrics
from modelmill.model.roles import KNOWN_PARAMETERS, Function, RoleFunction, is_single, read_role, where_of
from modelmill.model.safe import read_safe
from modelmill.model.schema import Schema, SchemaSpec, schema_of
from modelmill.names import ModelName, parse_model_name

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when rows are read: `start` inclusive, `end` exclusive; None is open."""

    start: datetime | None = None
    end: datetime | None = None


class Model:
    """A named declaration: schema, functions and policy. With `by`, a fleet: one fitted model a segment.

    Its decorators return the function they are given, so that the file stays ordinary Python. Anything impossible
    raises `DeclarationInvalid` while the file is imported.
    """

    def __init__(  # noqa: PLR0913 - the declaration is one flat list of keywords on purpose
        self,
        name: str,
        schema: type[Schema],
        *,
        by: Sequence[Any] = (),
        min_rows: int = 20,
        owner: str = "",
        purpose: str = "",
        test_share: float = 0.2,
        metrics: Sequence[str] = (),
        needs: Sequence[Condition] = (),
        gate: Sequence[Condition] = (),
        retrain: Sequence[Condition] = (),
        canary: Canary | None = None,
        seed: int = 0,
        fresh: str = "",
        keeps: float = 0.0,
        files: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        levels: Sequence[Any] = (),
        safe: float | str | bool | Mapping[str, float] | None = None,
    ) -> None:
        """Declare a model.

        `by`: key columns; one fitted model a combination. `min_rows`: labelled rows below which the pooled model
        answers. `test_share`: the share of each segment's last rows that tests, 0 < share < 1. `metrics`: names,
        the first is the score; the task's usual ones where left out. `seed`: of numpy and random before each fit.
        `needs`: what makes it worth building at all, see `modelmill feasibility`. `gate`: what a retrained version has to
        pass. `fresh`: how old the newest row of a snapshot may be, such as ``"2d"``. `keeps`: the share of the last snapshot's
        rows, and of its segments, that a new one must have, 0 to 1. `files`: what the functions read beside the rows, as paths
        in the project; they are kept with the code. `levels`: columns, or lists of columns, whose values get a model of
        their own that answers where a segment has none, the most specific first. `safe`: the answer where no model has one, not
        even the pooled one: a number, or a label, or a probability for each label.
        """
        self.name: ModelName = parse_model_name(name)
        self.where = _caller()
        self.spec: SchemaSpec = schema_of(schema)
        self.by = self._read_by(by)
        self.levels = read_levels(levels, self.spec, self.by)
        self.min_rows = _between("min_rows", min_rows, 2, 10**9)
        self.test_share = _between("test_share", test_share, 0.01, 0.9)
        self.seed = int(_between("seed", seed, 0, 2**31 - 1))
        self.fresh, self.keeps = self._read_fresh(fresh), _between("keeps", keeps, 0, 1)
        self.owner, self.purpose = owner, purpose or (schema.__doc__ or "").strip().split("\n")[0]
        self.tags, self.files = dict(tags or {}), tuple(files)
        self.needs, self.gate, self.retrain, self.canary = tuple(needs), tuple(gate), tuple(retrain), canary
        self.safe = read_safe(safe, self.spec.target, self.labels)
        self.metrics = tuple(metrics) or default_metrics(self.task)
        self.batching: Batching | None = None
        self._functions: dict[str, RoleFunction] = {}
        self.laws: dict[str, RoleFunction] = {}
        self.own_metrics: dict[str, RoleFunction] = {}
        self.checks: dict[str, RoleFunction] = {}
        check_conditions("gate", self.gate)
        check_judged("gate", self.gate, champion=True)
        check_slices(self.gate, {column.name: column for column in self.spec.columns})
        check_conditions("needs", self.needs)
        check_judged("needs", self.needs, champion=False)
        check_conditions("retrain", self.retrain)

    def __repr__(self) -> str:
        return f"mm.Model({self.name!r})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        roles = did_you_mean(name, KNOWN_PARAMETERS)
        raise DeclarationInvalid(f"a model has no role `@{name}`", where=_caller(), likely=roles)

    # ---------------------------------------------------------------- the decorators

    def data(self, function: F) -> F:
        """Register the function that returns the rows: ``data(window)`` -> data frame."""
        return self._decorate("data", function)

    def features(self, function: F) -> F:
        """Register the function that turns rows into ``x``, (n, k): in training, in batch and online. Row by row."""
        return self._decorate("features", function)

    def train(self, function: F) -> F:
        """Register the function that fits: it may ask for x, y, rows, segment, run, seed; defaults are parameters."""
        return self._decorate("train", function)

    @overload
    def predict(self, function: F) -> F: ...

    @overload
    def predict(self, function: None = None, *, batch: int | None = None, wait: str = "") -> Callable[[F], F]: ...

    def predict(self, function: F | None = None, *, batch: int | None = None, wait: str = "") -> F | Callable[[F], F]:
        """Register the function that answers a batch: ``predict(model, x)``; without it the fitted object's own.

        ``@m.predict(batch=64, wait="5ms")`` says that its answer to a row does not depend on the rows beside it, and that
        a process that serves it asks it up to 64 rows at once, for which the first request may wait 5 ms. Called by
        yourself it is the function that you wrote.
        """
        batching = read_batching(batch, wait, _caller())

        def register(function: F) -> F:
            found = self._decorate("predict", function)
            self.batching = batching
            return found

        return register if function is None else register(function)

    def test(self, function: F) -> F:
        """Register a law or an example: ``test(ask)`` asserts something that must hold for every segment."""
        return self._decorate("test", function)

    def metric(self, function: F) -> F:
        """Register a metric of one's own: ``metric(y_true, y_pred)`` -> number, smaller is better."""
        return self._decorate("metric", function)

    def check(self, function: F) -> F:
        """Register a test of the data: ``check(rows)`` asserts something that holds for the rows of every snapshot."""
        return self._decorate("check", function)

    # ---------------------------------------------------------------- what was declared

    @property
    def task(self) -> str:
        """Return ``regression``, ``binary`` or ``multiclass``, as the target says."""
        target = self.spec.target
        if target.kind == "bool":
            return "binary"
        if target.kind == "category":
            return "binary" if len(target.values) == 2 else "multiclass"
        return "regression"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the classes in the order of their codes; none for a regression."""
        if self.spec.target.kind == "bool":
            return ("false", "true")
        return self.spec.target.values

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the columns that are the features as they stand; none where a @features function makes them."""
        return () if self.role("features") else tuple(column.name for column in self.spec.features)

    @property
    def roles(self) -> dict[str, Function]:
        """Return the functions by role, as they were written."""
        return {role: found.function for role, found in self._functions.items()}

    @property
    def parameters(self) -> dict[str, Any]:
        """Return train's hyperparameters with their defaults."""
        return dict(self._functions["train"].parameters) if "train" in self._functions else {}

    def role(self, name: str) -> RoleFunction | None:
        """Return the function in a role, with what it asks for."""
        return self._functions.get(name)

    def check_complete(self) -> None:
        """Refuse a model without a `train`, and names of metrics that nobody defines."""
        if "train" not in self._functions:
            raise DeclarationInvalid(
                f"model `{self.name}` has no @train function",
                where=self.where,
                next=f"write  @{self.name.replace('-', '_')}.train above a function train(x, y)",
            )
        own = {name: law.function for name, law in self.own_metrics.items()}
        wanted = [*self.metrics, *(c.metric for c in (*self.needs, *self.gate, *self.retrain) if c.metric)]
        for name in wanted:
            check_metric(name, self.task, own)
        for condition in self.canary.abort if self.canary else ():
            if condition.metric:
                check_metric(condition.metric, self.task, own)
                check_mean(condition)

    def declaration(self) -> dict[str, Any]:
        """Return the whole declaration as data: what is stored with a run and compared between versions."""
        return {
            "name": self.name,
            "schema": self.spec,
            "by": list(self.by),
            "min_rows": self.min_rows,
            "test_share": self.test_share,
            "metrics": [*self.metrics, *self.own_metrics],
            "seed": self.seed,
            "owner": self.owner,
            "purpose": self.purpose,
            "tags": self.tags,
            "parameters": {name: repr(value) for name, value in self.parameters.items()},
            "roles": sorted(self._functions),
            "laws": sorted(self.laws),
            "checks": sorted(self.checks),
            "fresh": self.fresh,
            "keeps": self.keeps,
            "needs": [c.as_dict() for c in self.needs],
            "gate": [c.as_dict() for c in self.gate],
            "retrain": [c.as_dict() for c in self.retrain],
            "canary": self.canary.as_dict() if self.canary else None,
            # Named only where it is declared: a declaration that was recorded before must keep its digest.
            **({"levels": [list(level) for level in self.levels]} if self.levels else {}),
            **({"safe": list(self.safe)} if self.safe else {}),
            **({"batching": self.batching} if self.batching else {}),
        }

    # ---------------------------------------------------------------- inside

    def _read_by(self, by: Sequence[Any]) -> tuple[str, ...]:
        names = tuple(str(column) for column in by)
        keys = [column.name for column in self.spec.keys]
        for name in names:
            if name not in keys:
                raise DeclarationInvalid(
                    f"`by` names `{name}`, which is no key of schema `{self.spec.name}`",
                    where=self.where,
                    likely=did_you_mean(name, keys) or "the schema declares no mm.key()",
                )
        if len(set(names)) != len(names):
            raise DeclarationInvalid("`by` names a column twice", where=self.where, got=", ".join(names))
        return names

    def _read_fresh(self, fresh: str) -> str:
        if fresh and self.spec.time is None:
            raise DeclarationInvalid("`fresh` needs a column declared by mm.time()", where=self.where)
        if fresh:
            parse_duration(fresh)
        return fresh

    def _decorate(self, role: str, function: F) -> F:
        if not callable(function):
            raise DeclarationInvalid(f"@{role} stands above something that is no function", where=self.where)
        if isinstance(function, LinearTrain) and self.task != "regression":
            raise DeclarationInvalid(
                f"linear() fits numbers, but the target `{self.spec.target.name}` of `{self.name}` is a class",
                where=self.where,
                next=f"write  @{self.name.replace('-', '_')}.train above a function that fits a classifier",
            )
        found = read_role(role, function)
        if role == "test":
            self.laws[function.__name__] = found
        elif role == "metric":
            self.own_metrics[function.__name__] = found
        elif role == "check":
            self.checks[function.__name__] = found
        elif is_single(role):
            # A notebook runs a cell again: the same name replaces the role, another name is a mistake.
            self._refuse_second(role, found)
            self._functions[role] = found
        return function

    def _refuse_second(self, role: str, found: RoleFunction) -> None:
        earlier = self._functions.get(role)
        if earlier and earlier.function.__name__ != found.function.__name__:
            raise DeclarationInvalid(
                f"model `{self.name}` has two @{role} functions", where=f"{earlier.where} and {found.where}"
            )


def _between(name: str, value: float, low: float, high: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise DeclarationInvalid(f"`{name}` is {value!r}", expected=f"a number from {low:g} to {high:g}")
    return value


def _caller() -> str:
    """Return the nearest place outside this file as ``delays.py:30``."""
    frame = inspect.currentframe()
    while frame and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}" if frame else ""


__all__ = ["Model", "Window", "where_of"]
