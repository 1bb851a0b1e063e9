"""The laws' questions to a whole fleet of linear models: what one segment is asked, the others will be asked too.

A law asks every segment the same: ``ask(price=2.0)``. Once a question comes a second time, its answers are computed for
all segments at once. Where that cannot be - @predict is written, the question is new, it has no answer - the one `Asker`
of the segment is asked, whose words an error then has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelmill.artifact.linear import Linear
from modelmill.build.plan import Step
from modelmill.build.segment import Common
from modelmill.model.fitted import Asker, Floats, column_array, make_x, typical_rows
from modelmill.model.linear import Coefficients
from modelmill.model.rows import Rows

_TOGETHER = 64
"""So many questions are answered for all; laws that ask every segment something else have no use for more."""

Question = tuple[tuple[str, type, Any], ...]


class FleetAsker:
    """What laws ask segments that lie one after the other in `rows`."""

    def __init__(self, common: Common, steps: list[Step], rows: Rows, starts: Any, models: Coefficients) -> None:
        """Find the typical row of every segment."""
        self._common, self._steps, self._models = common, steps, models
        lengths = np.array([step.rows for step in steps])
        self._typical = typical_rows(common.model.spec, rows, starts, lengths)
        self._seen: set[Question] = set()
        self._answers: dict[Question, list[float] | None] = {}

    def of(self, place: int) -> Any:
        """Return the `ask` of one segment."""
        if self._common.predict is not None:
            return self._alone(place)
        return lambda **fields: self._ask(place, fields)

    def _ask(self, place: int, fields: dict[str, Any]) -> float:
        try:
            # Of its type, too: 1 and True are equal, and yet a text column may tell them apart.
            question = tuple([(name, type(value), value) for name, value in fields.items()])
            answers = self._answers[question]
        except (KeyError, TypeError):
            answers = self._answers_to(fields)
        if answers is None or not -np.inf < answers[place] < np.inf:
            found: float = self._alone(place)(**fields)
            return found
        return answers[place]

    def _answers_to(self, fields: dict[str, Any]) -> list[float] | None:
        """Return all segments' answers to a question that has been asked before; None where there are none."""
        question = tuple((name, type(value), value) for name, value in fields.items())
        try:
            known = question in self._seen
            self._seen.add(question)
        except TypeError:  # it holds a list, say
            return None
        if not known or len(self._answers) >= _TOGETHER:
            return None
        self._answers[question] = self._computed(fields)
        return self._answers[question]

    def _computed(self, fields: dict[str, Any]) -> list[float] | None:
        try:
            x = self._x(fields)
        except Exception:  # noqa: BLE001 - of whichever segment it is: each then asks for itself
            return None
        found: list[float] = Linear.scores(self._models.coef, self._models.intercept, x).tolist()
        return found

    def _x(self, fields: dict[str, Any]) -> Floats:
        """Return the features of all typical rows with these fields changed, (segments, features)."""
        spec, many = self._common.model.spec, len(self._steps)
        values = self._typical | {name: [value] * many for name, value in fields.items()}
        columns = {column.name: column_array(column, values.pop(column.name)) for column in spec.request_columns}
        if values:
            raise LookupError("a field that is not known")
        return make_x(self._common.features, spec, Rows(columns, many))

    def _alone(self, place: int) -> Asker:
        common, model = self._common, self._common.model
        typical = {name: values[place] for name, values in self._typical.items()}
        segment, fitted = self._steps[place].segment, self._models.one(place)
        return Asker(model.spec, model.labels, common.features, common.predict, fitted, segment, typical)
