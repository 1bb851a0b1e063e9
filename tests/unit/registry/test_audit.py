"""The rules of the audit: what facts amount to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.registry.audit import (
    AUTOMATIC,
    BY_HAND,
    COLUMNS,
    EMPTY,
    MOVEMENTS,
    ROWS,
    STALE,
    Cell,
    Fact,
    fill,
    level_of,
    read_rules,
)

RULES = read_rules()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = sorted({name for rule in RULES.cells for name in (*rule.hand, *rule.automatic)})
WORDS = {"name": "air_time", "version": "3"}


def cells_of(names: list[str], at: datetime = NOW) -> list[Cell]:
    return fill(RULES, {name: Fact("proof", at) for name in names}, NOW, WORDS)


def level(names: list[str], seen: tuple[str, ...] = MOVEMENTS) -> int:
    return level_of(RULES, cells_of(names), seen)[0]


def test_there_is_a_rule_for_each_of_the_24_cells() -> None:
    assert [(rule.row, rule.column) for rule in RULES.cells] == [(row, column) for row in ROWS for column in COLUMNS]
    assert all(rule.asks.endswith("?") and (rule.next or not rule.available) for rule in RULES.cells)


def test_nothing_recorded_is_no_level_and_no_cell() -> None:
    assert {cell.state for cell in cells_of([])} == {EMPTY}
    assert level([]) == 0


def test_what_cannot_be_recorded_yet_is_said_and_never_guessed() -> None:
    cells = cells_of(EVERY)
    unavailable = [cell for cell in cells if cell.state == EMPTY]
    assert len(unavailable) >= 5
    assert {cell.why for cell in unavailable} == {"not available yet"}
    assert level(EVERY) == 2


@pytest.mark.parametrize(
    ("names", "row", "column", "state"),
    [
        (["lock kept"], "reproduce", "code", EMPTY),
        (["lock kept", "host kept"], "reproduce", "code", BY_HAND),
        (["rebuilt from the lock"], "reproduce", "code", AUTOMATIC),
        (["code kept"], "version", "code", BY_HAND),
        (["code kept", "clean commit"], "version", "code", AUTOMATIC),
        (["laws hold"], "test", "model", BY_HAND),
        (["laws hold", "gate acted"], "test", "model", AUTOMATIC),
        (["served as trained"], "deploy", "data", AUTOMATIC),
    ],
)
def test_facts_fill_cells(names: list[str], row: str, column: str, state: str) -> None:
    (cell,) = (cell for cell in cells_of(names) if (cell.row, cell.column) == (row, column))
    assert cell.state == state
    assert bool(cell.evidence) == (state != EMPTY)
    assert bool(cell.next) == (state != AUTOMATIC)


def test_old_evidence_is_stale_and_counts_as_by_hand() -> None:
    cells = cells_of(EVERY, NOW - timedelta(days=31))
    (code, _, model) = (cell for cell in cells if cell.row == "reproduce")
    assert (code.state, model.state) == (STALE, STALE)
    assert level_of(RULES, cells, MOVEMENTS)[0] == 1  # reproduced by another is needed automatically


def test_level_3_wants_to_have_seen_all_three_movements() -> None:
    cells = [cell for cell in cells_of(EVERY) if cell.level < 3]
    assert all(cell.state != EMPTY for cell in cells)
    _, lacking, missing = level_of(RULES, cells_of(EVERY), ("retraining",))
    assert missing == ["experiment", "promotion"]
    assert {cell.level for cell in lacking} == {3}


def test_next_commands_name_the_model() -> None:
    commands = [cell.next for cell in cells_of([]) if "reproduce" in cell.next]
    assert "modelmill reproduce 3 --sample 1%" in commands


@given(st.sets(st.sampled_from(EVERY)), st.sampled_from(EVERY))
def test_a_level_never_rises_when_evidence_goes(names: set[str], gone: str) -> None:
    assert level(sorted(names - {gone})) <= level(sorted(names))
