"""The runtime of linear models: coefficients used where they lie in the mapped pack, without any user code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelmill.errors import AnswerInvalid
from modelmill.model.artifact import Linear, decode_linear
from modelmill.model.fitted import as_matrix, make_x
from modelmill.model.request import RequestParser
from modelmill.model.rows import Rows
from modelmill.model.schema import SchemaSpec
from modelmill.model.tracing import open_program
from modelmill.names import Digest
from modelmill.registry.fleet import Entry
from modelmill.serving.runtime import Row
from modelmill.store.blobs import Blobs
from modelmill.store.packs import PackReader


class LinearRuntime:
    """Answers with `x @ coef + intercept`, and runs the programs of what the user's functions do around it."""

    def __init__(self, blobs: Blobs, spec: SchemaSpec, parser: RequestParser) -> None:
        """Take where the packs are; an entry is opened when it is first asked."""
        self._blobs, self._spec, self._parser = blobs, spec, parser
        self._packs: dict[Digest, PackReader] = {}
        self._opened: dict[Digest, Linear] = {}

    async def start(self) -> None:
        """Nothing is needed before the first request."""

    async def answer(self, entry: Entry, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return the answers to rows."""
        linear = self._opened.get(entry.artifact) or self._open(entry)
        parsed = self._parser.parse_rows(rows)
        try:
            answers = linear.answer(self._x(linear, parsed))
        except (ArithmeticError, TypeError, ValueError) as error:
            # What the user's function would raise at such a row, its program raises too.
            raise AnswerInvalid(f"the model gave no answer: {type(error).__name__}: {error}"[:300]) from error
        if not np.isfinite(answers).all():
            raise AnswerInvalid("the model answered NaN or infinity")
        return answers

    def _x(self, linear: Linear, rows: Rows) -> NDArray[np.float64]:
        before = linear.programs.before
        return as_matrix(open_program(before).run(rows)) if before else make_x(None, self._spec, rows)

    def _open(self, entry: Entry) -> Linear:
        if entry.pack not in self._packs:
            self._packs[entry.pack] = PackReader(self._blobs.open(entry.pack))
        content = self._packs[entry.pack].entry(entry.offset, entry.length, entry.artifact)
        linear = self._opened[entry.artifact] = decode_linear(content)
        return linear

    async def close(self) -> None:
        """Forget what was opened; the mappings go with it."""
        self._opened.clear()
        self._packs.clear()
