"""`Schema`: one class that is the data contract, the feature list, the request schema and the documentation."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from datetime import date, datetime
from functools import cached_property
from typing import Any, dataclass_transform

import msgspec

from modelmill.errors import DeclarationInvalid, did_you_mean
from modelmill.model import columns as declare
from modelmill.model.columns import Column, Declared, Kind

_KINDS: dict[Any, Kind] = {str: "str", int: "int", float: "float", bool: "bool", date: "date", datetime: "datetime"}
_KINDS_OF_ROLE: dict[str, tuple[Kind, ...]] = {
    "key": ("str", "int", "bool", "date"),
    "time": ("datetime", "date"),
    "target": ("int", "float", "bool", "category"),
    "feature": ("int", "float", "bool", "date", "datetime", "category"),
    "subject": ("str", "int"),
}


class SchemaSpec(msgspec.Struct, frozen=True, dict=True):
    """A schema as a value: it can be stored, compared, and read without the file that declared it.

    What is asked for once a segment or a request is computed once (`dict=True` gives it a place to stay).
    """

    name: str
    doc: str
    columns: tuple[Column, ...]
    unique: tuple[str, ...] = ()

    def with_role(self, role: str) -> tuple[Column, ...]:
        """Return the columns of one role, in the order of declaration."""
        return tuple(column for column in self.columns if column.role == role)

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """Return the feature columns; this order is the order of the default `x`."""
        return self.with_role("feature")

    @cached_property
    def target(self) -> Column:
        """Return the column that is predicted."""
        return self.with_role("target")[0]

    @cached_property
    def time(self) -> Column | None:
        """Return the column that orders rows, if there is one."""
        return next(iter(self.with_role("time")), None)

    @cached_property
    def keys(self) -> tuple[Column, ...]:
        """Return the key columns."""
        return self.with_role("key")

    @cached_property
    def request_columns(self) -> tuple[Column, ...]:
        """Return what a request may hold: everything but the target and subjects."""
        return tuple(column for column in self.columns if column.role not in ("target", "subject"))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Return the names of the columns that hold text."""
        return tuple(column.name for column in self.columns if column.kind in ("str", "category"))

    def column(self, name: str) -> Column:
        """Return one column by name."""
        for column in self.columns:
            if column.name == name:
                return column
        known = [column.name for column in self.columns]
        raise DeclarationInvalid(f"schema `{self.name}` has no column `{name}`", likely=did_you_mean(name, known))


@dataclass_transform(
    field_specifiers=(
        declare.key,
        declare.time,
        declare.col,
        declare.category,
        declare.target,
        declare.label,
        declare.subject,
    ),
    kw_only_default=True,
)
class SchemaType(type):
    """The class of schemas: it reads the class body, and gives each column by its attribute."""

    __spec__: SchemaSpec

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, unique: typing.Sequence[str] = ()
    ) -> SchemaType:
        """Read the declared columns; a class that declares none (`Schema` itself) has no spec."""
        kind = super().__new__(cls, name, bases, body)
        if bases:
            kind.__spec__ = _read_class(kind, tuple(str(column) for column in unique))
            for column in kind.__spec__.columns:
                setattr(kind, column.name, column)
        return kind

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = [column.name for column in cls.__spec__.columns]
        raise AttributeError(f"schema `{cls.__name__}` has no column `{name}`; {did_you_mean(name, known)}")


class Schema(metaclass=SchemaType):
    """Subclass it and annotate: one row of training data; without its target, one request."""


def schema_of(kind: type[Schema]) -> SchemaSpec:
    """Return a schema class as a value."""
    return kind.__spec__


def _read_class(kind: type, unique: tuple[str, ...]) -> SchemaSpec:
    found = tuple(
        _read_column(kind, name, annotation)
        for name, annotation in inspect.get_annotations(kind).items()
        if not name.startswith("_")
    )
    _refuse_bare_columns(kind, {column.name for column in found})
    doc = (kind.__doc__ or "").strip().split("\n")[0]
    spec = SchemaSpec(kind.__name__, doc, found, unique)
    if len(spec.with_role("target")) != 1:
        raise DeclarationInvalid(f"schema `{spec.name}` needs exactly one target or label", where=_where(kind))
    if len(spec.with_role("time")) > 1:
        raise DeclarationInvalid(f"schema `{spec.name}` has more than one time", where=_where(kind))
    for name in unique:
        spec.column(name)
    return spec


def _read_column(kind: type, name: str, annotation: Any) -> Column:
    declared = kind.__dict__.get(name)
    if not isinstance(declared, Declared):
        raise DeclarationInvalid(
            f"column `{name}` of schema `{kind.__name__}` has no role",
            where=_where(kind),
            next=f"write  {name}: ... = mm.col()      (or mm.key(), mm.time(), mm.target(), mm.category(...))",
        )
    base, nullable = _without_none(_evaluate(kind, annotation))
    if base not in _KINDS:
        known = ", ".join(sorted(k.__name__ for k in _KINDS))
        raise DeclarationInvalid(f"column `{name}` has the type `{base}`", where=_where(kind), expected=known)
    column = declared.named(name, _KINDS[base], nullable=nullable)
    allowed = _KINDS_OF_ROLE[column.role]
    if column.kind not in allowed:
        raise DeclarationInvalid(
            f"column `{name}` is a {column.role} of type {column.kind}",
            where=_where(kind),
            expected=" or ".join(allowed),
            next="a text feature is declared with mm.category(...)" if column.role == "feature" else "",
        )
    return column


def _refuse_bare_columns(kind: type, annotated: set[str]) -> None:
    for name, value in kind.__dict__.items():
        if isinstance(value, Declared) and name not in annotated:
            raise DeclarationInvalid(
                f"column `{name}` has no type", where=_where(kind), next=f"write  {name}: float = ..."
            )


def _evaluate(kind: type, annotation: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    scope = vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}
    try:
        return eval(annotation, dict(scope), {"datetime": datetime, "date": date} | scope)  # noqa: S307
    except NameError as error:
        raise DeclarationInvalid(f"the type `{annotation}` is not known: {error}", where=_where(kind)) from error


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        if len(inner) == 1:
            return inner[0], True
    return annotation, False


def _where(kind: type) -> str:
    return f"class {kind.__module__}.{kind.__qualname__}"
