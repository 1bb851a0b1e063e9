"""Packed models answer what their libraries answer: 24,000 rows each, missing values and unknown categories among them.

Equal means: the same bits for trees whose answers are plain sums, within 4 units in the last place for probabilities,
within 1e-12 of sum |coefficient x feature| + |intercept| for linear models. `agrees` holds each family to its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor

from modelmill.artifact import packing
from modelmill.artifact.packed import Packed, decode
from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.unpackable import Unpackable
from modelmill.errors import BlobBroken

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
    pytest.mark.filterwarnings("ignore:Found unknown categories"),
]

ROWS, TRAINED = 24_000, 3_000
RNG = np.random.default_rng(7)


def _table() -> tuple[Any, Any]:
    x = RNG.normal(size=(ROWS, 6))
    x[:, 4] = RNG.integers(0, 12, ROWS)
    x[:, 5] = RNG.integers(0, 60, ROWS)
    x[:TRAINED, 5] = RNG.integers(0, 45, TRAINED)  # the other categories are unknown to the model
    return x, 2 * x[:, 0] + np.sin(3 * x[:, 1]) + x[:, 4] % 3 + 0.1 * RNG.normal(size=ROWS)


X, Y = _table()
HOLES = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
TARGETS = {0: Y, 2: (Y > 1).astype(int), 3: np.digitize(Y, [0, 2])}
POSITIVE = np.exp(Y / 4)

TREES = {"n_estimators": 20, "random_state": 0}
FEW = {"max_iter": 20, "random_state": 0}
LIGHT: dict[str, Any] = {"n_estimators": 20, "num_leaves": 15, "verbose": -1, "n_jobs": 1}
BOOST: dict[str, Any] = {"n_estimators": 20, "n_jobs": 1}
CODED = ["q", "q", "q", "q", "c", "c"]


def _prepared(*last: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    parts = [("n", numbers, [0, 1, 2]), ("c", OneHotEncoder(handle_unknown="ignore"), [4]), ("o", ordinal, [5])]
    return make_pipeline(ColumnTransformer(parts), SimpleImputer(), *last)


def _dropped(last: Any) -> Any:
    parts = [("c", OneHotEncoder(drop="first", sparse_output=False), [4])]
    return make_pipeline(ColumnTransformer(parts, remainder="passthrough"), last)


# name: (model, classes, with holes)
MODELS: dict[str, tuple[Any, int, bool]] = {
    "ols": (LinearRegression(), 0, False),
    "ridge": (make_pipeline(StandardScaler(), Ridge()), 0, False),
    "lasso": (Lasso(0.01), 0, False),
    "elastic net": (ElasticNet(0.01), 0, False),
    "sgd": (make_pipeline(StandardScaler(), SGDRegressor(random_state=0)), 0, False),
    "logistic of 2": (LogisticRegression(max_iter=200), 2, False),
    "logistic of 3": (LogisticRegression(max_iter=200), 3, False),
    "logistic, liblinear": (LogisticRegression(solver="liblinear"), 2, False),
    **{
        f"sgd {loss} of {n}": (make_pipeline(StandardScaler(), SGDClassifier(loss=loss, random_state=0)), n, False)
        for loss in ("log_loss", "modified_huber", "hinge")
        for n in (2, 3)
    },
    "tree": (DecisionTreeRegressor(max_depth=9), 0, True),
    "random tree": (ExtraTreeRegressor(max_depth=9), 0, False),
    "tree of 3": (DecisionTreeClassifier(max_depth=9), 3, True),
    "forest": (RandomForestRegressor(**TREES), 0, True),
    "forest of 2": (RandomForestClassifier(max_depth=8, **TREES), 2, False),
    "forest of 3": (RandomForestClassifier(max_depth=8, **TREES), 3, True),
    "extra trees": (ExtraTreesRegressor(max_depth=9, **TREES), 0, True),
    "extra trees of 3": (ExtraTreesClassifier(max_depth=8, **TREES), 3, False),
    **{
        f"gradient boosting, {loss}": (GradientBoostingRegressor(loss=loss, **TREES), 0, False)
        for loss in ("squared_error", "huber", "quantile", "absolute_error")
    },
    "gradient boosting from zero": (GradientBoostingRegressor(init="zero", **TREES), 0, False),
    "gradient boosting of 2": (GradientBoostingClassifier(**TREES), 2, False),
    "gradient boosting, exponential": (GradientBoostingClassifier(loss="exponential", **TREES), 2, False),
    "gradient boosting of 3": (GradientBoostingClassifier(**TREES), 3, False),
    "hist": (HistGradientBoostingRegressor(**FEW), 0, True),
    "hist by category": (HistGradientBoostingRegressor(categorical_features=[4, 5], **FEW), 0, True),
    "hist of 2": (HistGradientBoostingClassifier(**FEW), 2, True),
    "hist of 3 by category": (HistGradientBoostingClassifier(categorical_features=[5], **FEW), 3, True),
    "lightgbm": (lightgbm.LGBMRegressor(**LIGHT), 0, True),
    "lightgbm, no holes": (lightgbm.LGBMRegressor(**LIGHT), 0, False),
    "lightgbm, huber": (lightgbm.LGBMRegressor(objective="huber", **LIGHT), 0, True),
    "lightgbm, root": (lightgbm.LGBMRegressor(reg_sqrt=True, **LIGHT), 0, True),
    "lightgbm, zero is missing": (lightgbm.LGBMRegressor(zero_as_missing=True, **LIGHT), 0, True),
    "lightgbm forest": (lightgbm.LGBMRegressor(boosting_type="rf", subsample=0.5, subsample_freq=1, **LIGHT), 0, True),
    "lightgbm dart": (lightgbm.LGBMRegressor(boosting_type="dart", **LIGHT), 0, True),
    "lightgbm by category": (lightgbm.LGBMRegressor(cat_smooth=1, **LIGHT), 0, True),
    "lightgbm of 2": (lightgbm.LGBMClassifier(**LIGHT), 2, True),
    "lightgbm of 3": (lightgbm.LGBMClassifier(**LIGHT), 3, True),
    "lightgbm one against all": (lightgbm.LGBMClassifier(objective="multiclassova", **LIGHT), 3, True),
    "xgboost": (xgboost.XGBRegressor(**BOOST), 0, True),
    "xgboost by category": (xgboost.XGBRegressor(feature_types=CODED, enable_categorical=True, **BOOST), 0, True),
    "xgboost of 2": (xgboost.XGBClassifier(**BOOST), 2, True),
    "xgboost of 3": (xgboost.XGBClassifier(**BOOST), 3, True),
    "prepared ridge": (_prepared(Ridge()), 0, True),
    "prepared logistic": (_prepared(LogisticRegression(max_iter=300)), 3, True),
    "prepared hist": (_prepared(HistGradientBoostingRegressor(**FEW)), 0, True),
    "dropped ridge": (_dropped(Ridge()), 0, False),
    "clipped forest": (make_pipeline(MinMaxScaler(clip=True), RandomForestRegressor(**TREES)), 0, False),
}


def answers_of(fitted: Any, x: Any, classes: int) -> Any:
    if not classes:
        return np.asarray(fitted.predict(x), dtype=np.float64)
    if hasattr(fitted, "predict_proba"):
        return np.asarray(fitted.predict_proba(x), dtype=np.float64)
    return np.eye(classes)[fitted.predict(x)]


@pytest.mark.parametrize(("model", "classes", "holes"), MODELS.values(), ids=MODELS)
def test_a_packed_model_answers_as_its_library_does(model: Any, classes: int, holes: bool) -> None:
    x = HOLES if holes else X
    options = {"categorical_feature": [4, 5]} if getattr(model, "cat_smooth", 0) else {}
    fitted = model.fit(x[:TRAINED], TARGETS[classes][:TRAINED], **options)
    packed = pack(fitted, x.shape[1], classes, Programs())
    content = packed.encode()
    again = decode(content)
    assert again.encode() == content
    expected = answers_of(fitted, x, classes)
    assert again.agrees(x, expected)
    assert not again.agrees(x, expected + 1e-6)
    different = np.abs(again.predict(x) - fitted.predict(x)) > 1e-6 * np.abs(fitted.predict(x))
    assert not different.any()
    assert again.one(x[:1]) == again.answer(x[:1]).reshape(-1).tolist()


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingRegressor(loss="poisson", **FEW),
        lightgbm.LGBMRegressor(objective="poisson", **LIGHT),
        lightgbm.LGBMRegressor(objective="tweedie", **LIGHT),
        xgboost.XGBRegressor(objective="count:poisson", **BOOST),
        xgboost.XGBRegressor(objective="reg:gamma", **BOOST),
    ],
    ids=lambda model: f"{type(model).__name__} {getattr(model, 'objective', '') or model.loss}",
)
def test_so_does_one_whose_link_is_an_exponential(model: Any) -> None:
    fitted = model.fit(HOLES[:TRAINED], POSITIVE[:TRAINED])
    packed = pack(fitted, 6, 0, Programs())
    assert packed.agrees(HOLES, answers_of(fitted, HOLES, 0))


def test_a_booster_of_a_regression_is_packed() -> None:
    light = lightgbm.train({"verbose": -1, "num_leaves": 7}, lightgbm.Dataset(X[:500], Y[:500]), 10)
    boost = xgboost.train({"max_depth": 3}, xgboost.DMatrix(X[:500], Y[:500]), 10)
    assert pack(light, 6, 0, Programs()).agrees(X, np.asarray(light.predict(X)))
    assert pack(boost, 6, 0, Programs()).agrees(X, boost.predict(xgboost.DMatrix(X)).astype(np.float64))


def test_stopping_early_is_followed() -> None:
    half = slice(1000, 2000)
    model = xgboost.XGBRegressor(n_estimators=200, learning_rate=1.0, early_stopping_rounds=2, n_jobs=1)
    model.fit(X[:1000], Y[:1000], eval_set=[(X[half], Y[half])], verbose=False)
    assert model.best_iteration < 199
    assert pack(model, 6, 0, Programs()).agrees(X, answers_of(model, X, 0))
    light = lightgbm.LGBMRegressor(n_estimators=200, learning_rate=1.0, verbose=-1)
    stop = lightgbm.early_stopping(2, verbose=False)
    light.fit(X[:1000], Y[:1000], eval_X=X[half], eval_y=Y[half], callbacks=[stop])
    assert light.best_iteration_ < 200
    assert pack(light, 6, 0, Programs()).agrees(X, answers_of(light, X, 0))


def test_a_tree_that_is_one_leaf_answers() -> None:
    light = lightgbm.LGBMRegressor(**LIGHT).fit(X[:30], np.ones(30))
    assert pack(light, 6, 0, Programs()).agrees(X, answers_of(light, X, 0))


def test_classes_that_were_not_seen_have_no_probability() -> None:
    fitted = LogisticRegression().fit(X[:500], np.where(Y[:500] > 1, 3, 1))
    found = pack(fitted, 6, 5, Programs()).answer(X[:10])
    assert np.array_equal(found[:, [1, 3]], pack(fitted, 6, 5, Programs()).raw(X[:10]))
    assert not found[:, [0, 2, 4]].any()


@pytest.mark.parametrize(
    "model",
    [Ridge(), RandomForestRegressor(**TREES), GradientBoostingRegressor(**TREES)],
    ids=lambda m: type(m).__name__,
)
def test_a_row_that_the_library_refuses_has_no_answer(model: Any) -> None:
    packed = pack(model.fit(X[:500], Y[:500]), 6, 0, Programs())
    rows = X[:3].copy()
    rows[1, 0] = 1e39 if isinstance(model, RandomForestRegressor) else np.nan  # more than float32 holds
    found = packed.answer(rows)
    assert np.isnan(found).tolist() == [False, True, False]


def test_an_unknown_category_that_is_an_error_has_no_answer() -> None:
    fitted = _dropped(Ridge()).fit(X[:TRAINED], Y[:TRAINED])
    unknown = X[:2].copy()
    unknown[0, 4] = 99
    assert np.isfinite(pack(fitted, 6, 0, Programs()).answer(unknown)).tolist() == [False, True]


class Tuned(Ridge):  # type: ignore[misc]
    """A class of the user's own: its predict may do anything."""


