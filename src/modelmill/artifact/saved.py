"""What every saved model that answers without its user's code has in common, be it arrays or a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.tracing import open_program

Floats = NDArray[np.float64]


class Classes(NamedTuple):
    """The classes of a classification."""

    every: int
    seen: tuple[int, ...]
    """Which of them the model has numbers for, in its order."""


class Programs(NamedTuple):
    """What the user's functions do around a model, as bytes of `tracing.Program`; empty where there is no such function."""

    before: bytes = b""
    """From rows to ``x``."""
    after: bytes = b""
    """From ``x`` and ``answers`` to answers."""


class Cold(Exception):
    """The model is known and not open: it is opened first, and asked again."""


class Saved(ABC):
    """A model that answers without any code of its library or its user.

    To user code that asks it, it is a fitted estimator: it has `predict`, and `predict_proba` where it has classes.
    """

    def __init__(self, features: int, classes: Classes | None, programs: Programs) -> None:
        """Take what is around the model; `features` is how many columns ``x`` has."""
        self.features, self.classes, self.programs = features, classes, programs
        self._after = open_program(programs.after) if programs.after else None
        self._is_plain = self._after is None and (classes is None or len(classes.seen) == classes.every)

    def __getattr__(self, name: str) -> Any:
        # A regression has no such attributes: whoever looks for them finds out what the model is.
        if name in {"predict_proba", "classes_"} and self.__dict__.get("classes") is not None:
            return self.raw if name == "predict_proba" else np.array(self.classes.seen)  # type: ignore[union-attr]
        raise AttributeError(name)

    @abstractmethod
    def raw(self, x: Floats) -> Floats:
        """Return what the library itself answers to (rows, features): (rows,), or (rows, classes that it saw)."""

    def predict(self, x: Floats) -> NDArray[Any]:
        """Return (rows,) answers: numbers, or codes of the likeliest classes."""
        found: NDArray[Any] = self.raw(x)
        if self.classes is None:
            return found
        codes: NDArray[Any] = np.array(self.classes.seen)[found.argmax(axis=1)]
        return codes

    def answer(self, x: Floats) -> Floats:
        """Return the answers that a caller gets, after @predict: (rows,), or (rows, all classes)."""
        found = self._of_all(self.raw(x))
        if self._after is None:
            return found
        changed = np.asarray(self._after.run({"x": x, "answers": found}), dtype=np.float64)
        return changed if self.classes is not None else changed.reshape(-1)

    def one(self, x: Floats) -> list[float]:
        """Return the answer to one row, (1, features), as plain numbers: as many as an answer has."""
        found: list[float] = self.answer(x).reshape(-1).tolist()
        return found

    def _checked(self, x: Floats) -> Floats:
        """Return ``x`` as the loops read it; raises ValueError where it has another shape."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"x has the shape {x.shape}, but this model takes (rows, {self.features})")
        return x if x.flags.c_contiguous and x.dtype == np.float64 else np.ascontiguousarray(x, dtype=np.float64)

    def _of_all(self, found: Floats) -> Floats:
        """Return probabilities of all classes; those that the model has not seen have none."""
        if self.classes is None or len(self.classes.seen) == self.classes.every:
            return found
        full = np.zeros((len(found), self.classes.every))
        full[:, list(self.classes.seen)] = found
        return full
