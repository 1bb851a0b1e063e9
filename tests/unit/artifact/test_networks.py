"""Networks of torch: asked in float64 wherever they answer, and written as graphs, one export for an architecture."""

from __future__ import annotations

import pickle
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelmill.artifact import networks
from modelmill.artifact.converting import convert
from modelmill.artifact.graph import decode
from modelmill.artifact.networks import as_model
from modelmill.artifact.optimising import Unconvertible
from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PICKLE, unpickle
from modelmill.artifact.unpackable import Unpackable
from modelmill.build.comparing import arrays_of
from modelmill.errors import NetworkUnusable

if find_spec("torch") is None:
    pytest.skip("optional component missing: torch", allow_module_level=True)

torch: Any = import_module("torch")
nn: Any = torch.nn
X: NDArray[np.float64] = np.random.default_rng(6).normal(size=(60, 5))
EXPORT = networks._exported


class Scaled(nn.Module):  # type: ignore[misc]
    """A network with a setting of its own, and parts that behave otherwise while it is trained."""

    def __init__(self, scale: Any = 1.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)
        self.norm, self.drop, self.scale = nn.BatchNorm1d(8), nn.Dropout(0.5), scale

    def forward(self, x: Any) -> Any:
        return self.scale * self.last(self.drop(torch.tanh(self.norm(self.first(x))))).squeeze(-1)


class FromMean(nn.Module):  # type: ignore[misc]
    """A row's answer depends on the rows beside it."""

    def forward(self, x: Any) -> Any:
        return (x - x.mean(dim=0)).sum(dim=1)


class Single(nn.Module):  # type: ignore[misc]
    """It computes in float32, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 1)

    def forward(self, x: Any) -> Any:
        return self.inner(x.float())


class OfItsOwn(nn.Sequential):  # type: ignore[misc]
    """It is asked as its maker says."""

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = self(torch.tensor(x, dtype=torch.float32)).numpy()
        return found


class Tied(nn.Module):  # type: ignore[misc]
    """Two layers that may share their weights."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Any) -> Any:
        return self.second(torch.relu(self.first(x))).sum(dim=1)


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    torch.manual_seed(6)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Count the exports of torch: of each architecture there is to be one."""
    found: list[Any] = []
    networks.forget_architectures()

    def counted(module: Any, features: int) -> bytes:
        found.append(module)
        return EXPORT(module, features)

    monkeypatch.setattr(networks, "_exported", counted)
    return found


def net() -> Any:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))


def test_a_network_is_asked_in_float64_and_in_peace() -> None:
    module = Scaled().train()
    model = as_model(module, 0)
    found = model.predict(X)
    assert (found.dtype, found.shape, module.training) == (np.float64, (60,), False)
    with torch.no_grad():
        own = module(torch.tensor(X, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose([model.predict(row[None])[0] for row in X], found, rtol=1e-12)
    assert model.first is module.first
    assert model(torch.zeros(1, 5)).dtype == torch.float32  # as its maker asks it
    np.testing.assert_array_equal(unpickle(pickle.dumps(model)).predict(X), found)


def test_networks_of_one_architecture_are_exported_once_and_answer_as_themselves(exports: list[Any]) -> None:
    for scale in (1.0, 1.0, 1.0, 2.0):
        model = as_model(Scaled(scale), 0)
        graph, content = convert(model, X, 0, Programs())
        assert graph.agrees(X, model.predict(X))
        np.testing.assert_allclose(decode(content).predict(X), model.predict(X), rtol=1e-10, atol=1e-12)
    assert len(exports) == 2  # another setting may be a constant of the graph


def test_weights_that_are_tied_make_an_architecture_of_their_own(exports: list[Any]) -> None:
    for tied in (True, False, True, False):
        model = as_model(Tied(tied=tied), 0)
        assert convert(model, X, 0, Programs())[0].agrees(X, model.predict(X))
    assert len(exports) == 2


def test_what_may_be_a_constant_of_the_graph_is_exported_for_itself(exports: list[Any]) -> None:
    for scale in (torch.tensor(2.0), torch.tensor(3.0)):
        model = as_model(Scaled(scale), 0)
        assert convert(model, X, 0, Programs())[0].agrees(X, model.predict(X))
    assert len(exports) == 2


@pytest.mark.parametrize(
    ("classes", "end"), [(3, [nn.Linear(5, 3), nn.Softmax(dim=1)]), (2, [nn.Linear(5, 1), nn.Sigmoid()])]
)
def test_a_network_gives_a_probability_to_every_class(classes: int, end: list[Any]) -> None:
    model = as_model(nn.Sequential(*end), classes)
    found = model.predict_proba(X)
    assert found.shape == (60, classes)
    assert model.predict(X).tolist() == found.argmax(axis=1).tolist()
    graph, content = convert(model, X, classes, Programs())
    assert graph.agrees(X, found)
    np.testing.assert_allclose(decode(content).predict_proba(X), found, rtol=1e-10)
    np.testing.assert_array_equal(unpickle(pickle.dumps(model)).predict_proba(X), found)


@pytest.mark.parametrize(
    ("module", "classes", "why"),
    [
        (nn.Linear(5, 2), 0, "not one number a row"),
        (nn.Linear(5, 2), 2, "no probabilities"),
        (nn.Linear(5, 2), 3, "for each of 3 classes"),
        (Single(), 0, r"torch fails in its forward\(\)"),
        (nn.LSTM(5, 1), 0, "no tensor"),
    ],
)
def test_a_network_that_is_no_model_says_why(module: Any, classes: int, why: str) -> None:
    model = as_model(module, classes)
    with pytest.raises(NetworkUnusable, match=why):
        (model.predict_proba if classes else model.predict)(X)


def test_two_networks_that_stay_python_are_compared_weight_by_weight() -> None:
    one = as_model(net(), 0)
    same, other = (arrays_of(PICKLE, pickle.dumps(model)) for model in (one, as_model(net(), 0)))
    weights = [values for name, values in same.items() if name.endswith("['weight']")]
    assert [values.shape for values in weights] == [(8, 5), (1, 8)]
    assert not all(np.array_equal(same[name], other[name]) for name in same)


def test_a_network_is_asked_no_gaps() -> None:
    model = as_model(net(), 0)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((1, 5), np.nan))


def test_what_cannot_be_a_graph_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unconvertible, match="depends on the rows beside it"):
        convert(as_model(FromMean(), 0), X, 0, Programs())
    own = OfItsOwn(nn.Linear(5, 1))
    assert as_model(own, 0) is own
    with pytest.raises(Unconvertible, match=r"a predict\(\) of its own"):
        convert(own, X, 0, Programs())
    with pytest.raises(Unconvertible, match="ONNX Runtime does not take its graph"):
        convert(as_model(nn.Sequential(nn.Linear(5, 1), nn.GELU()), 0), X, 0, Programs())  # no kernel for float64
    with pytest.raises(Unpackable, match="a network of torch"):
        pack(as_model(net(), 0), 5, 0, Programs())
    monkeypatch.setattr("modelmill.artifact.converting._WRITERS", {"torch": "a_package_that_is_not_there"})
    with pytest.raises(Unconvertible, match=r"modelmill\[onnx\]"):
        convert(as_model(net(), 0), X, 0, Programs())
