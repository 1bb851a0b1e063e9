"""Failures of one cause have one fingerprint, whatever numbers and names their messages hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmill.build.failing import failure_of, lost_failure
from modelmill.build.report import group_failures
from modelmill.errors import ModelReturned
from modelmill.registry.records import FailureRecord

HERE = Path(__file__).parent


def raised(segment: str, message: str, stage: str = "train") -> FailureRecord:
    try:
        raise ValueError(message)
    except ValueError as error:
        return failure_of((segment,), stage, error, HERE)


def raised_elsewhere(segment: str, message: str) -> FailureRecord:
    try:
        raise ValueError(message)
    except ValueError as error:
        return failure_of((segment,), "train", error, HERE)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("store 17 has 3 rows", "store 4 has 29 rows"),
        ("no column 'price'", "no column 'weather'"),
        ("mean is -1.5e-07", "mean is 12"),
    ],
)
def test_numbers_and_names_do_not_make_another_cause(first: str, second: str) -> None:
    assert raised("a", first).fingerprint == raised("b", second).fingerprint


def test_another_text_place_or_stage_is_another_cause() -> None:
    known = raised("a", "too few rows")
    others = [
        raised("a", "singular matrix"),
        raised_elsewhere("a", "too few rows"),
        raised("a", "too few rows", stage="predict"),
    ]
    assert known.fingerprint not in {other.fingerprint for other in others}


def test_a_failure_names_the_users_line_and_is_short() -> None:
    failure = raised("a", "x" * 5000)
    assert "test_failing.py:" in failure.detail
    assert len(failure.summary) == 300
    assert len(failure.detail) <= 2000


def test_an_error_of_ours_keeps_its_code() -> None:
    failure = failure_of(("a",), "predict", ModelReturned("predict() returned None"), HERE)
    assert (failure.code, failure.summary) == ("MM307", "predict() returned None")


def test_causes_are_reported_by_size() -> None:
    lost = [lost_failure((str(place),), "time", f"it took longer than {place} s") for place in range(3)]
    groups = group_failures([raised("a", "bad"), *lost])
    assert [len(group.segments) for group in groups] == [3, 1]
    assert groups[0].segments == [("0",), ("1",), ("2",)]
