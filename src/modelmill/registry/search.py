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
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, UnaryExpression, and_, bindparam, or_, select, tuple_

from modelmill.errors import UsageError
from modelmill.names import ModelName
from modelmill.registry.paging import Page, read_cursor, write_cursor
from modelmill.registry.tables import models, segments, tags, versions
from modelmill.registry.versions import PAGE, Version, select_versions, version_of
from modelmill.store.database import Database

_METRIC = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<op><=|>=|<|>|=)\s*(?P<value>[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
_LAST = "\U0010ffff"


class MetricCondition(NamedTuple):
    """A condition such as ``mae<10``."""

    name: str
    operator: str
    value: float

    def holds(self, column: Any) -> ColumnElement[bool]:
        """Return the condition as SQL about a column; where it is null, the condition does not hold."""
        found: ColumnElement[bool] = _OPERATORS[self.operator](column, self.value)
        return found


class _Order(NamedTuple):
    """The key that pages are ordered by, and its direction."""

    columns: tuple[Any, ...]
    descending: bool = False

    def by(self) -> list[UnaryExpression[Any]]:
        return [column.desc() if self.descending else column.asc() for column in self.columns]

    def beyond(self, cursor: str) -> ColumnElement[bool]:
        ours, last = tuple_(*self.columns), tuple_(*read_cursor(cursor, len(self.columns)))
        return ours < last if self.descending else ours > last


def search(
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
    query = _named(select_versions(), model, segment)
    query = _tagged(query, tag) if tag else query.where(versions.c.number == segments.c.current)
    order = _TAG_ORDER if tag else _KEY_ORDER
    with database.read() as c:
        if condition:
            by_score = model is not None and c.execute(_SCORE, {"model": model}).scalar() == condition.name
            query = query.where(condition.holds(segments.c.score) if by_score and not tag else _measured(condition))
            order = _score_order(condition) if by_score and not tag else order
        if after:
            query = query.where(order.beyond(after))
        query = query.add_columns(*(column.label(f"key_{n}") for n, column in enumerate(order.columns)))
        rows = c.execute(query.order_by(*order.by()).limit(limit)).all()
    cursor = write_cursor(*rows[-1][-len(order.columns) :]) if len(rows) == limit else None
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


def _named(query: Select[Any], model: ModelName | None, segment: str | None) -> Select[Any]:
    if model is not None:
        query = query.where(models.c.name == model)
    if segment is None:
        return query
    if segment.endswith("*"):
        start = segment[:-1]
        return query.where(segments.c.key >= start, segments.c.key < start + _LAST)
    return query.where(segments.c.key == segment)


def _tagged(query: Select[Any], tag: str) -> Select[Any]:
    key, equals, value = tag.partition("=")
    if not key or not equals:
        raise UsageError(f"`{tag[:80]}` is not a tag", expected="`key=value`")
    its_version = and_(tags.c.segment_id == versions.c.segment_id, tags.c.number == versions.c.number)
    return query.join(tags, its_version).where(tags.c.key == key, tags.c.value == value)


def _measured(condition: MetricCondition) -> ColumnElement[bool]:
    """Return a condition about whichever column holds the metric in the version's own model."""
    in_score = and_(models.c.score == condition.name, condition.holds(versions.c.score))
    in_metrics = and_(
        models.c.score != condition.name, condition.holds(versions.c.metrics[condition.name].as_float())
    )
    return or_(in_score, in_metrics)


def _score_order(condition: MetricCondition) -> _Order:
    columns = (segments.c.model_id, segments.c.score, segments.c.id)
    return _Order(columns, descending=condition.operator in (">", ">="))


_KEY_ORDER = _Order((segments.c.model_id, segments.c.key))
_TAG_ORDER = _Order((tags.c.segment_id, tags.c.number), descending=True)
_SCORE = select(models.c.score).where(models.c.name == bindparam("model"))
