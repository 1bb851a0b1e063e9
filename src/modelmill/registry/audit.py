"""The rules of the audit, and what they make of facts: 24 cells, and the level as the least of them.

Nobody ticks a box. A fact is something that is recorded, with what proves it and since when; a rule says which facts fill a
cell by hand, which automatically, and how old they may be. What follows the ML Test Score (Breck et al., 2017): half a point
for what was done by hand, a whole one for what is done automatically, and the minimum instead of a sum.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import msgspec

AUTOMATIC, BY_HAND, STALE, EMPTY = "automatic", "by hand", "stale", "empty"
ROWS = ("reproduce", "version", "test", "automate", "deploy", "monitor", "document", "structure")
COLUMNS = ("code", "data", "model")
PROMOTION = "promotion"
MOVEMENTS = ("experiment", "retraining", PROMOTION)
"""What level 3 wants to have seen, beside its cells."""


class Rule(msgspec.Struct, frozen=True):
    """What one cell asks."""

    row: str
    column: str
    asks: str
    level: int
    """From which level on it is needed."""
    hand: tuple[str, ...] = ()
    automatic: tuple[str, ...] = ()
    days: int | None = None
    """How old what fills it automatically may be; None for any age."""
    needs: str = BY_HAND
    next: str = ""
    minutes: int = 0

    @property
    def available(self) -> bool:
        """Return whether anything recorded today can fill the cell."""
        return bool(self.hand or self.automatic)


class Rules(msgspec.Struct, frozen=True):
    """All rules; a change of what a cell needs is another version."""

    version: int
    cells: tuple[Rule, ...]


class Fact(NamedTuple):
    """Something that is recorded."""

    proof: str
    """A digest, a number of a run or a release, ...: what the reader can look up."""
    at: datetime | None = None
    """When it was found; None where it cannot age."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one cell."""

    row: str
    column: str
    state: str
    level: int
    """From which level on it is needed."""
    evidence: tuple[str, ...] = ()
    since: datetime | None = None
    """Of the oldest evidence that can age."""
    next: str = ""
    minutes: int = 0
    why: str = ""


@cache
def read_rules() -> Rules:
    """Return the rules of this version."""
    text = (files("modelmill.registry") / "audit_rules.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Rules)


def fill(rules: Rules, facts: Mapping[str, Fact], now: datetime, words: Mapping[str, str]) -> list[Cell]:
    """Return all cells; `words` are put into the next commands."""
    return [_fill(rule, facts, now, words) for rule in rules.cells]


def _fill(rule: Rule, facts: Mapping[str, Fact], now: datetime, words: Mapping[str, str]) -> Cell:
    state = EMPTY
    used: tuple[str, ...] = ()
    if rule.automatic and all(name in facts for name in rule.automatic):
        state, used = AUTOMATIC, rule.automatic
        if rule.days is not None and any(_is_old(facts[name], now, rule.days) for name in used):
            state = STALE
    elif rule.hand and all(name in facts for name in rule.hand):
        state, used = BY_HAND, rule.hand
    ages = [facts[name].at for name in used if facts[name].at is not None]
    return Cell(
        row=rule.row,
        column=rule.column,
        state=state,
        level=rule.level,
        evidence=tuple(f"{name}: {facts[name].proof}" for name in used),
        since=min(ages, default=None),  # type: ignore[type-var]
        next=rule.next.format(**words) if state != AUTOMATIC else "",
        minutes=rule.minutes if state != AUTOMATIC else 0,
        why="" if rule.available else "not available yet",
    )


def _is_old(fact: Fact, now: datetime, days: int) -> bool:
    return fact.at is not None and now - fact.at > timedelta(days=days)


def is_reached(cell: Cell, rule: Rule) -> bool:
    """Return whether a cell is as full as the level that needs it wants: what is stale counts as by hand."""
    return cell.state == AUTOMATIC or (rule.needs == BY_HAND and cell.state in (BY_HAND, STALE))


def level_of(rules: Rules, cells: Sequence[Cell], seen: Sequence[str]) -> tuple[int, list[Cell], list[str]]:
    """Return the highest level all of whose cells are reached, and the cells and movements that block the next one.

    `seen` are the movements that are recorded.
    """
    pairs = list(zip(cells, rules.cells, strict=True))
    for level in range(1, 5):
        lacking = [cell for cell, rule in pairs if rule.level == level and not is_reached(cell, rule)]
        if level == 4:
            lacking = [cell for cell in cells if cell.level <= level and cell.state != AUTOMATIC]
        movements = [name for name in MOVEMENTS if name not in seen] if level == 3 else []
        if lacking or movements:
            return level - 1, lacking, movements
    return 4, [], []
