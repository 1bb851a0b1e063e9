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

from modelmill.artifact.onnx_files import OnnxModel, answers_of_file, open_onnx
from modelmill.errors import ModelmillError

PICKLE, JOBLIB, SKOPS = "pickle", "joblib", "skops"
LIGHTGBM, XGBOOST, ONNX, FUNCTION = "lightgbm", "xgboost", "onnx", "function"
_ASKED_ROWS = 200
_SINGLE = 1e-4
"""How exactly a file of float32 is what it would be in float64, as a share of its largest answer."""
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
        found = Found(broken=_told(error))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(found))


def _told(error: Exception) -> str:
    if isinstance(error, ModelmillError):
        return "; ".join([error.what, *(f"{name} {text}" for name, text in error.parts.items() if name != "next")])[
            :500
        ]
    return f"{type(error).__name__}: {error}"[:500]


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
    model, maker = _open(question, sample.width)
    names = _names_of(model) or tuple(sample.columns)
    missing = tuple(name for name in names if name not in sample.columns)
    classes = tuple(str(one) for one in getattr(model, "labels" if question.kind == ONNX else "classes_", ()))
    what = _name_of(question, model)
    if missing:
        return Found(what=what, names=names, missing=missing)
    used = sample.select(names)
    texts = any(dtype in (pl.String, pl.Categorical, pl.Enum) for dtype in used.dtypes)
    frame = texts or (question.kind == FUNCTION and _wants_frame(model))
    broken = _asked(question, model, used.head(_ASKED_ROWS), frame=frame, classes=len(classes))
    return Found(what=what, names=names, classes=classes, frame=frame, maker=maker, types=types, broken=broken)


def _name_of(question: Question, model: Any) -> str:
    """Return what a model is; nothing that a stranger wrote, since it comes to stand in the model file."""
    if question.kind == FUNCTION:
        return question.place
    return "an ONNX graph" if question.kind == ONNX else f"{type(model).__module__}.{type(model).__name__}"


def _open(question: Question, columns: int) -> tuple[Any, str]:
    """Return a model that has predict(), or a function, and the class that reads it where there are several."""
    path = Path(question.place)
    openers: dict[str, Callable[[], Any]] = {
        PICKLE: lambda: _open_pickle(path),
        JOBLIB: lambda: import_module("joblib").load(path),
        SKOPS: lambda: _open_skops(path),
        LIGHTGBM: lambda: import_module("lightgbm").Booster(model_file=str(path)),
        ONNX: lambda: open_onnx(path, columns),
        FUNCTION: lambda: _open_function(question),
    }
    return _open_xgboost(path) if question.kind == XGBOOST else (openers[question.kind](), "")


def _open_pickle(path: Path) -> Any:
    import pickle

    return pickle.loads(path.read_bytes())  # noqa: S301 - a person has said that it may be opened


def _open_skops(path: Path) -> Any:
    skops = import_module("skops.io")
    return skops.load(path, trusted=skops.get_untrusted_types(file=path))


def _open_function(question: Question) -> Any:
    sys.path.insert(0, question.folder)
    module, _, name = question.place.partition(":")
    return getattr(import_module(module), name)


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

    if frame and question.kind == ONNX:
        return "the sample has columns of text, and an ONNX graph takes numbers"
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
    if not np.isfinite(numbers).all():
        return "NaN or infinity among its answers"
    return _unlike_its_file(question.place, model, given, numbers) if question.kind == ONNX else ""


def _unlike_its_file(place: str, model: OnnxModel, given: Any, found: Any) -> str:
    """Return how far the graph of a node is from the file that it was made of; empty where no further than float32 is exact."""
    import numpy as np

    wanted = answers_of_file(place, model, given)
    if np.allclose(found, wanted, rtol=_SINGLE, atol=_SINGLE * float(np.abs(wanted).max())):
        return ""
    return f"as a graph of a node it answers otherwise, by up to {float(np.abs(found - wanted).max()):.3g}"


if __name__ == "__main__":
    main()
