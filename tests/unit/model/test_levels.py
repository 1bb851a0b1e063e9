"""The levels of a declaration: what is impossible is refused while the file is imported."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

import modelmill as mm
from modelmill.errors import LevelInvalid


class Sale(mm.Schema):
    """Sales of a store."""

    region: str = mm.key()
    size: int = mm.key()
    day: date = mm.key()
    store: str = mm.key()
    hour: int = mm.col()
    sales: float = mm.target()


def make(*levels: Any, **options: Any) -> mm.Model:
    return mm.Model("sales", Sale, **{"by": [Sale.store, Sale.size], "levels": levels, **options})


def test_a_level_is_a_column_or_a_list_of_columns() -> None:
    model = make([Sale.region, Sale.size], Sale.region, "size")
    assert model.levels == (("region", "size"), ("region",), ("size",))
    assert model.declaration()["levels"] == [["region", "size"], ["region"], ["size"]]


def test_a_model_without_levels_is_declared_as_before() -> None:
    assert "levels" not in make().declaration()


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        ([Sale.hour], "`levels` names `hour`, which is no key"),
        (["regoin"], "which is no key"),
        ([Sale.day], "`levels` names `day`, a date"),
        ([[]], "a level is a column"),
        ([[Sale.region, Sale.region]], "a level is a column"),
        ([Sale.region, [Sale.region]], "names one level twice"),
        ([[Sale.region, Sale.size], [Sale.size, Sale.region]], "names one level twice"),
        ([[Sale.store, Sale.size]], "no wider than a segment"),
        ([[Sale.size, Sale.region, Sale.store]], "no wider than a segment"),
    ],
)
def test_what_is_no_level_is_refused(levels: list[Any], text: str) -> None:
    with pytest.raises(LevelInvalid, match=text):
        make(*levels)


def test_a_model_without_segments_has_no_levels() -> None:
    with pytest.raises(LevelInvalid, match="no wider than a segment"):
        make(Sale.region, by=[])
