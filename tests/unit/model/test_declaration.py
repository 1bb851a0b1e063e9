"""A model's declaration: what is impossible is refused while the file is imported, and the functions stay functions."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import modelmill as mm
from modelmill.errors import DeclarationInvalid


class Row(mm.Schema):
    """One row."""

    store: str = mm.key()
    hour: int = mm.col()
    y: float = mm.target()


def make(**options: Any) -> mm.Model:
    return mm.Model("sales", Row, by=[Row.store], **options)


def test_a_decorator_returns_the_very_function() -> None:
    model = make()

    def train(x: np.ndarray, y: np.ndarray, alpha: float = 1.0) -> object:
        return alpha

    assert model.train(train) is train
    assert model.roles["train"] is train
    assert model.parameters == {"alpha": 1.0}


def test_a_decorator_takes_no_option_that_nothing_would_come_of() -> None:
    with pytest.raises(TypeError, match="checkpoint"):
        make().train(checkpoint="5m")  # type: ignore[call-arg]


def test_a_misspelt_role_is_guessed() -> None:
    with pytest.raises(DeclarationInvalid) as caught:
        make().predct  # noqa: B018
    assert caught.value.parts["likely"] == "did you mean `predict`?"


def test_an_unknown_parameter_is_named_with_its_place() -> None:
    with pytest.raises(DeclarationInvalid, match="@predict does not know the parameter `z`") as caught:
        make().predict(lambda model, z: z)
    assert "test_declaration.py" in caught.value.parts["where"]


def test_a_needed_parameter_is_asked_for() -> None:
    with pytest.raises(DeclarationInvalid, match="@test needs the parameter `ask`"):
        make().test(lambda: None)


def test_by_names_keys_only() -> None:
    with pytest.raises(DeclarationInvalid, match="`by` names `hour`"):
        mm.Model("sales", Row, by=["hour"])


def test_a_model_needs_train() -> None:
    with pytest.raises(DeclarationInvalid, match="has no @train"):
        make().check_complete()


@pytest.mark.parametrize(
    "options",
    [
        {"min_rows": 1},
        {"test_share": 1.0},
        {"metrics": ["maee"]},
        {"gate": [mm.p99_ms]},
        {"gate": ["mae < 3"]},
        {"gate": [mm.better("maee", than="mean")]},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DeclarationInvalid):
        model = make(**options)
        model.train(lambda x, y: x)
        model.check_complete()


@pytest.mark.parametrize("steps", [["2%", "1%", "100%"], ["50%"], ["2"], [], ["shadow"], ["100%", "100%"]])
def test_canary_steps_grow_to_all(steps: list[str]) -> None:
    with pytest.raises(DeclarationInvalid):
        mm.Canary(steps=steps)


def test_conditions_print_readably() -> None:
    shown = [mm.worse("mae") > 0.1, mm.drifted(Row.hour), mm.every("week"), mm.better("mae", than="mean", by=0.1)]
    assert list(map(str, shown)) == ["worse(mae) > 0.1", "drift(hour)", "every(week)", "better(mae) than mean by 0.1"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mm.every("weak"),
        lambda: mm.worse("mae") > "1",  # type: ignore[operator]
        lambda: mm.better("mae", than="men"),  # type: ignore[arg-type]
    ],
)
def test_wrong_conditions_are_refused(wrong: Any) -> None:
    with pytest.raises(DeclarationInvalid):
        wrong()


@pytest.mark.parametrize(
    ("metric", "said"), [("r2", "cannot be judged while labels come"), ("mea", "no regression metric")]
)
def test_a_canary_watches_only_means_over_rows(metric: str, said: str) -> None:
    model = make(canary=mm.Canary(steps=["100%"], abort=[mm.worse(metric) > 0.1]))
    model.train(lambda x, y: x)
    with pytest.raises(DeclarationInvalid, match=said):
        model.check_complete()


def test_a_declaration_is_data() -> None:
    model = make(gate=[mm.at_least("r2", 0.5)])
    model.train(lambda x, y, alpha=1.0: x)
    again = msgspec.json.decode(msgspec.json.encode(model.declaration()))
    assert again["gate"] == [{"left": "r2", "op": ">=", "right": 0.5}]
    assert again["parameters"] == {"alpha": "1.0"}


def test_two_functions_in_one_role_are_refused() -> None:
    model = make()

    def first(x: Any, y: Any) -> None: ...
    def second(x: Any, y: Any) -> None: ...

    model.train(first)
    with pytest.raises(DeclarationInvalid, match="two @train"):
        model.train(second)


class _Sale(mm.Schema):
    a: float = mm.col()
    y: float = mm.target()


def test_a_declared_batch_leaves_the_function_as_it_was_written() -> None:
    m = mm.Model("m", _Sale)

    @m.predict(batch=64, wait="5ms")
    def predict(model: float, x: np.ndarray) -> np.ndarray:
        return model * x[:, 0]

    assert predict(2.0, np.array([[1.0], [2.0]])).tolist() == [2.0, 4.0]
    assert m.roles["predict"] is predict
    assert (m.batching.rows, m.batching.wait_s) == (64, 0.005) if m.batching else False
    assert str(m.batching) == "up to 64 rows together, a request waits for others for up to 5 ms"
    assert m.declaration()["batching"] == m.batching


def test_without_a_batch_nothing_is_declared() -> None:
    m = mm.Model("m", _Sale)

    @m.predict
    def predict(model: float, x: np.ndarray) -> np.ndarray:
        return model * x[:, 0]

    assert predict(2.0, np.array([[1.0]])).tolist() == [2.0]
    assert m.batching is None
    assert "batching" not in m.declaration()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch": 0}, "`batch` is 0"),
        ({"batch": True}, "`batch` is True"),
        ({"batch": 5000}, "`batch` is 5000"),
        ({"batch": 8, "wait": "5"}, "`wait` is '5'"),
        ({"batch": 8, "wait": "2s"}, "`wait` is '2s'"),
        ({"wait": "5ms"}, "only where `batch` says"),
    ],
)
def test_a_batch_that_means_nothing_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationInvalid, match=told):
        mm.Model("m", _Sale).predict(**options)
