"""Labels find their answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from modelmill.data.joining import Given, Joined, join

NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - UTC, as all times of rows
MINUTE = timedelta(minutes=1)


def answers(*rows: tuple[str, int, str, datetime]) -> pl.DataFrame:
    """Return answers to (request, row, store, at), asked a minute after one another."""
    return pl.DataFrame(
        [
            {"request_id": name, "row": row, "asked_at": NOON + n * MINUTE, "inputs": {"store": store, "at": at}}
            for n, (name, row, store, at) in enumerate(rows)
        ],
        schema_overrides={"row": pl.UInt32},
    )


ASKED = answers(("a", 0, "n", NOON), ("b", 0, "n", NOON + MINUTE), ("c", 0, "s", NOON), ("c", 1, "s", NOON + MINUTE))


def by_id(*rows: tuple[str, float], known: datetime = NOON, row: int | None = None) -> Given:
    more: dict[str, Any] = {} if row is None else {"row": [row] * len(rows)}
    names, values = zip(*rows, strict=True)
    return Given(pl.DataFrame({"request_id": names, **more, "label": values, "known_at": [known] * len(rows)}))


def by_keys(*rows: tuple[str, datetime, float], within: timedelta = timedelta(0), known: datetime = NOON) -> Given:
    stores, moments, values = zip(*rows, strict=True)
    frame = pl.DataFrame({"store": stores, "at": moments, "label": values, "known_at": [known] * len(rows)})
    return Given(frame, within)


def joined(*given: Given, asked: pl.DataFrame = ASKED, time: str | None = "at") -> Joined:
    return join(asked, given, ["store"], time)


def labels_of(found: Joined) -> dict[tuple[str, int], float]:
    rows = found.answers.select("request_id", "row", "label").rows()
    return {(name, row): label for name, row, label in rows}


def counts(found: Joined) -> tuple[int, ...]:
    return found.labels, len(found.answers), found.parked, found.ambiguous, found.corrected, found.repeated


def test_a_label_joins_by_the_request_and_an_unknown_one_is_parked() -> None:
    found = joined(by_id(("a", 1.0), ("z", 2.0)))
    assert labels_of(found) == {("a", 0): 1.0}
    assert counts(found) == (2, 1, 1, 0, 0, 0)
    assert found.answers["known_at"].to_list() == [NOON]


def test_a_request_of_several_rows_needs_the_row() -> None:
    assert counts(joined(by_id(("c", 1.0)))) == (1, 0, 0, 1, 0, 0)
    assert labels_of(joined(by_id(("c", 1.0), row=1))) == {("c", 1): 1.0}
    assert counts(joined(by_id(("c", 1.0), row=7))) == (1, 0, 1, 0, 0, 0)


def test_the_label_that_came_to_be_known_last_is_right_in_whatever_order_they_come() -> None:
    first, second = by_id(("a", 9.0), ("b", 5.0)), by_id(("a", 1.0), ("b", 5.0), known=NOON + MINUTE)
    for given in ((first, second), (second, first)):
        found = joined(*given)
        assert labels_of(found) == {("a", 0): 1.0, ("b", 0): 5.0}
        assert counts(found) == (2, 2, 0, 0, 1, 1)


def test_a_label_joins_by_keys_and_time_exactly() -> None:
    found = joined(by_keys(("n", NOON, 1.0), ("s", NOON + MINUTE, 2.0), ("n", NOON + 9 * MINUTE, 3.0)))
    assert labels_of(found) == {("a", 0): 1.0, ("c", 1): 2.0}
    assert counts(found) == (3, 2, 1, 0, 0, 0)


def test_the_latest_answer_within_the_tolerance_is_taken() -> None:
    late = ("n", NOON + 5 * MINUTE, 3.0)
    assert labels_of(joined(by_keys(late, within=4 * MINUTE))) == {("b", 0): 3.0}
    assert counts(joined(by_keys(late, within=3 * MINUTE))) == (1, 0, 1, 0, 0, 0)
    assert counts(joined(by_keys(("n", NOON - MINUTE, 3.0), within=9 * MINUTE))) == (1, 0, 1, 0, 0, 0)


def test_without_a_time_the_moment_is_that_of_the_request() -> None:
    found = joined(by_keys(("n", NOON + 90 * timedelta(seconds=1), 1.0), within=MINUTE), time=None)
    assert labels_of(found) == {("b", 0): 1.0}


def test_the_same_question_asked_again_is_answered_last_and_another_one_is_ambiguous() -> None:
    again = answers(("a", 0, "n", NOON), ("b", 0, "n", NOON))
    assert labels_of(joined(by_keys(("n", NOON, 1.0)), asked=again)) == {("b", 0): 1.0}
    other = again.with_columns(pl.struct(pl.col("inputs").struct.unnest(), size=pl.Series([1, 2])).alias("inputs"))
    assert counts(joined(by_keys(("n", NOON, 1.0)), asked=other)) == (1, 0, 0, 1, 0, 0)


def test_labels_of_two_moments_that_meet_one_answer_are_ambiguous_unless_one_names_the_request() -> None:
    near = by_keys(("n", NOON + 2 * MINUTE, 1.0), ("n", NOON + 3 * MINUTE, 2.0), within=9 * MINUTE)
    assert counts(joined(near)) == (2, 0, 0, 2, 0, 0)
    found = joined(near, by_id(("b", 7.0)))
    assert labels_of(found) == {("b", 0): 7.0}
    assert counts(found) == (3, 1, 0, 0, 2, 0)


def test_nothing_joins_nothing() -> None:
    assert counts(joined()) == (0, 0, 0, 0, 0, 0)
    assert counts(joined(by_id(("a", 1.0)), asked=ASKED.clear())) == (1, 0, 1, 0, 0, 0)
