"""Which parents a build makes, of which rows: what `places_of` finds in a worker is what the plan has counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modelmill as mm
from modelmill.build.levels import places_of, plan_parents
from modelmill.build.plan import Plan, Step
from modelmill.build.segment import tests_among as rows_that_test
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.snapshot import Segments, starts_of
from modelmill.model.rows import Rows
from modelmill.names import Digest, Parent, Segment, digest_of
from modelmill.registry.change import Digests
from modelmill.registry.records import Head

CODE, RECIPE = digest_of(b"code"), digest_of(b"recipe")
SIZES = [1, 2, -7]


class Sale(mm.Schema):
    """Sales of a store."""

    store: str = mm.key()
    region: str = mm.key()
    size: int = mm.key()
    open: bool = mm.key()
    sales: float = mm.target(nullable=True)


MODEL = mm.Model("sales", Sale, by=[Sale.store], levels=[[Sale.region, Sale.size], Sale.region, Sale.open], min_rows=3)
ROW = st.tuples(
    st.sampled_from("abc"), st.sampled_from(["north", "*", "="]), st.sampled_from(SIZES), st.booleans(),
    st.floats(-1, 1, width=16) | st.none(),
)  # fmt: skip


def lay(folder: Path, frame: pl.DataFrame) -> tuple[Segments, Rows]:
    """Write a build table as a training does; return its labelled segments and its rows."""
    groups = frame.group_by("store", maintain_order=True).len()
    keys: list[Segment] = [(name,) for name in groups["store"]]
    rows = groups["len"].cast(pl.Int64).to_numpy()
    digests = [bytes.fromhex(digest_of(str(frame.filter(store=key).rows()).encode())) for (key,) in keys]
    labelled = write_build_table(folder / "table", MODEL.spec, Segments(keys, starts_of(rows), rows, digests), frame)
    table = BuildTable(folder / "table", MODEL.spec)
    return labelled, table.rows(0, int(labelled.rows.sum()))


def frame_of(rows: Sequence[tuple[str, str, int, bool, float | None]]) -> pl.DataFrame:
    types = {"store": pl.String, "region": pl.String, "size": pl.Int64, "open": pl.Boolean, "sales": pl.Float64}
    return pl.DataFrame(sorted(rows, key=lambda row: row[0]), schema=types, orient="row")


def planned(folder: Path, frame: pl.DataFrame, heads: dict[Segment, Head] | None = None) -> list[Step]:
    labelled, rows = lay(folder, frame)
    tests = rows_that_test(labelled.rows, MODEL.test_share)
    plan = Plan(None, [], [], {}, CODE, RECIPE)
    return list(plan_parents(MODEL, labelled, rows, tests, plan, heads or {}).parents)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@given(rows=st.lists(ROW, min_size=1, max_size=40).filter(lambda rows: any(row[4] is not None for row in rows)))
@settings(deadline=None, max_examples=60)
def test_a_parent_is_the_rows_that_have_its_values(
    folder: Path, rows: list[tuple[str, str, int, bool, float | None]]
) -> None:
    frame = frame_of(rows)
    labelled, table = lay(folder, frame)
    tests = rows_that_test(labelled.rows, MODEL.test_share)
    kept = frame.filter(pl.col("sales").is_not_null()).to_dicts()
    wanted = {}
    for level in MODEL.levels:
        for row in kept:
            parent = Parent.of({name: str(row[name]).lower() for name in level})
            wanted[parent] = [place for place, other in enumerate(kept) if all(other[n] == row[n] for n in level)]
    columns = {column.name: column for column in MODEL.spec.keys}
    for parent, places in wanted.items():
        assert places_of(table, columns, parent).tolist() == places
    assert not len(places_of(table, columns, Parent.of({"region": "nowhere"})))
    enough = {
        parent: len(places)
        for parent, places in wanted.items()
        if len(places) >= MODEL.min_rows and 0 < tests[places].sum() < len(places)
    }
    assert {step.segment: step.rows for step in planned(folder, frame)} == enough


def test_only_what_has_changed_is_fitted_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (store, region, size, size > 1, float(rng.normal()))
        for store, region in (("a", "north"), ("b", "north"), ("c", "south"))
        for size in SIZES * 3
    ]
    steps = planned(tmp_path, frame_of(rows))
    assert {step.reason for step in steps} == {"new"}
    heads: dict[Segment, Head] = {step.segment: head_of(step.data) for step in steps}
    assert planned(tmp_path, frame_of(rows), heads) == []
    more = planned(tmp_path, frame_of([*rows, ("c", "south", 1, False, 0.5)]), heads)
    assert {step.reason for step in more} <= {"data changed", "new"}  # what was too little before is new
    changed = {step.segment for step in more}
    assert Parent.of({"region": "south"}) in changed
    assert Parent.of({"open": "true"}) in changed  # store c has rows in it
    assert not any(step.values().get("region") == "north" for step in changed if isinstance(step, Parent))


def head_of(data: Digest) -> Head:
    return Head(number=1, digests=Digests(CODE, data, RECIPE), failed=False, readable=True)
