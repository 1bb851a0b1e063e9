"""A traced function and its program give the same bits; what cannot be repeated is not traced."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.artifact.tracing import Untraceable, open_program, trace_features, trace_predict
from modelmill.model.roles import read_role
from modelmill.model.rows import Rows

RNG = np.random.default_rng(0)
ROWS = Rows(
    {
        "at": np.datetime64("2013-01-01", "us") + RNG.integers(0, 9000, 40) * np.timedelta64(1, "h"),
        "size": RNG.normal(size=40),
        "hour": RNG.integers(0, 24, 40),
        "kind": np.array(["car", None, "bus", "car"] * 10, dtype=object),
    }
)
X = RNG.normal(size=(40, 3))


def season(rows: Any) -> Any:
    day = (rows.at - rows.at.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    return np.column_stack([np.sin(2 * np.pi * day / 365.25), rows["size"], rows.hour])


FEATURES: dict[str, Callable[[Any], Any]] = {
    "season": season,
    "one": lambda rows: rows.size,
    "as a column": lambda rows: rows.size[:, None] * 2,
    "reshaped": lambda rows: np.log1p(abs(rows.size)).reshape(-1, 1),
    "text": lambda rows: np.column_stack((rows.kind == "car", np.where(rows.hour > 12, 1.0, -1.0))),
    "clipped": lambda rows: np.column_stack(
        [rows.size.clip(-1, 1), np.clip(rows.hour, 6, 18), rows.size.round(1) // 1]
    ),
    "since": lambda rows: (rows.at - np.datetime64("2013-01-01")).astype(float).reshape(-1, 1),
    "scalars": lambda rows: np.column_stack([rows.size + np.float32(0.1), rows.hour * True, -(rows.size**2)]),
}


@pytest.mark.parametrize("function", FEATURES.values(), ids=FEATURES)
def test_features_as_a_program_are_the_same_bits(function: Callable[[Any], Any]) -> None:
    program = trace_features(read_role("features", function), ROWS.take(slice(0, 7)))
    again = open_program(program.encode())
    assert again == program
    for part in (ROWS, ROWS.take(slice(3, 4))):
        expected, found = np.asarray(function(part)), again.run(part)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


def looks_at_values(rows: Any) -> Any:
    return rows.size if rows.size > 0 else -rows.size


def knows_the_time(rows: Any) -> Any:
    return rows.size - time.time()


def draws(rows: Any) -> Any:
    return rows.size + np.random.default_rng().normal()


def helped(rows: Any) -> Any:
    return rows.size - moment()


def moment() -> float:
    return time.time()


def reads_a_file(rows: Any) -> Any:
    return rows.size * float(Path(__file__).stat().st_size > 0 and len(Path("/proc/self/stat").read_text()) > 0)


def asks_another_process(rows: Any) -> Any:
    return rows.size * float(subprocess.run(["true"], check=False).returncode + 1)


CALLS = itertools.count()


def counts_its_calls(rows: Any) -> Any:
    return rows.size + next(CALLS)


NOT_TRACED: dict[str, Callable[[Any], Any]] = {
    "values decide": looks_at_values,
    "the time": knows_the_time,
    "chance": draws,
    "the time, through a helper": helped,
    "a file": reads_a_file,
    "another process": asks_another_process,
    "what is counted": counts_its_calls,
    "the environment": lambda rows: rows.size * len(os.environ),
    "a constant moment": lambda rows: rows.at - np.datetime64("now"),
    "length": lambda rows: rows.size + len(rows),
    "shape": lambda rows: np.zeros(rows.size.shape),
    "sum": lambda rows: rows.size - rows.size.sum(),
    "mean": lambda rows: rows.size - np.mean(rows.size),
    "reduced": lambda rows: rows.size - np.add.reduce(rows.size),
    "a loop": lambda rows: np.array([value * 2 for value in rows.size]),
    "some rows": lambda rows: rows.size[1:],
    "as an array": lambda rows: np.asarray(rows.size),
    "in place": lambda rows: np.multiply(rows.size, 2, out=rows.size),
    "no column": lambda rows: rows.nothing,
    "a table": lambda rows: rows.size * np.arange(40),
    "a frame": lambda rows: rows.as_frame("polars"),
    "nothing": lambda rows: None,
    "too much": lambda rows: sum((rows.size * n for n in range(500)), rows.size),
}


@pytest.mark.parametrize("function", NOT_TRACED.values(), ids=NOT_TRACED)
def test_what_cannot_be_repeated_is_not_traced(function: Callable[[Any], Any]) -> None:
    with pytest.raises(Untraceable):
        trace_features(read_role("features", function), ROWS)


def test_what_is_imported_while_it_runs_is_not_outside() -> None:
    def imports(rows: Any) -> Any:
        import pyclbr

        return rows.size * bool(pyclbr)

    sys.modules.pop("pyclbr", None)
    assert trace_features(read_role("features", imports), ROWS).steps


def test_a_function_that_asks_for_a_data_frame_is_not_traced() -> None:
    def features(rows: "pd.DataFrame") -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037 - a library by name
        return rows

    with pytest.raises(Untraceable, match="data frame"):
        trace_features(read_role("features", features), ROWS)


class Doubling:
    """A fitted object."""

    def predict(self, x: Any) -> Any:
        """Return twice the first feature."""
        return 2 * x[:, 0]


AFTER: dict[str, Callable[..., Any]] = {
    "plain": lambda model, x: model.predict(x),
    "clipped": lambda model, x: model.predict(x).clip(-1, 1),
    "with x": lambda model, x: np.exp(model.predict(x)) + x[:, 1],
    "maximum": lambda model, x: np.maximum(model.predict(x), 0.0),
}


@pytest.mark.parametrize("function", AFTER.values(), ids=AFTER)
def test_what_predict_does_around_the_model_is_traced(function: Callable[..., Any]) -> None:
    program = trace_predict(read_role("predict", function), X[:5])
    expected = function(Doubling(), X)
    assert program.run({"x": X, "answers": Doubling().predict(X)}).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "function",
    [
        lambda model, x: model.predict(x * 2),
        lambda model, x: model.predict(x) if x[0, 0] > 0 else x[:, 0],
        lambda model, x: model.coef_ @ x,
        lambda model, x, segment: model.predict(x),
        lambda model, x, rows: model.predict(x),
    ],
)
def test_a_predict_that_does_more_is_not_traced(function: Callable[..., Any]) -> None:
    with pytest.raises(Untraceable):
        trace_predict(read_role("predict", function), X)


class Guessing:
    """A fitted classifier."""

    def predict_proba(self, x: Any) -> Any:
        """Return probabilities of three classes."""
        raw = np.exp(x)
        return raw / raw.sum(axis=1, keepdims=True)

    def predict(self, x: Any) -> Any:
        """Return the likeliest class."""
        return self.predict_proba(x).argmax(axis=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda model, x: model.predict_proba(x),
        lambda model, x: model.predict(x),
        lambda model, x: np.where(model.predict_proba(x)[:, 1] > 0.3, 1, 0),
        lambda model, x: model.predict_proba(x).clip(0.01, 0.99),
    ],
)
def test_what_predict_does_with_probabilities_is_traced(function: Callable[..., Any]) -> None:
    program = trace_predict(read_role("predict", function), X[:5], classes=3)
    found = program.run({"x": X, "answers": Guessing().predict_proba(X)})
    assert found.tobytes() == function(Guessing(), X).tobytes()


LEAVES = st.sampled_from(["size", "hour"]) | st.floats(-100, 100).map(lambda value: round(value, 3))
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(st.sampled_from(["add", "subtract", "multiply", "maximum", "hypot"]), inner, inner)
        | st.tuples(st.sampled_from(["sin", "exp", "floor", "sqrt", "isnan", "negative"]), inner)
    ),
    max_leaves=12,
)


def compute(tree: Any, rows: Any) -> Any:
    if isinstance(tree, str):
        return rows[tree]
    if isinstance(tree, tuple):
        return getattr(np, tree[0])(*(compute(part, rows) for part in tree[1:]))
    return tree


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(TREES)
def test_any_arithmetic_of_columns_is_the_same_bits(tree: Any) -> None:
    def features(rows: Any) -> Any:
        return np.column_stack([rows.size, compute(tree, rows) + rows.size * 1.0])

    try:
        expected = features(ROWS)
    except TypeError:  # numpy has no such operation for these types
        return
    program = trace_features(read_role("features", features), ROWS.take(slice(0, 3)))
    assert program.run(ROWS).tobytes() == expected.tobytes()
