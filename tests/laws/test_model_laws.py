"""Laws of the model room, whatever the schema and the values: rows, requests, typical rows, answers, bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from modelmill.model.columns import Column
from modelmill.model.fitted import Asker, answer, category_codes, column_array, make_x, typical_row, typical_rows
from modelmill.model.request import RequestParser
from modelmill.model.rows import Coded, Rows
from modelmill.model.schema import SchemaSpec
from modelmill.model.values import as_json

WORDS = ("car", "bus", "tram", "")
START = datetime(1970, 1, 1)  # noqa: DTZ001 - the rows hold plain moments
MOMENTS = st.integers(-(10**14), 10**14).map(lambda microseconds: START + timedelta(microseconds=microseconds))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**53), 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "bool": st.booleans(),
    "date": MOMENTS.map(lambda moment: moment.date()),
    "datetime": MOMENTS,
    "category": st.sampled_from(WORDS),
}


@st.composite
def specs(draw: st.DrawFn) -> SchemaSpec:
    """Draw a schema of one to five features, some of them nullable."""
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5))
    features = [
        Column(f"c{n}", "feature", kind, nullable=draw(st.booleans()), values=WORDS if kind == "category" else ())  # type: ignore[arg-type]
        for n, kind in enumerate(kinds)
    ]
    return SchemaSpec("Row", "", (*features, Column("y", "target", "float")))


@st.composite
def tables(draw: st.DrawFn, most: int = 12) -> tuple[SchemaSpec, list[dict[str, Any]]]:
    """Draw a schema with rows that keep it."""
    spec = draw(specs())
    cells = {
        column.name: st.none() | VALUES[column.kind] if column.nullable else VALUES[column.kind]
        for column in spec.features
    }
    return spec, draw(st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=most))


def rows_of(spec: SchemaSpec, given_rows: list[dict[str, Any]]) -> Rows:
    columns = {c.name: column_array(c, [row[c.name] for row in given_rows]) for c in spec.features}
    return Rows(columns, len(given_rows))


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same, missing ones included."""
    return bool(one == other or (one != one and other != other))  # noqa: PLR0124 - NaN and NaT


@given(specs())
def test_a_schema_survives_being_stored(spec: SchemaSpec) -> None:
    assert spec.features  # what is computed once is no part of the value
    again = msgspec.json.decode(msgspec.json.encode(spec), type=SchemaSpec)
    assert again == spec
    assert again.features == spec.features


@given(tables(), st.data())
def test_a_slice_of_rows_holds_those_rows(table: tuple[SchemaSpec, list[dict[str, Any]]], data: st.DataObject) -> None:
    spec, given_rows = table
    rows = rows_of(spec, given_rows)
    start = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(start, len(rows)))
    part = rows.take(slice(start, end))
    assert len(part) == end - start
    for name in rows:
        assert all(same(a, b) for a, b in zip(part[name].tolist(), rows[name].tolist()[start:end], strict=True))


@given(tables())
def test_a_request_of_many_rows_is_many_requests_of_one(table: tuple[SchemaSpec, list[dict[str, Any]]]) -> None:
    spec, given_rows = table
    parser = RequestParser(spec, [column.name for column in spec.features])
    objects = [{name: as_json(value) for name, value in row.items()} for row in given_rows]
    together = make_x(None, spec, parser.parse_rows(objects))
    alone = np.concatenate([make_x(None, spec, parser.parse_rows([item])) for item in objects])
    assert np.array_equal(together, alone, equal_nan=True)
    assert np.array_equal(together, make_x(None, spec, rows_of(spec, given_rows)), equal_nan=True)


