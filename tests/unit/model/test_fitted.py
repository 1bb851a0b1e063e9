"""From rows to answers: the default features, the shapes of answers, and what a law's `ask` does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import modelmill as mm
from modelmill.errors import FieldUnknown, ModelReturned
from modelmill.model.fitted import Asker, answer, make_x, make_y, typical_row
from modelmill.model.roles import read_role
from modelmill.model.rows import Coded, Rows
from modelmill.model.schema import schema_of


class Row(mm.Schema):
    """One row."""

    store: str = mm.key()
    hour: int = mm.col()
    kind: str = mm.category("car", "bus", nullable=True)
    y: str = mm.label("low", "mid", "high")


SPEC = schema_of(Row)


def rows(n: int = 6) -> Rows:
    kinds = Coded(np.array([0, 1, -1] * (n // 3), dtype=np.int32), np.array(["bus", "car"], dtype=object))
    store = np.array(["a"] * n, dtype=object)
    labels = np.array(["low", "mid", "high"] * (n // 3), dtype=object)
    return Rows({"store": store, "hour": np.arange(n), "kind": kinds, "y": labels})


def test_default_features_are_the_feature_columns_as_numbers() -> None:
    x = make_x(None, SPEC, rows(3))
    assert x[:, 0].tolist() == [0, 1, 2]
    assert x[:2, 1].tolist() == [1, 0]
    assert np.isnan(x[2, 1])


def test_a_label_becomes_its_place() -> None:
    assert make_y(SPEC, rows(3)).tolist() == [0, 1, 2]


def test_probabilities_cover_classes_that_a_segment_has_not_seen() -> None:
    x, y = np.arange(8.0).reshape(-1, 1), np.array([0, 0, 2, 2] * 2)
    found = answer(LogisticRegression().fit(x, y), None, 3, x, Rows({}, 8), ())
    assert found.shape == (8, 3)
    assert found[:, 1].tolist() == [0] * 8
    assert found.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    "returned", [None, [1.0], [1.0, float("nan")], [1.0, float("inf")], "text", [[1, 2], [3]]], ids=repr
)
def test_an_impossible_answer_is_refused(returned: Any) -> None:
    role = read_role("predict", lambda model, x: returned)
    with pytest.raises(ModelReturned):
        answer(None, role, 0, np.zeros((2, 1)), Rows({}, 2), ())


def test_something_without_predict_is_refused() -> None:
    with pytest.raises(ModelReturned, match=r"has no predict\(\)"):
        answer(object(), None, 0, np.zeros((2, 1)), Rows({}, 2), ())


class Number(mm.Schema):
    """One row with a number to predict."""

    a: float = mm.col()
    b: int = mm.col()
    y: float = mm.target()


def test_ask_fills_what_is_left_out_with_the_typical_row() -> None:
    spec = schema_of(Number)
    batch = Rows({"a": np.array([1.0, 2.0, 9.0]), "b": np.array([4, 4, 4]), "y": np.zeros(3)})
    fitted = Ridge(alpha=0).fit(np.array([[0, 0], [1, 0], [0, 1.0]]), [0, 10, 100])
    ask = Asker(spec, (), None, None, fitted, (), typical_row(spec, batch))
    assert ask() == pytest.approx(2 * 10 + 4 * 100)
    assert ask(a=3.0) == pytest.approx(3 * 10 + 4 * 100)
    with pytest.raises(FieldUnknown, match="`c`"):
        ask(c=1)


def test_an_annotation_chooses_the_data_frame() -> None:
    seen: list[str] = []

    def features(rows: "pd.DataFrame") -> Any:  # type: ignore[name-defined] # noqa: F821, UP037
        seen.append(type(rows).__module__.split(".")[0])
        return rows[["hour"]].to_numpy()

    assert make_x(read_role("features", features), SPEC, rows(3)).shape == (3, 1)
    assert seen == ["pandas"]


@pytest.mark.parametrize(
    "returned",
    [[0.0, float("nan")], [0.0, 3.0], [0.0, -1.0], [[0.1, 0.2, 0.3, 0.4]] * 2],
    ids=["nan", "too high", "negative", "too many"],
)
def test_a_classifier_cannot_answer_a_class_that_is_none(returned: Any) -> None:
    role = read_role("predict", lambda model, x: returned)
    with pytest.raises(ModelReturned):
        answer(None, role, 3, np.zeros((2, 1)), Rows({}, 2), ())
