"""A schema that was inferred from a sample accepts that sample, and refuses what breaks one of its promises."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.data.contract import check
from modelmill.data.drill import drill
from modelmill.data.inferring import Guessed, imports_of, infer_columns, schema_of_columns, schema_source
from modelmill.model.schema import SchemaSpec, schema_of

START = datetime(2026, 1, 1)  # noqa: DTZ001 - times in a column have no zone
NUMBER = st.floats(-1e9, 1e9, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, 100.0, 1e-6, 5e-324, -1e307, 1.7e308])
ROW = st.fixed_dictionaries(
    {
        "whole": st.integers(-(10**9), 10**9) | st.integers(-5, 5),
        "broken": NUMBER,
        "sometimes": st.none() | NUMBER,
        "truth": st.booleans(),
        "kind": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5),
        "at": st.integers(0, 10_000).map(lambda minutes: START + timedelta(minutes=minutes)),
        "store": st.sampled_from(["a", "b"]),
        "y": NUMBER,
    }
)
few = settings(max_examples=40, deadline=None)


def sample(table: list[dict[str, Any]]) -> pl.DataFrame:
    types = {"whole": pl.Int64, "broken": pl.Float64, "sometimes": pl.Float64, "y": pl.Float64, "kind": pl.String}
    return pl.DataFrame(table, schema_overrides=types)


def declared(guessed: list[Guessed]) -> SchemaSpec:
    """Return the schema that the written source declares, as an import of it would."""
    scope: dict[str, Any] = {"__name__": "sample"}
    exec(f"{imports_of(guessed)}import modelmill as mm\n\n{schema_source('Row', guessed)}", scope)  # noqa: S102
    return schema_of(scope["Row"])


@given(st.lists(ROW, min_size=1, max_size=30))
@few
def test_the_source_accepts_its_own_sample(table: list[dict[str, Any]]) -> None:
    frame = sample(table)
    guessed = infer_columns(frame, target="y", by=["store"])
    spec = declared(guessed)
    assert len(check(spec, frame)) == len(frame)
    assert spec == schema_of_columns("Row", guessed)
    assert spec.time is not None
    assert spec.time.name == "at"


@given(st.lists(ROW, min_size=2, max_size=30))
@few
def test_every_promise_that_was_inferred_can_fail(table: list[dict[str, Any]]) -> None:
    frame = sample(table)
    spec = declared(infer_columns(frame, target="y", by=["store"]))
    missed = [one for one in drill(spec, check(spec, frame), {}) if not one.caught]
    assert missed == []
