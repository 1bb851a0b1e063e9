"""By which size an answer is judged that is compared with the training path's."""

from __future__ import annotations

import polars as pl

from modelmill.orchestrator.parity import with_floor


def test_an_answer_near_zero_is_judged_by_the_largest_of_its_own_model() -> None:
    rows = pl.DataFrame(
        {
            "segment": ["north", "north", "north", "south", "south"],
            "version": [1, 1, 2, 1, 1],
            "scale": [100.0, 1e-9, 1e-9, 1e-9, 2e-9],
        }
    )
    assert with_floor(rows)["scale"].to_list() == [100.0, 1.0, 1e-9, 1e-9, 2e-9]