@given(tables())
def test_a_typical_value_occurs_and_as_many_lie_below_it_as_above(
    table: tuple[SchemaSpec, list[dict[str, Any]]],
) -> None:
    spec, given_rows = table
    rows = rows_of(spec, given_rows)
    for name, typical in typical_row(spec, rows).items():
        values = [None if value != value else value for value in rows[name].tolist()]  # noqa: PLR0124 - NaN and NaT
        present = [value for value in values if value is not None]
        if not present:
            assert typical is None
            continue
        plain = typical.item() if isinstance(typical, np.generic) else typical
        if spec.column(name).kind in ("bool", "category"):
            assert values.count(plain) == max(values.count(value) for value in values)
        else:
            below, above = sum(v < plain for v in present), sum(v > plain for v in present)
            assert plain in present
            assert below <= (len(present) - 1) // 2
            assert above <= len(present) // 2


@given(tables(), st.data())
def test_ask_goes_the_way_that_a_request_goes(
    table: tuple[SchemaSpec, list[dict[str, Any]]], data: st.DataObject
) -> None:
    spec, given_rows = table
    seen: list[Any] = []

    class Recording:
        def predict(self, x: Any) -> Any:
            seen.append(x.copy())
            return np.zeros(len(x))

    typical = data.draw(st.sampled_from(given_rows))
    changed = data.draw(st.sampled_from(given_rows))
    names = data.draw(st.sets(st.sampled_from(sorted(changed))))
    fields = {name: changed[name] for name in names}
    Asker(spec, (), None, None, Recording(), (), typical)(**fields)
    assert np.array_equal(seen[0], make_x(None, spec, rows_of(spec, [{**typical, **fields}])), equal_nan=True)


@given(st.lists(st.sampled_from([*WORDS, None, "unknown"]), min_size=1, max_size=20))
def test_a_code_is_the_place_among_the_values_however_the_texts_are_kept(texts: list[str | None]) -> None:
    expected = [WORDS.index(text) if text in WORDS else -1 for text in texts]
    table = sorted({text for text in texts if text is not None})
    codes = np.array([-1 if text is None else table.index(text) for text in texts], dtype=np.int32)
    assert category_codes(np.array(texts, dtype=object), WORDS).tolist() == expected
    assert category_codes(Coded(codes, np.array(table, dtype=object)), WORDS).tolist() == expected


@given(st.sets(st.integers(0, 4), min_size=1), st.integers(1, 6), st.data())
def test_classes_that_a_segment_has_not_seen_have_no_probability(seen: set[int], n: int, data: st.DataObject) -> None:
    raw = np.array([data.draw(st.lists(st.floats(0.01, 1), min_size=len(seen), max_size=len(seen))) for _ in range(n)])

    class Fitted:
        classes_ = np.array(sorted(seen))

        def predict_proba(self, _: Any) -> Any:
            return raw / raw.sum(axis=1, keepdims=True)

    found = answer(Fitted(), None, 5, np.zeros((n, 1)), Rows({}, n), ())
    assert found.shape == (n, 5)
    assert np.allclose(found.sum(axis=1), 1)
    assert not found[:, sorted(set(range(5)) - seen)].any()


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
def test_a_moment_with_a_zone_is_taken_as_the_same_moment(moment: datetime) -> None:
    spec = SchemaSpec("Row", "", (Column("at", "time", "datetime"), Column("y", "target", "float")))
    elsewhere = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assume(moment.year > 1900)
    (found,) = RequestParser(spec, ["at"]).parse_rows([{"at": elsewhere}])["at"].tolist()
    assert found == moment.replace(tzinfo=None)


@given(tables(), st.data())
def test_typical_rows_of_many_segments_are_those_of_each(
    table: tuple[SchemaSpec, list[dict[str, Any]]], data: st.DataObject
) -> None:
    spec, given_rows = table
    if not given_rows:
        return
    rows = rows_of(spec, given_rows)
    cuts = data.draw(st.sets(st.integers(1, len(rows)), max_size=4))
    bounds = sorted({0, len(rows), *cuts})
    starts, lengths = np.array(bounds[:-1]), np.diff(bounds)
    together = typical_rows(spec, rows, starts, lengths)
    for place, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        alone = typical_row(spec, rows.take(slice(start, start + length)))
        assert all(same(together[name][place], value) for name, value in alone.items())