UNPACKABLE: dict[str, tuple[Callable[[], Any], int, str]] = {
    "neighbours": (lambda: KNeighborsRegressor().fit(X[:99], Y[:99]), 0, "no packed form"),
    "a subclass": (lambda: Tuned().fit(X[:99], Y[:99]), 0, "Tuned"),
    "another step": (lambda: make_pipeline(PolynomialFeatures(), Ridge()).fit(X[:99], Y[:99]), 0, "PolynomialFeatures"),
    "a function": (lambda: lambda x: x, 0, "function"),
    "two targets": (lambda: Ridge().fit(X[:99], np.column_stack([Y[:99], Y[:99]])), 0, "more than one target"),
    "two targets, trees": (
        lambda: DecisionTreeRegressor().fit(X[:99], np.column_stack([Y[:99], Y[:99]])),
        0,
        "more than one target",
    ),
    "its own start": (
        lambda: GradientBoostingRegressor(init=Ridge(), n_estimators=2).fit(X[:99], Y[:99]),
        0,
        "initial model",
    ),
    "leaves of lines": (
        lambda: lightgbm.LGBMRegressor(linear_tree=True, **LIGHT).fit(X[:300], Y[:300]),
        0,
        "linear models in its leaves",
    ),
    "its own objective": (
        lambda: lightgbm.LGBMRegressor(objective=lambda y, p: (p - y, np.ones_like(y)), **LIGHT).fit(X[:99], Y[:99]),
        0,
        "objective of its own",
    ),
    "another booster": (lambda: xgboost.XGBRegressor(booster="dart", **BOOST).fit(X[:99], Y[:99]), 0, "dart"),
    "several trees a round": (
        lambda: xgboost.XGBRFClassifier(n_estimators=3).fit(X[:99], TARGETS[3][:99]),
        3,
        "no packed form",
    ),
    "a marker for missing": (lambda: xgboost.XGBRegressor(missing=-1, **BOOST).fit(X[:99], Y[:99]), 0, "stands for"),
    "a booster for classes": (
        lambda: lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X[:99], TARGETS[2][:99]), 2),
        2,
        "Booster for classes",
    ),
    "a classifier of numbers": (
        lambda: LogisticRegression().fit(X[:99], TARGETS[2][:99]),
        0,
        "target that is a number",
    ),
    "a regression of classes": (lambda: Ridge().fit(X[:99], TARGETS[2][:99]), 2, "target that is a class"),
    "classes by name": (lambda: LogisticRegression().fit(X[:99], TARGETS[2][:99].astype(str)), 2, "no codes"),
    "support vectors": (lambda: SVC().fit(X[:99], TARGETS[2][:99]), 2, "no packed form"),
    "frequent categories": (
        lambda: make_pipeline(OneHotEncoder(min_frequency=5), Ridge()).fit(X[:99, 4:], Y[:99]),
        0,
        "infrequent",
    ),
}


