"""Objects that scikit-learn fits, as graphs: their answers, and what is no graph."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import BayesianRidge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from modelmill.artifact import converting
from modelmill.artifact.converting import arrays_of, convert
from modelmill.artifact.graph import decode, encode, split
from modelmill.artifact.optimising import MISSING, Unconvertible
from modelmill.artifact.saved import Cold, Programs
from modelmill.artifact.tracing import Constant, Program, Reference, Step
from modelmill.errors import BlobBroken

Floats = NDArray[np.float64]
RNG = np.random.default_rng(6)
X: Floats = RNG.normal(size=(300, 5))
Y: Floats = X[:, 0] + np.sin(X[:, 1]) + 3
CODES = (X[:, 0] > 0).astype(np.int64) + 2 * (X[:, 1] > 1)
REGRESSORS = [
    MLPRegressor(hidden_layer_sizes=(16, 8), max_iter=60, random_state=0),
    make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=60, random_state=0)),
    KNeighborsRegressor(),
    GaussianProcessRegressor(alpha=1e-2, random_state=0),
    BayesianRidge(),
]
CLASSIFIERS = [MLPClassifier((16,), max_iter=60, random_state=0), KNeighborsClassifier(), GaussianNB()]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sixty rounds are too few to converge
        yield


@pytest.mark.parametrize("model", REGRESSORS, ids=lambda one: type(one).__name__)
def test_a_regression_answers_as_a_graph_as_it_does_itself(model: Any) -> None:
    model.fit(X, Y)
    graph, content = convert(model, X, 0, Programs())
    assert graph.agrees(X, model.predict(X))
    again = decode(content)
    np.testing.assert_allclose(again.predict(X), model.predict(X), rtol=1e-10)
    assert again.one(X[:1]) == pytest.approx(model.predict(X[:1]).tolist(), rel=1e-10)
    assert not hasattr(again, "predict_proba")


@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda one: type(one).__name__)
def test_a_classification_gives_a_probability_to_every_class(model: Any) -> None:
    seen = np.isin(CODES, (0, 1, 3))  # the target has four classes, and the model has seen three
    model.fit(X[seen], CODES[seen])
    graph, _ = convert(model, X, 4, Programs())
    wanted = np.insert(model.predict_proba(X), 2, 0.0, axis=1)
    np.testing.assert_allclose(graph.answer(X), wanted, rtol=1e-10, atol=1e-300)
    assert graph.predict(X).tolist() == model.predict(X).tolist()


def test_what_the_users_function_does_behind_it_is_done() -> None:
    model = REGRESSORS[0].fit(X, Y)
    clipped = Program(("answers",), (Step("clip", (Reference(0), Constant(0), Constant(1))),), 1).encode()
    graph, _ = convert(model, X, 0, Programs(after=clipped))
    assert graph.agrees(X, np.clip(model.predict(X), 0, 1))
    assert not graph.agrees(X, model.predict(X))


def test_a_graph_refuses_what_its_library_refuses() -> None:
    model = REGRESSORS[2].fit(X, Y)
    graph, _ = convert(model, X, 0, Programs())
    gap = np.where(np.arange(5) == 2, np.nan, X[:1])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(gap)
    with pytest.raises(ValueError, match="NaN"):
        graph.answer(gap)
    with pytest.raises(ValueError, match="shape"):
        graph.answer(X[:, :4])


def test_what_takes_missing_values_is_no_graph() -> None:
    model = make_pipeline(SimpleImputer(), MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0))
    with pytest.raises(Unconvertible, match="missing values"):
        convert(model.fit(X, Y), X, 0, Programs())


def test_what_cannot_be_a_graph_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unconvertible, match="ONNX Runtime does not take its graph"):
        convert(SVR().fit(X, Y), X, 0, Programs())  # it has no kernel for float64
    with pytest.raises(Unconvertible, match="^$"):
        convert(object(), X, 0, Programs())
    with pytest.raises(Unconvertible, match="classifier for a target that is a number"):
        convert(GaussianNB().fit(X, CODES), X, 0, Programs())
    monkeypatch.setattr(converting, "_NEEDED", ("onnxruntime", "a_package_that_is_not_there"))
    with pytest.raises(Unconvertible, match=r"modelmill\[onnx\]"):
        convert(REGRESSORS[0].fit(X, Y), X, 0, Programs())
    assert "onnx" in MISSING


def test_a_graph_that_is_closed_is_cold() -> None:
    graph, _ = convert(BayesianRidge().fit(X, Y), X, 0, Programs())
    graph.session = None
    with pytest.raises(Cold):
        graph.one(X[:1])


def test_the_same_object_has_the_same_numbers_whatever_the_order_of_its_bytes() -> None:
    model = KNeighborsRegressor().fit(X, Y)
    one, other = (arrays_of(split(convert(model, X, 0, Programs())[1])[1]) for _ in range(2))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert any(values.shape == X.shape for values in one.values())
    moved = arrays_of(split(convert(KNeighborsRegressor().fit(X + 1e-9, Y), X, 0, Programs())[1])[1])
    assert not all(np.array_equal(one[name], moved[name]) for name in one)


def test_bytes_that_are_no_graph_are_refused_before_they_are_opened() -> None:
    _, content = convert(BayesianRidge().fit(X, Y), X, 0, Programs())
    header, ort = split(content)
    for bad in (
        b"",
        b"PK\x03\x04",
        content[:20],
        content[:4] + b"\xff" * 8 + content[12:],
        encode(header, b"\x80\x05cos\nsystem\n"),  # a pickle
        encode(header, b"\x08\x07\x12\x04onnx" + bytes(ort)),  # ONNX's own format is never looked for
    ):
        with pytest.raises(BlobBroken):
            decode(bad)
