"""Shadows: what they answer is compared and thrown away, and no client is the wiser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.release.pointers import Published, Shadow
from modelmill.serving import copies
from modelmill.serving.applied import Applied, apply
from modelmill.serving.compared import Compared
from modelmill.serving.copies import Copies, Run, taken
from modelmill.serving.plane import Plane
from modelmill.serving.tallies import Tally

from .test_split import NAME, STORES, Mill, ask, plane_of


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Mill:
    return Mill(tmp_path_factory.mktemp("copies"))


def applied(mill: Mill, shadows: Sequence[Shadow], before: Applied | None = None, revision: int = 1) -> Applied:
    pointer = msgspec.structs.replace(mill.pointer(1), shadows=tuple(shadows))
    return asyncio.run(apply(mill.folder, Published("prod", revision, {NAME: pointer}), before))


def shadow_of(mill: Mill, run: int, **told: Any) -> Shadow:
    found = mill.pointer(run)
    return Shadow(found.release, found.map, found.signature, **told)


class Later:
    """Keeps what an event loop would call next."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, function: Callable[[], None]) -> None:
        self.due.append(function)


def plane(mill: Mill, folder: Path, *shadows: Shadow) -> Plane:
    found = plane_of(applied(mill, shadows), folder)
    found.copies = Copies(Later())
    return found


def counted(found: Plane) -> dict[int, Tally]:
    """Answer what waits, and return what each shadow has counted of all segments."""
    assert found.applied is not None
    found.copies.settle()
    wholes: dict[int, Tally] = {}
    for _, release, tallies in taken(found.applied.runs):
        wholes[release] = Tally()
        for tally in tallies.values():
            wholes[release].merge(tally)
    return wholes


ROWS = st.lists(
    st.fixed_dictionaries({"store": st.sampled_from([*STORES[:5], "another"]), "day": st.integers(-(10**6), 10**6)}),
    min_size=1,
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=ROWS, plain=st.booleans(), many=st.booleans())
def test_a_shadow_never_changes_the_bytes_of_an_answer(
    mill: Mill, tmp_path: Path, rows: list[dict[str, Any]], *, plain: bool, many: bool
) -> None:
    alone = plane(mill, tmp_path)
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2), shadow_of(mill, 1))
    for asked in [rows] if many else rows:
        assert ask(shadowed, asked, plain=plain) == ask(alone, asked, plain=plain)
    found = counted(shadowed)
    assert {release: tally.count for release, tally in found.items()} == {1: len(rows), 2: len(rows)}
    assert (found[1].equal, found[1].largest) == (len(rows), 0)
    assert found[2].mean == pytest.approx(1)  # the second release answers one more
    assert (found[2].failed, found[2].equal) == (0, 0)


def test_nothing_is_answered_while_a_client_waits(mill: Mill, tmp_path: Path) -> None:
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2))
    assert shadowed.applied is not None
    ask(shadowed, {"store": "s01", "day": 1})
    assert len(shadowed.copies) == 1
    assert list(taken(shadowed.applied.runs)) == []
    assert counted(shadowed)[2].count == 1


def test_what_does_not_fit_is_dropped_and_counted(mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_WAITING", 10)
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2))
    answers = [json.loads(ask(shadowed, {"store": "s01", "day": day})) for day in range(25)]
    assert {one["version"] for one in answers} == {1}
    assert len(shadowed.copies) == 10
    found = counted(shadowed)[2]
    assert (found.count, found.dropped) == (10, 15)


def test_a_turn_of_the_loop_ends_and_comes_again(mill: Mill, tmp_path: Path) -> None:
    later = Later()
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2))
    shadowed.copies = Copies(later)
    for day in range(2000):
        ask(shadowed, {"store": "s01", "day": day})
    assert len(later.due) == 1  # scheduled once, however many wait
    later.due.pop()()
    while later.due:
        later.due.pop()()
    assert len(shadowed.copies) == 0
    assert counted(shadowed)[2].count == 2000


def test_a_shadow_that_raises_is_nobodys_trouble(mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2))
    assert shadowed.applied is not None

    def broken(*_: Any) -> Any:
        raise RuntimeError("a shadow's own fault")

    (run,) = shadowed.applied.runs[NAME]
    monkeypatch.setattr(run.model, "answer_now", broken)
    monkeypatch.setattr(run, "_open", broken)
    assert json.loads(ask(shadowed, {"store": "s01", "day": 1}))["sales"] == pytest.approx(2)
    ask(shadowed, [{"store": "s01", "day": 1}, {"store": "s02", "day": 1}])
    found = counted(shadowed)[2]
    assert (found.count, found.failed) == (3, 3)


