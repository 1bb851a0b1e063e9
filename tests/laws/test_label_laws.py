"""Joining labels is a function of the labels: their order, their files and repetitions leave no trace."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from modelmill.data.joining import Given, Joined, join

NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - UTC, as all times of rows
ASKED = pl.DataFrame(
    [
        {
            "request_id": f"q{n // 2}",
            "row": n % 2,
            "asked_at": NOON + timedelta(seconds=n // 2),
            "inputs": {"store": "ns"[n % 2], "at": NOON + timedelta(minutes=n // 4), "size": n % 3},
        }
        for n in range(12)
    ],
    schema_overrides={"row": pl.UInt32},
)
moments = st.integers(0, 5).map(lambda n: NOON + timedelta(minutes=n))
values = st.integers(0, 3).map(float)
by_id = st.tuples(st.integers(0, 7).map(lambda n: f"q{n}"), st.none() | st.integers(0, 2), values, moments)
by_keys = st.tuples(st.sampled_from("nst"), moments, values, moments)


def given_of_id(rows: list[tuple[str, int | None, float, datetime]]) -> Given:
    return Given(pl.DataFrame(rows, ["request_id", "row", "label", "known_at"], orient="row").cast({"row": pl.Int64}))


def given_of_keys(rows: list[tuple[str, datetime, float, datetime]]) -> Given:
    frame = pl.DataFrame(rows, ["store", "at", "label", "known_at"], orient="row")
    return Given(frame, timedelta(minutes=1))


imports = st.lists(
    st.lists(by_id, min_size=1, max_size=6).map(given_of_id)
    | st.lists(by_keys, min_size=1, max_size=6).map(given_of_keys),
    max_size=4,
)


def joined(some: list[Given]) -> Joined:
    return join(ASKED, some, ["store"], "at")


def rows(found: Joined) -> list[dict[str, object]]:
    return found.answers.to_dicts()


@given(imports, st.randoms())
def test_the_order_of_imports_and_of_rows_does_not_matter(some: list[Given], random: Random) -> None:
    expected = joined(some)
    shuffled = [one._replace(frame=one.frame.reverse()) for one in some]
    random.shuffle(shuffled)
    found = joined(shuffled)
    assert rows(found) == rows(expected)
    assert found[1:] == expected[1:]


@given(imports)
def test_importing_again_changes_no_answer(some: list[Given]) -> None:
    expected, found = joined(some), joined([*some, *some])
    assert rows(found) == rows(expected)
    assert (found.labels, found.parked, found.ambiguous) == (expected.labels, expected.parked, expected.ambiguous)


@given(imports)
def test_no_label_is_lost_and_no_answer_has_two(some: list[Given]) -> None:
    found = joined(some)
    places = found.answers.select("request_id", "row").rows()
    assert len(set(places)) == len(places)
    given_rows = sum(len(one.frame) for one in some)
    assert len(places) + found.parked + found.ambiguous + found.corrected + found.repeated == given_rows
