"""Finding versions by model, segment, tag and metric, page by page.

Without a tag the search is among the newest version of each segment, in the order of their names; with a condition on
the metric by which the model's versions are ordered it goes from the best match on, along an index. A condition on another
metric reads the newest versions one after the other until the page is full. With a tag the search is among all versions
that have it, the newest segment first.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Connection, Select, and_, bindparam, or_, select, tuple_

from modelmill.errors import UsageError
from modelmill.names import ModelName
from modelmill.registry.paging import Page, read_cursor, write_cursor
from modelmill.registry.tables import models, segments, tags, versions
from modelmill.registry.versions import PAGE, VERSIONS, Version, of_model, version_of
from modelmill.store.database import Database

_METRIC = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<op><=|>=|<|>|=)\s*(?P<value>[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
_LAST = "\U0010ffff"
"""Greater than any character of a segment's text."""


class MetricCondition(NamedTuple):
    """A condition such as ``mae<10``."""

    name: str
    operator: str
    value: float


class _Order(NamedTuple):
    """The key by which pages go on."""

    columns: tuple[Any, ...]
    kinds: tuple[type, ...]
    descending: bool = False


class _Question(NamedTuple):
    """The shape of a search: all but its values. Each shape becomes a statement once."""

    model: bool
    segment: str
    """``exact``, ``prefix`` or nothing."""
    tag: bool
    metric: tuple[str, str] | None
    """Name and operator."""
    by_score: bool
    further: bool
    """Whether a page went before."""

    @property
    def order(self) -> _Order:
        """Return the order in which this question's answers come."""
        if self.tag:
            return _Order((tags.c.segment_id, tags.c.number), (int, int), descending=True)
        if self.by_score and self.metric:
            columns = (segments.c.score, segments.c.id)
            return _Order(columns, (float, int), descending=self.metric[1].startswith(">"))
        # Within one model its id is no part of the key: SQLite would read the model's segments from the first one on.
        return (
            _Order((segments.c.key,), (str,))
            if self.model
            else _Order((segments.c.model_id, segments.c.key), (int, str))
        )


def search(  # noqa: PLR0913 - one keyword a condition
    database: Database,
    model: ModelName | None = None,
    segment: str | None = None,
    *,
    tag: str | None = None,
    metric: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
) -> Page[Version]:
    """Return a page of the versions that fulfil every condition that is given.

    `segment` is a segment as text, or its beginning followed by ``*``. `tag` is ``key=value``, `metric` a condition like
    ``mae<10``. `after` is the cursor of the page before.
    """
    condition = parse_metric(metric) if metric else None
    values: dict[str, Any] = {"model": model, "limit": limit, **_segment_values(segment), **_tag_values(tag)}
    with database.read() as c:
        question = _Question(
            model=model is not None,
            segment="" if segment is None else "prefix" if segment.endswith("*") else "exact",
            tag=tag is not None,
            metric=condition[:2] if condition else None,
            by_score=tag is None and _is_score(c, model, condition),
            further=after is not None,
        )
        if condition:
            values["value"] = condition.value
        if after is not None:
            values |= {f"after_{n}": part for n, part in enumerate(read_cursor(after, question.order.kinds))}
        rows = c.execute(_statement(question), values).all()
    width = len(question.order.columns)
    cursor = write_cursor(*rows[-1][-width:]) if len(rows) == limit else None
    return Page(tuple(version_of(row) for row in rows), cursor)


def parse_metric(text: str) -> MetricCondition:
    """Return a condition like ``mae<10`` or ``roc_auc >= 0.8``."""
    match = _METRIC.fullmatch(text)
    try:
        if match:
            return MetricCondition(match["name"], match["op"], float(match["value"]))
    except ValueError:
        pass
    raise UsageError(f"`{text[:80]}` is not a condition on a metric", expected="a condition like `mae<10`")


def _is_score(c: Connection, model: ModelName | None, condition: MetricCondition | None) -> bool:
    """Return whether a condition is about the metric by which the model's versions are ordered."""
    if model is None or condition is None:
        return False
    return bool(c.execute(_SCORE, {"model": model}).scalar() == condition.name)


def _segment_values(segment: str | None) -> dict[str, Any]:
    if segment is None:
        return {}
    start = segment.removesuffix("*")
    return {"key": start, "beyond": start + _LAST}


def _tag_values(tag: str | None) -> dict[str, Any]:
    if tag is None:
        return {}
    key, equals, value = tag.partition("=")
    if not key or not equals:
        raise UsageError(f"`{tag[:80]}` is not a tag", expected="`key=value`")
    return {"tag_key": key, "tag_value": value}


@lru_cache(maxsize=256)
def _statement(question: _Question) -> Select[Any]:
    order = question.order
    query = _where_tag(_where_segment(VERSIONS, question), question)
    if question.metric:
        query = query.where(_measured(*question.metric, by_score=question.by_score))
    if question.further:
        last = tuple_(*(bindparam(f"after_{n}", type_=column.type) for n, column in enumerate(order.columns)))
        ours = tuple_(*order.columns)
        query = query.where(ours < last if order.descending else ours > last)
    query = query.add_columns(*(column.label(f"key_{n}") for n, column in enumerate(order.columns)))
    sorting = [column.desc() if order.descending else column.asc() for column in order.columns]
    return query.order_by(*sorting).limit(bindparam("limit"))


def _where_segment(query: Select[Any], question: _Question) -> Select[Any]:
    if question.model:
        query = of_model(query)
    if question.segment == "prefix":
        return query.where(segments.c.key >= bindparam("key"), segments.c.key < bindparam("beyond"))
    return query.where(segments.c.key == bindparam("key")) if question.segment else query


def _where_tag(query: Select[Any], question: _Question) -> Select[Any]:
    if not question.tag:
        return query.where(versions.c.number == segments.c.current)
    its_version = and_(tags.c.segment_id == versions.c.segment_id, tags.c.number == versions.c.number)
    given = and_(tags.c.key == bindparam("tag_key"), tags.c.value == bindparam("tag_value"))
    return query.join(tags, its_version).where(given)


def _measured(name: str, sign: str, *, by_score: bool) -> ColumnElement[bool]:
    """Return a condition about whichever column holds the metric; where that is null, it does not hold."""
    compare = _OPERATORS[sign]
    value: BindParameter[float] = bindparam("value")
    if by_score:
        return compare(segments.c.score, value)
    in_score = and_(models.c.score == name, compare(versions.c.score, value))
    return or_(in_score, and_(models.c.score != name, compare(versions.c.metrics[name].as_float(), value)))


_SCORE = select(models.c.score).where(models.c.name == bindparam("model"))