def test_rows_that_cannot_be_copied_are_answered_all_the_same(
    mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("nothing can be copied")

    monkeypatch.setattr(copies, "_grouped", broken)
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2))
    rows = [{"store": "s01", "day": 1}, {"store": "s02", "day": 1}]
    assert ask(shadowed, rows) == ask(plane(mill, tmp_path), rows)
    monkeypatch.setattr(copies, "MOST_WAITING", 0)
    monkeypatch.setattr(Run, "drawn", broken)
    assert ask(shadowed, rows[0]) == ask(plane(mill, tmp_path), rows[0])


def test_a_share_of_the_rows_is_a_function_of_the_row(mill: Mill, tmp_path: Path) -> None:
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2, share=0.2, salt="salt"))
    rows = [{"store": store, "day": day} for store in STORES for day in range(40)]
    for row in rows:
        ask(shadowed, row)
    one_by_one = counted(shadowed)[2].count
    ask(shadowed, rows)
    assert counted(shadowed)[2].count == one_by_one
    assert 0.15 * len(rows) < one_by_one < 0.25 * len(rows)


def test_a_shadow_is_kept_while_others_come_and_go(mill: Mill) -> None:
    one, two = shadow_of(mill, 2), shadow_of(mill, 1)
    first = applied(mill, [one])
    second = applied(mill, [one, two], first, 2)
    assert second.models[NAME] is first.models[NAME]
    assert second.runs[NAME][0] is first.runs[NAME][0]
    third = applied(mill, [], second, 3)
    assert (third.models[NAME], third.runs) == (first.models[NAME], {})


def test_a_shadow_that_cannot_be_opened_breaks_no_model(mill: Mill, tmp_path: Path) -> None:
    lost = msgspec.structs.replace(
        shadow_of(mill, 2), map=msgspec.structs.replace(mill.pointer(2)).signature.hex()[:64]
    )
    found = applied(mill, [lost, shadow_of(mill, 2)])
    assert found.broken == {}
    assert "shadow r2 cannot be opened" in found.unshadowed[NAME]
    assert len(found.runs[NAME]) == 1
    assert json.loads(ask(plane_of(applied(mill, [lost]), tmp_path), {"store": "s01", "day": 1}))["version"] == 1


def test_copies_of_all_workers_are_one_comparison(tmp_path: Path) -> None:
    compared = Compared(tmp_path)
    assert compared.whole("sales", 2, 0.0) == Tally()
    one, two = Tally(), Tally()
    one.add([1.0], [1.0], 0.001, labels=False)
    two.add([3.0], [1.0], 0.001, labels=False)
    two.fail(0.001)
    for worker, segment, tally in ((1, "s01", one), (2, "s02", two), (2, "s02", two)):
        compared.add(worker, [("sales", 2, {segment: tally})], now=600.0)
    found = compared.whole("sales", 2, 600.0)
    assert (found.count, found.failed, found.equal, found.total, found.largest) == (5, 2, 1, 4.0, 2.0)
    assert [worst.segment for worst in compared.apart("sales", 2, 600.0, 5)] == ["s02"]
    assert compared.whole("sales", 2, 660.0) == Tally()


def test_labels_agree_where_the_likeliest_class_is_the_same() -> None:
    tally = Tally()
    tally.add([0.6, 0.4], [0.7, 0.3], 0.001, labels=True)
    tally.add([0.4, 0.6], [0.7, 0.3], 0.001, labels=True)
    assert (tally.equal, tally.agreed) == (0, 1)
    assert tally.largest == pytest.approx(0.3)


def test_numbers_are_of_the_rows(mill: Mill, tmp_path: Path) -> None:
    """Rows of several segments in one request are compared each with its own answer."""
    shadowed = plane(mill, tmp_path, shadow_of(mill, 1))
    rows = [{"store": STORES[n % 7], "day": n} for n in range(100)]
    told = json.loads(ask(shadowed, rows))
    assert np.allclose([one["sales"] for one in told], [row["day"] + 1 for row in rows])  # type: ignore[operator]
    found = counted(shadowed)[1]
    assert (found.count, found.equal) == (100, 100)


def test_what_is_taken_begins_anew(mill: Mill, tmp_path: Path) -> None:
    shadowed = plane(mill, tmp_path, shadow_of(mill, 2))
    ask(shadowed, {"store": "s01", "day": 1})
    assert counted(shadowed)[2].count == 1
    assert counted(shadowed) == {}
    ask(shadowed, {"store": "s01", "day": 1})
    assert counted(shadowed)[2].count == 1
    assert shadowed.applied is not None
    assert all(isinstance(run, Run) for runs in shadowed.applied.runs.values() for run in runs)
