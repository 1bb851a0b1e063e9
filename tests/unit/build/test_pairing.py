"""Two models on the same rows: sizes, intervals and verdicts, each against arithmetic done by hand or tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelmill.build.pairing import clearly, losses, pair, t_quantile


@pytest.mark.parametrize(
    ("level", "freedom", "expected"),
    # Any table of Student's distribution, two-sided.
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.3027),
        (0.95, 5, 2.5706),
        (0.95, 30, 2.0423),
        (0.99, 59, 2.6618),
        (0.95, 60, 2.0003),
    ],
)
def test_quantiles_are_those_of_the_tables(level: float, freedom: int, expected: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(expected, abs=6e-5)


def test_segments_are_the_clusters_of_the_interval() -> None:
    found = pair("mae", np.array([1.0, 3.0, 2.0, 2.0]), np.zeros(4), np.array([2, 2]))
    # The mean is 2; the residuals of the segments sum to 0 and 0, of which nothing is left.
    assert (found.difference, found.error, found.freedom) == (2.0, 0.0, 1)
    other = pair("mae", np.array([1.0, 1.0, 3.0, 3.0]), np.zeros(4), np.array([2, 2]))
    # Residuals -2 and 2: sqrt(2 / 1 * (4 + 4)) / 4 rows = 1; t(0.95, 1) = 12.7062
    assert other.error == pytest.approx(1.0)
    assert other.interval() == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    assert (found.verdict(), other.verdict()) == ("worse", "no real difference")


def test_a_single_segment_has_its_rows_as_clusters() -> None:
    found = pair("mae", np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array([3]))
    # The paired t interval: s / sqrt(n) with s = 1.
    assert found.freedom == 2
    assert found.error == pytest.approx(1 / math.sqrt(3))


def test_more_arms_widen_the_interval_of_each() -> None:
    found = pair("mae", np.array([1.0, 1.1, 1.2, 1.0]), np.zeros(4), np.array([1, 1, 1, 1]))
    widths = [high - low for low, high in map(found.interval, (1, 2, 20))]
    assert widths == sorted(widths) != [widths[0]] * 3
    assert found.interval(5) == pytest.approx(
        tuple(found.difference + s * t_quantile(0.99, 3) * found.error for s in (-1, 1))
    )


def test_one_row_tells_nothing() -> None:
    found = pair("mae", np.array([5.0]), np.zeros(1), np.array([1]))
    assert (found.interval(), found.verdict()) == ((-math.inf, math.inf), "no real difference")


def test_rounding_is_no_difference() -> None:
    loss = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    found = pair("mae", loss * (1 + 1e-12), loss, np.array([6]))
    assert (found.difference, found.better, found.worse, found.verdict()) == (0.0, 0, 0, "no real difference")


def test_a_segment_is_clear_beyond_two_errors_and_never_with_few_rows() -> None:
    steady, noisy = [1.0, 1.1, 0.9, 1.0, 1.0], [5.0, -5.0, 1.0, -1.0, 0.5]
    difference = np.array([*steady, *(-value for value in steady), *noisy, 9.0, 9.0])
    assert clearly(difference, np.array([5, 5, 5, 2])).tolist() == [1, -1, 0, 0]


def test_every_metric_has_a_loss_by_rows() -> None:
    y, p = np.array([1.0, 2.0]), np.array([2.0, 4.0])
    assert [(n, v.tolist()) for n, v in (losses(m, y, p) for m in ("mae", "rmse", "mape", "bias"))] == [
        ("mae", [1, 2]),
        ("mse", [1, 4]),
        ("mape", [1, 1]),
        ("mae", [1, 2]),
    ]
    classes, shares = np.array([0.0, 1.0]), np.array([[0.5, 0.5], [0.75, 0.25]])
    assert losses("accuracy", classes, shares)[1].tolist() == [0, 1]
    assert losses("roc_auc", classes, shares)[1] == pytest.approx([math.log(2), math.log(4)])
