"""Two answers that differ by rounding alone are the same answer, near zero as well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.artifact.agreeing import apart

NUMBERS = st.floats(-1e9, 1e9).filter(lambda number: number == 0 or abs(number) > 1e-9)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.floats(1e-9, 1e-3))
def test_a_share_of_an_answer_is_told_as_that_share(numbers: list[float], share: float) -> None:
    answers = np.array(numbers)
    found = apart(answers * (1 + share), answers)
    large = np.abs(answers) >= 0.02 * np.abs(answers).max()
    np.testing.assert_allclose(found[large & (answers != 0)], share / (1 + share), rtol=1e-3)
    assert (found <= 1.001 * share).all()


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_it_is_the_same_from_both_sides(numbers: list[float]) -> None:
    one = np.array(numbers)
    np.testing.assert_array_equal(apart(one, one[::-1]), apart(one[::-1], one))
    assert not apart(one, one).any()


@pytest.mark.parametrize(
    ("answer", "expected", "share"),
    [
        (1e-9 + 1e-14, 1e-9, 1e-12),  # the last place of 1, beside an answer of 1
        (2e-4, 1e-4, 1e-2),
        (-0.5, 0.5, 2.0),
        (np.nan, 0.5, np.nan),
        (np.inf, np.inf, np.nan),
    ],
)
def test_an_answer_near_zero_counts_as_a_hundredth_of_the_largest(answer: float, expected: float, share: float) -> None:
    found = apart(np.array([answer, 1.0]), np.array([expected, 1.0]))
    assert found[0] == pytest.approx(share, rel=0.01, nan_ok=True)
    assert found[1] == 0  # nor does it hide what the others are
