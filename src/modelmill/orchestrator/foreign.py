"""The process that opens a model which somebody else made: what it says of itself, and what it answers, as JSON.

A pickle runs whatever its maker wrote into it. It is opened here, in a process that holds no store and no key, and only where
a person has said that it may be.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

PICKLE, JOBLIB, SKOPS = "pickle", "joblib", "skops"
LIGHTGBM, XGBOOST, FUNCTION = "lightgbm", "xgboost", "function"
_ASKED_ROWS = 200
_MOST_MEMORY = 4 << 30
"""A file may say that it holds more than there is: its reader ends then, and nobody else."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A model, and the sample that it is asked."""

    kind: str
    place: str
    """The file, or ``module:function``."""
    folder: str
    """Where a function's module is looked for."""
    trusted: bool = False
    """Whether a person has said that it may be opened, whatever it holds."""
    sample: str
    """A Parquet file of features, in the order of the sample."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says of itself, or why it cannot be asked."""

    what: str = ""
    """``sklearn.linear_model.Ridge``"""
    names: tuple[str, ...] = ()
    """The columns that it was fitted on, in their order; empty where it does not know."""
    classes: tuple[str, ...] = ()
    frame: bool = False
    """Whether it wants a pandas frame: text among its columns, or a function that says so."""
    maker: str = ""
    """Of an XGBoost file: the class that reads it."""
    types: tuple[str, ...] = ()
    """Of a skops file: the types in it that skops does not know to be harmless."""
    broken: str = ""
    missing: tuple[str, ...] = ()
    """Columns that it was fitted on and the sample does not have."""


def main() -> None:
    """Open, look, ask, and write what was found to the second file named on the command line."""
    question = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Question)
    _limit()
    try:
        found = look(question)
    except Exception as error:  # noqa: BLE001 - whatever its maker's code raises is the answer
        found = Found(broken=f"{type(error).__name__}: {error}"[:500])
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(found))


def _limit() -> None:
    """Bound what the file may take, and leave no core behind: it would hold the sample."""
    for kind, most in ((resource.RLIMIT_DATA, _MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


def look(question: Question) -> Found:
    """Open a model and ask it some rows of the sample."""
    import polars as pl

    types = tuple(import_module("skops.io").get_untrusted_types(file=question.place)) if question.kind == SKOPS else ()
    if types and not question.trusted:
        return Found(types=types)
    sample = pl.read_parquet(question.sample)
    model, maker = _open(question)
    names = _names_of(model) or tuple(sample.columns)
    missing = tuple(name for name in names if name not in sample.columns)
    what = f"{type(model).__module__}.{type(model).__name__}" if question.kind != FUNCTION else question.place
    classes = tuple(str(one) for one in getattr(model, "classes_", ()))
    if missing:
        return Found(what=what, names=names, missing=missing)
    used = sample.select(names)
    texts = any(dtype in (pl.String, pl.Categorical, pl.Enum) for dtype in used.dtypes)
    frame = texts or (question.kind == FUNCTION and _wants_frame(model))
    broken = _asked(question, model, used.head(_ASKED_ROWS), frame=frame, classes=len(classes))
    return Found(what=what, names=names, classes=classes, frame=frame, maker=maker, types=types, broken=broken)


def _open(question: Question) -> tuple[Any, str]:
    path = Path(question.place)
    if question.kind == PICKLE:
        import pickle

        return pickle.loads(path.read_bytes()), ""  # noqa: S301 - a person has said that it may be opened
    if question.kind == JOBLIB:
        return import_module("joblib").load(path), ""
    if question.kind == SKOPS:
        skops = import_module("skops.io")
        return skops.load(path, trusted=skops.get_untrusted_types(file=path)), ""
    if question.kind == LIGHTGBM:
        return import_module("lightgbm").Booster(model_file=str(path)), ""
    if question.kind == XGBOOST:
        return _open_xgboost(path)
    sys.path.insert(0, question.folder)
    module, _, name = question.place.partition(":")
    return getattr(import_module(module), name), ""


def _open_xgboost(path: Path) -> tuple[Any, str]:
    xgboost = import_module("xgboost")
    booster = xgboost.Booster(model_file=str(path))
    objective = msgspec.json.decode(booster.save_config())["learner"]["objective"]["name"]
    maker = "XGBClassifier" if objective.startswith(("binary:", "multi:")) else "XGBRegressor"
    model = getattr(xgboost, maker)()
    model.load_model(path)
    return model, maker


def _names_of(model: Any) -> tuple[str, ...]:
    """Return the columns that a model was fitted on, where it remembers them."""
    looks: list[Callable[[], Any]] = [
        lambda: model.feature_names_in_,
        lambda: model.feature_name() if not hasattr(model, "classes_") else (),
        lambda: model.get_booster().feature_names or (),
    ]
    for one in looks:
        try:
            names = tuple(map(str, one()))
        except Exception:  # noqa: BLE001, S112 - this library says it in another way, or not at all
            continue
        if names and not all(name.startswith("Column_") for name in names):
            return names
    return ()


def _wants_frame(function: Any) -> bool:
    annotations = getattr(function, "__annotations__", {})
    return any("DataFrame" in str(kind) for name, kind in annotations.items() if name != "return")


def _asked(question: Question, model: Any, rows: Any, *, frame: bool, classes: int) -> str:
    """Return why a model cannot answer some rows; empty where it can."""
    import numpy as np

    given = rows.to_pandas() if frame else rows.to_numpy().astype(np.float64)
    if question.kind == FUNCTION:
        answers = model(given)
    elif classes:
        answers = model.predict_proba(given)
    else:
        answers = model.predict(given)
    numbers = np.asarray(answers, dtype=np.float64)
    if len(numbers) != len(rows):
        return f"{len(numbers)} answers for {len(rows)} rows"
    if classes and numbers.shape != (len(rows), classes):
        return f"answers of the shape {numbers.shape} for {classes} classes"
    return "" if np.isfinite(numbers).all() else "NaN or infinity among its answers"


if __name__ == "__main__":
    main()
