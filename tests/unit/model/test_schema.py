"""A schema class: read once, complete, and wrong ones refused while the file is imported."""

from __future__ import annotations

from datetime import date, datetime

import msgspec
import pytest

import modelmill as mm
from modelmill.errors import DeclarationInvalid
from modelmill.model.schema import SchemaSpec, schema_of


class Trip(mm.Schema, unique=["store", "at"]):
    """One trip."""

    store: str = mm.key()
    person: str = mm.subject()
    at: datetime = mm.time()
    miles: int = mm.col(ge=1, unit="mile")
    late: float | None = mm.col(lt=100)
    kind: str = mm.category("car", "bus")
    day: date = mm.col()
    minutes: float = mm.target(ge=0)


SPEC = schema_of(Trip)


def test_roles_and_kinds() -> None:
    assert [column.name for column in SPEC.features] == ["miles", "late", "kind", "day"]
    assert (SPEC.target.name, SPEC.time and SPEC.time.name, SPEC.unique) == ("minutes", "at", ("store", "at"))
    assert SPEC.column("kind").kind == "category"
    assert SPEC.column("late").nullable
    assert [column.name for column in SPEC.request_columns] == ["store", "at", "miles", "late", "kind", "day"]


def test_an_attribute_is_its_column() -> None:
    assert str(Trip.miles) == "miles"
    with pytest.raises(AttributeError, match="did you mean `miles`"):
        _ = Trip.mile


def test_a_spec_is_read_as_it_was_written() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SPEC), type=SchemaSpec) == SPEC


def test_a_rule_reads_like_a_sentence() -> None:
    assert SPEC.column("miles").rule() == "int 1.. mile"
    assert SPEC.column("late").rule() == "float ..<100 or null"
    assert SPEC.column("kind").rule() == "category car|bus"


def test_a_schema_needs_one_target() -> None:
    with pytest.raises(DeclarationInvalid, match="exactly one target"):

        class Without(mm.Schema):
            hour: int = mm.col()


def test_a_column_needs_a_role() -> None:
    with pytest.raises(DeclarationInvalid, match="column `hour` .* has no role"):

        class Bare(mm.Schema):
            hour: int = 3
            y: float = mm.target()


def test_a_text_feature_must_be_a_category() -> None:
    with pytest.raises(DeclarationInvalid) as caught:

        class Text(mm.Schema):
            name: str = mm.col()
            y: float = mm.target()

    assert "mm.category" in caught.value.parts["next"]


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(DeclarationInvalid, match="has the type"):

        class Odd(mm.Schema):
            z: complex = mm.col()
            y: float = mm.target()


def test_bounds_must_allow_something() -> None:
    with pytest.raises(DeclarationInvalid, match="allows no value"):

        class Empty(mm.Schema):
            z: float = mm.col(ge=3, le=2)
            y: float = mm.target()


def test_unique_names_columns() -> None:
    with pytest.raises(DeclarationInvalid, match="no column `nope`"):

        class Wrong(mm.Schema, unique=["nope"]):
            y: float = mm.target()
