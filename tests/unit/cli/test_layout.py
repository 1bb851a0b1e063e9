"""Aligned text."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from modelmill.cli.layout import count, line, lines, moment, number, seconds, size, table


def test_a_line_leaves_empty_parts_out() -> None:
    assert line("run 1", "2 segments", "", "6.1 s") == "run 1     2 segments   6.1 s"


def test_a_text_of_several_lines_stays_aligned() -> None:
    assert line("note", "one\ntwo") == "note      one\n          two"


def test_only_the_first_line_of_many_has_the_label() -> None:
    assert list(lines("laws", ["a", "b"])) == ["laws      a", "          b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0004, "0 ms"), (0.012, "12 ms"), (0.83, "0.8 s"), (9.96, "10 s"), (41.2, "41 s"), (200.0, "3 min 20 s")],
)
def test_seconds_are_said_as_people_say_them(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (float("nan"), "-"), (0.0, "0"), (7.8224, "7.822"), (12345.6, "12,346"), (1e-7, "1.000e-07")],
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (812, "812 B"), (1_400_000, "1.4 MB"), (3 * 10**15, "3000.0 TB")]
)
def test_sizes(value: int, text: str) -> None:
    assert size(value) == text


def test_counts_know_one_from_many() -> None:
    assert [count(1, "row"), count(2911, "row"), count(2, "query", "queries")] == ["1 row", "2,911 rows", "2 queries"]


def test_a_table_flushes_numbers_right() -> None:
    assert list(table(("name", "rows"), [("a", "7"), ("bcdef", "1,000")])) == [
        "name     rows",
        "a           7",
        "bcdef   1,000",
    ]


def test_a_table_of_nothing_has_no_header() -> None:
    assert list(table(("name",), [])) == []


def test_moments_are_shown_in_utc() -> None:
    east = datetime(2013, 6, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert moment(east) == moment(datetime(2013, 6, 1, 12, 0, tzinfo=UTC)) == "2013-06-01 12:00 UTC"
    assert moment(None) == ""