@pytest.mark.parametrize(("make", "classes", "reason"), UNPACKABLE.values(), ids=UNPACKABLE)
def test_what_has_no_packed_form_says_why(make: Callable[[], Any], classes: int, reason: str) -> None:
    fitted = make()
    with pytest.raises(Unpackable, match=reason):
        pack(fitted, getattr(fitted, "n_features_in_", 6), classes, Programs())


def test_a_library_of_another_version_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = Ridge().fit(X[:99], Y[:99])
    for version in ("1.5.2", "2.0.0"):
        monkeypatch.setitem(sys.modules, "sklearn", SimpleNamespace(__version__=version))
        with pytest.raises(Unpackable, match=version):
            pack(fitted, 6, 0, Programs())


def test_every_reader_names_a_class_of_its_library() -> None:
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.tree

    modules = (sklearn.linear_model, sklearn.ensemble, sklearn.tree, lightgbm, xgboost)
    for library in packing.LIBRARIES.values():
        assert all(any(hasattr(module, name) for module in modules) for name in library.readers)


def test_x_of_another_width_is_refused() -> None:
    packed = pack(Ridge().fit(X[:99], Y[:99]), 6, 0, Programs())
    with pytest.raises(ValueError, match="takes"):
        packed.answer(X[:2, :5])
    assert not packed.agrees(X[:2, :5], Y[:2])


def forest() -> Packed:
    fitted = RandomForestClassifier(n_estimators=3, max_depth=3, random_state=0).fit(X[:300], TARGETS[3][:300])
    return pack(fitted, 6, 3, Programs())


@pytest.mark.parametrize("cut", [0, 3, 12, 40, -1])
def test_bytes_that_are_cut_off_are_refused(cut: int) -> None:
    with pytest.raises(BlobBroken):
        decode(forest().encode()[:cut])


@pytest.mark.parametrize(("field", "wrong"), [("child", 10_000), ("child", -5), ("feature", 6), ("child", 0)], ids=str)
def test_nodes_that_point_elsewhere_are_refused(field: str, wrong: int) -> None:
    model = forest()
    body: Any = model.body
    nodes = body.nodes.copy()
    nodes[field][0] = wrong
    broken = Packed(body._replace(nodes=nodes), 6, None, model.classes)
    with pytest.raises(BlobBroken):
        decode(broken.encode())
