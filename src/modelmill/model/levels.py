"""Levels: columns whose values get a model of their own, which answers where a segment has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelmill.errors import LevelInvalid, did_you_mean
from modelmill.model.schema import SchemaSpec

Levels = tuple[tuple[str, ...], ...]
"""The columns of each level, the most specific level first."""

_KINDS = ("str", "category", "int", "bool")


def read_levels(levels: Sequence[Any], spec: SchemaSpec, by: tuple[str, ...]) -> Levels:
    """Return the levels of a declaration; raises `LevelInvalid`.

    A level's columns are keys of the schema. They need not be among those of the segments: a store's region may come with
    the request, so that a store that nobody has heard of still has one.
    """
    found = tuple(_columns(level) for level in levels)
    for level in found:
        _check(level, spec, by)
    if len({frozenset(level) for level in found}) < len(found):
        raise LevelInvalid("`levels` names one level twice", got=_text(found))
    return found


def _columns(level: Any) -> tuple[str, ...]:
    return tuple(str(column) for column in level) if isinstance(level, list | tuple) else (str(level),)


def _check(level: tuple[str, ...], spec: SchemaSpec, by: tuple[str, ...]) -> None:
    keys = {column.name: column for column in spec.keys}
    for name in level:
        if name not in keys:
            likely = did_you_mean(name, keys) or "the schema declares no mm.key()"
            raise LevelInvalid(f"`levels` names `{name}`, which is no key of schema `{spec.name}`", likely=likely)
        if keys[name].kind not in _KINDS or keys[name].nullable:
            kind = f"{'nullable ' if keys[name].nullable else ''}{keys[name].kind}"
            raise LevelInvalid(f"`levels` names `{name}`, a {kind}", expected=f"one of {', '.join(_KINDS)}, never null")
    if not level or len(set(level)) < len(level):
        raise LevelInvalid("a level is a column, or a list of different columns", got=", ".join(level) or "none")
    if set(level) >= set(by):
        raise LevelInvalid(
            f"the level `{', '.join(level)}` is no wider than a segment",
            expected=f"not all of {', '.join(by)}" if by else "a fleet: a model with `by=`",
        )


def _text(levels: Levels) -> str:
    return "; ".join(", ".join(level) for level in levels)
