"""Which answer a label belongs to: a function of the answers and the labels, never of the order in which they came.

A label finds its answer by the request's id, or by the keys and a moment: the latest answer up to it, not older than a
tolerance. Where several answers fit equally well and were not asked the same, or labels of several moments meet one
answer, nobody guesses: such labels are *ambiguous*, and counted. A label that finds nothing is *parked*; it may join at
any later look. Of several labels of one answer the one that came to be known last is right - of those, the largest -; the
others were *corrected* by it, or said the same, and are *repeated*. A label by id goes before one by keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import polars as pl

from modelmill.data.labels import AT, KNOWN, LABEL, REQUEST, ROW

_ANSWER, _NUMBER, _RANK, _INPUTS, _MOMENT, _WITHIN = (
    "__answer",
    "__number",
    "__rank",
    "__inputs",
    "__moment",
    "__within",
)
_CLAIMS = (_RANK, KNOWN, LABEL)
"""What decides between labels of one answer, the last of them wins."""


class Given(NamedTuple):
    """The labels of one import."""

    frame: pl.DataFrame
    """As `labels.read_labels` returns them."""
    within: timedelta = timedelta(0)


class Joined(NamedTuple):
    """Labels beside the answers that they belong to."""

    answers: pl.DataFrame
    """The answers that have a label, with `LABEL` and `KNOWN`, in their order."""
    labels: int
    """How many there were: of one request, or of one moment, it is one, however often it was corrected or repeated."""
    parked: int = 0
    ambiguous: int = 0
    corrected: int = 0
    repeated: int = 0


class _Last(NamedTuple):
    """The labels that are right, and how many others there were."""

    frame: pl.DataFrame
    corrected: int = 0
    repeated: int = 0


class _Pairs(NamedTuple):
    """Labels with the place of the answer that each has found."""

    frame: pl.DataFrame
    parked: int
    ambiguous: int


def join(answers: pl.DataFrame, given: Iterable[Given], keys: Sequence[str], time: str | None) -> Joined:
    """Join labels to logged answers, which have the columns of `data.logged`.

    `keys` and `time` are the schema's; without a time an answer's moment is when it was asked for.
    """
    places = answers.with_row_index(_ANSWER)
    last = [_last_known(some, identity) for some, identity in _sorted_in(list(given), keys)]
    found = [_by_id(places, last[0].frame), _by_keys(_at_moments(places, keys, time), last[1].frame, keys)]
    clear, doubtful = _one_moment(pl.concat([pairs.frame for pairs in found], how="diagonal_relaxed"))
    chosen = _of_several(clear, [_ANSWER])
    return Joined(
        answers=places.join(chosen.frame.select(_ANSWER, LABEL, KNOWN), on=_ANSWER).sort(_ANSWER).drop(_ANSWER),
        labels=sum(len(one.frame) for one in last),
        parked=sum(pairs.parked for pairs in found),
        ambiguous=sum(pairs.ambiguous for pairs in found) + doubtful,
        corrected=sum(one.corrected for one in (*last, chosen)),
        repeated=sum(one.repeated for one in (*last, chosen)),
    )


def _sorted_in(given: Sequence[Given], keys: Sequence[str]) -> list[tuple[list[pl.DataFrame], list[str]]]:
    """Return the labels by id and those by keys, each with what identifies one; a row of a request may be left open."""
    by_id = [one.frame for one in given if REQUEST in one.frame.columns]
    by_id = [
        frame if ROW in frame.columns else frame.with_columns(pl.lit(None, pl.Int64).alias(ROW)) for frame in by_id
    ]
    by_keys = [
        one.frame.with_columns(pl.lit(one.within, pl.Duration("us")).alias(_WITHIN))
        for one in given
        if REQUEST not in one.frame.columns
    ]
    return [(by_id, [REQUEST, ROW]), (by_keys, [*keys, AT])]


def _last_known(frames: Sequence[pl.DataFrame], identity: Sequence[str]) -> _Last:
    """Return of each request, or moment, the label that came to be known last."""
    if not frames:
        return _Last(pl.DataFrame())
    rank = pl.lit(int(identity == [REQUEST, ROW]), pl.Int8).alias(_RANK)
    together = pl.concat(frames, how="diagonal").with_columns(rank)
    return _of_several(together, identity)


def _of_several(claims: pl.DataFrame, identity: Sequence[str]) -> _Last:
    more = [name for name in (_WITHIN,) if name in claims.columns]
    ordered = claims.sort(*identity, *_CLAIMS, *more, nulls_last=True)
    last = ordered.unique(identity, keep="last", maintain_order=True)
    same = ordered.select((pl.col(LABEL) == pl.col(LABEL).last().over(identity)).sum()).item() - len(last)
    return _Last(last.with_row_index(_NUMBER), len(ordered) - len(last) - same, same)


# ------------------------------------------------------------------ finding answers


def _by_id(places: pl.DataFrame, labels: pl.DataFrame) -> _Pairs:
    if labels.is_empty():
        return _none()
    rows = pl.col(ROW).is_null() | (pl.col(ROW) == pl.col("__row"))
    asked = places.select(REQUEST, pl.col(ROW).alias("__row"), *_told())
    found = labels.join(asked, on=REQUEST).filter(rows)
    return _chosen(found.with_columns(pl.lit(None, pl.Datetime("us")).alias(AT)), len(labels))


def _by_keys(asked: pl.DataFrame, labels: pl.DataFrame, keys: Sequence[str]) -> _Pairs:
    if labels.is_empty():
        return _none()
    moments = asked.select(*keys, _MOMENT).unique().sort(_MOMENT)
    by = list(keys) or None
    near = labels.sort(AT).join_asof(
        moments, left_on=AT, right_on=_MOMENT, strategy="backward", check_sortedness=False, by=by
    )
    near = near.filter(pl.col(AT) - pl.col(_MOMENT) <= pl.col(_WITHIN))
    return _chosen(near.join(asked.select(*keys, _MOMENT, *_told_names()), on=[*keys, _MOMENT]), len(labels))


def _at_moments(places: pl.DataFrame, keys: Sequence[str], time: str | None) -> pl.DataFrame:
    """Return answers with their keys and their moment as columns."""
    moment = pl.col("asked_at") if time is None else pl.col("inputs").struct.field(time).cast(pl.Datetime("us"))
    fields = [pl.col("inputs").struct.field(name) for name in keys]
    return places.select(*fields, moment.alias(_MOMENT), *_told())


def _told() -> list[pl.Expr]:
    return [pl.col(_ANSWER), pl.col("asked_at"), pl.col("inputs").hash().alias(_INPUTS)]


def _told_names() -> list[str]:
    return [_ANSWER, "asked_at", _INPUTS]


def _chosen(candidates: pl.DataFrame, labels: int) -> _Pairs:
    """Return of each label its answer: the last of those that were asked the same."""
    ordered = candidates.sort("asked_at", _ANSWER)
    alike = pl.col(_INPUTS).n_unique().over(_NUMBER) == 1
    last = ordered.filter(alike).unique(_NUMBER, keep="last")
    tried = candidates[_NUMBER].n_unique()
    return _Pairs(last.select(_ANSWER, AT, _RANK, LABEL, KNOWN), labels - tried, tried - len(last))


def _none() -> _Pairs:
    types: dict[str, Any] = {
        _ANSWER: pl.UInt32,
        AT: pl.Datetime("us"),
        _RANK: pl.Int8,
        LABEL: pl.Null,
        KNOWN: pl.Datetime("us"),
    }
    return _Pairs(pl.DataFrame(schema=types), 0, 0)


def _one_moment(pairs: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Leave out labels of several moments that meet one answer; one by id goes before them all. Return how many."""
    by_id = (pl.col(_RANK) == 1).any().over(_ANSWER)
    several = ~by_id & (pl.col(AT).n_unique().over(_ANSWER) > 1)
    clear = pairs.filter(~several)
    return clear, len(pairs) - len(clear)
