"""The functions of delays.py are ordinary Python: run these with `pytest`."""

import numpy as np
import pytest
from delays import air_time, features, train
from delays import leaving_an_hour_later_changes_little as law

import modelmill as mm


def test_features_of_a_row_do_not_depend_on_other_rows() -> None:
    times = np.array(["2013-01-01T09", "2013-07-02T17"], dtype="datetime64[us]")
    rows = mm.Rows({"time_hour": times, "distance": np.array([187, 2475]), "hour": np.array([9, 17])})
    assert np.array_equal(features(rows)[1:], features(rows.take(slice(1, 2))))


def test_train_finds_a_straight_line() -> None:
    x = np.random.default_rng(0).normal(0, 30, (500, 4))
    model = train(x, 2 * x[:, 0] - 5)
    assert model.predict(np.array([[60.0, 0, 0, 0]]))[0] == pytest.approx(115, abs=0.1)


def test_the_law_can_fail() -> None:
    law(lambda hour: 120.0 + hour)
    with pytest.raises(AssertionError):
        law(lambda hour: 100.0 * hour)


def test_there_is_one_model_a_route() -> None:
    assert [str(column) for column in air_time.by] == ["origin", "carrier", "dest"]
    assert air_time.roles["train"] is train
