"""Checks of the data, and the drill that shows that they, and the contract, can fail."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import modelmill as mm
from modelmill.data.checks import ask_checks
from modelmill.data.drill import drill
from modelmill.errors import CheckFailed, DeclarationInvalid, UserCodeFailed


class Sale(mm.Schema, unique=["store", "at"]):
    """One sale."""

    store: str = mm.key()
    at: datetime = mm.time()
    person: str = mm.subject()
    size: float = mm.col(gt=0, lt=100, nullable=True)
    count: int = mm.col(ge=1, le=9)
    kind: str = mm.category("car", "bus")
    open: bool = mm.col()
    amount: float = mm.target(ge=0)


def rows(count: int = 40) -> pl.DataFrame:
    start = datetime(2026, 1, 1)  # noqa: DTZ001 - times in a column have no zone
    return pl.DataFrame(
        {
            "store": [f"s{n % 4}" for n in range(count)],
            "at": [start + timedelta(hours=n) for n in range(count)],
            "person": [f"person {n}" for n in range(count)],
            "size": [1.0 + n for n in range(count)],
            "count": [1 + n % 9 for n in range(count)],
            "kind": [("car", "bus")[n % 2] for n in range(count)],
            "open": [n % 3 == 0 for n in range(count)],
            "amount": [2.0 * n for n in range(count)],
        }
    )


def model_with(check: Any) -> mm.Model:
    model = mm.Model("sales", Sale, by=[Sale.store])
    assert model.check(check) is check
    return model


def test_a_check_gets_the_rows_as_polars_or_as_its_annotation_says(tmp_path: Path) -> None:
    seen: list[str] = []

    def plain(rows: Any) -> None:
        seen.append(type(rows).__module__.split(".")[0])

    def pandas(rows: pd.DataFrame) -> None:  # type: ignore[name-defined]  # noqa: F821 - an annotation is enough
        seen.append(type(rows).__module__.split(".")[0])

    for check in (plain, pandas):
        ask_checks(model_with(check).checks, rows(), tmp_path)
    assert seen == ["polars", "pandas"]


def test_a_check_that_does_not_hold_is_told_with_its_line() -> None:
    def sizes_are_small(rows: Any) -> None:
        assert rows["size"].max() < 5, "a size above 5"

    with pytest.raises(CheckFailed, match="check failed: sizes_are_small") as caught:
        ask_checks(model_with(sizes_are_small).checks, rows(), Path(__file__).parent, "sales.csv")
    assert 'assert rows["size"].max() < 5' in caught.value.parts["where"]
    assert caught.value.parts["got"].startswith("a size above 5")


def test_a_check_that_cannot_look_is_a_fault_of_the_file(tmp_path: Path) -> None:
    def broken(rows: pl.DataFrame) -> None:
        rows["no such column"]

    with pytest.raises(UserCodeFailed, match="@check broken raised ColumnNotFoundError"):
        ask_checks(model_with(broken).checks, rows(), tmp_path)


def test_a_check_asks_for_rows() -> None:
    with pytest.raises(DeclarationInvalid, match="needs the parameter `rows`"):
        mm.Model("sales", Sale).check(lambda: None)


def test_every_promise_of_a_contract_is_seen_to_fail() -> None:
    found = drill(mm.Model("s", Sale).spec, rows(), {})
    assert [one for one in found if not one.caught] == []
    planted = {(one.promise.split()[0], one.bad) for one in found}
    assert {("size", "0"), ("size", "100"), ("size", "infinity"), ("count", "0"), ("count", "10")} <= planted
    assert {("kind", "`no such value`"), ("open", "`no such value`"), ("amount", "-0.5"), ("store", "null")} <= planted
    assert ("size", "null") not in planted
    assert ("rows", "a row twice") in planted


def test_the_drill_says_which_check_noticed_what() -> None:
    def sizes_vary(rows: pl.DataFrame) -> None:
        assert rows["size"].n_unique() > 1

    def many_rows(rows: pl.DataFrame) -> None:
        assert len(rows) >= 40

    def anything(rows: pl.DataFrame) -> None:
        assert rows is not None

    model = model_with(sizes_vary)
    model.check(many_rows)
    model.check(anything)
    found = {one.promise: one for one in drill(model.spec, rows(), model.checks) if one.promise.startswith("check")}
    assert (found["check sizes_vary"].caught, found["check sizes_vary"].bad) == (True, "one row")
    assert (found["check many_rows"].caught, found["check many_rows"].bad) == (True, "one row")
    assert found["check anything"].caught is None


@pytest.mark.parametrize("options", [{"fresh": "soon"}, {"keeps": 1.5}, {"keeps": True}])
def test_what_cannot_be_promised_of_snapshots_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DeclarationInvalid):
        mm.Model("sales", Sale, **options)


def test_fresh_rows_need_a_time() -> None:
    class Timeless(mm.Schema):
        """One."""

        x: float = mm.col()
        y: float = mm.target()

    with pytest.raises(DeclarationInvalid, match=r"mm\.time"):
        mm.Model("sales", Timeless, fresh="1d")


def test_an_entry_of_the_dictionary_says_what_is_missing() -> None:
    class Told(mm.Schema):
        """One."""

        size: float = mm.col(doc="how large", unit="m", source="shop.sizes", owner="shop@example.com", sensitive=True)
        width: float = mm.col()
        y: float = mm.target(doc="how much")

    size, width, y = mm.Model("told", Told).spec.columns
    assert size.meaning() == "how large; from shop.sizes; ask shop@example.com; sensitive"
    assert width.meaning() == "no meaning given; no unit given"
    assert y.meaning() == "how much; no unit given"
    assert (size.hidden, width.hidden) == (True, False)


def test_a_word_that_no_column_knows_is_refused() -> None:
    with pytest.raises(DeclarationInvalid, match="does not know `units=`") as caught:

        class Wrong(mm.Schema):
            """One."""

            size: float = mm.col(units="m")  # type: ignore[call-arg]
            y: float = mm.target()

    assert "unit" in caught.value.parts["likely"]
