"""The columns of a schema: a role, a kind and the promises about the values."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from modelmill.errors import DeclarationInvalid

Role = Literal["key", "time", "feature", "target", "subject"]
Kind = Literal["str", "int", "float", "bool", "date", "datetime", "category"]


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One declared column."""

    name: str
    role: Role
    kind: Kind
    nullable: bool = False
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    values: tuple[str, ...] = ()
    """The allowed texts of a category or a label, in the order of their codes."""
    unit: str = ""
    doc: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.kind in ("int", "float")

    def rule(self) -> str:
        """Return the promise as text: ``float 0..800 min``."""
        low = f"{self.ge:g}" if self.ge is not None else f">{self.gt:g}" if self.gt is not None else ""
        high = f"{self.le:g}" if self.le is not None else f"<{self.lt:g}" if self.lt is not None else ""
        bounds = f"{low}..{high}" if low or high else ""
        parts = [self.kind, "|".join(self.values), bounds, self.unit, "or null" if self.nullable else ""]
        return " ".join(part for part in parts if part)


class Declared(msgspec.Struct, frozen=True):
    """What `key()`, `col()` and the others return: a column that does not know its name and type yet."""

    role: Role
    options: dict[str, Any]

    def named(self, name: str, kind: Kind, *, nullable: bool) -> Column:
        """Return the column, once the class body is read."""
        options = dict(self.options)
        nullable = options.pop("nullable", False) or nullable
        if options.get("values"):
            kind = "category"
        _check_bounds(name, kind, options)
        return Column(name=name, role=self.role, kind=kind, nullable=nullable, **options)


def _check_bounds(name: str, kind: Kind, options: dict[str, Any]) -> None:
    bounds = {key: options[key] for key in ("ge", "gt", "le", "lt") if options.get(key) is not None}
    if bounds and kind not in ("int", "float"):
        raise DeclarationInvalid(f"column `{name}` is a {kind}: it cannot have {', '.join(bounds)}")
    low = bounds.get("ge", bounds.get("gt"))
    high = bounds.get("le", bounds.get("lt"))
    if low is not None and high is not None and low > high:
        raise DeclarationInvalid(f"column `{name}` allows no value at all", got=f"from {low:g} to {high:g}")


def key(*, doc: str = "") -> Any:
    """Declare a column that names the segment a row belongs to. Type: `str`, `int`, `bool` or `date`."""
    return Declared("key", {"doc": doc})


def time(*, doc: str = "") -> Any:
    """Declare the column by which rows are ordered; the last rows of each segment test. Type: `datetime` or `date`."""
    return Declared("time", {"doc": doc})


def col(  # noqa: PLR0913 - one keyword a promise
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    unit: str = "",
    doc: str = "",
    nullable: bool = False,
) -> Any:
    """Declare a feature, with the range its values promise to keep."""
    options = {"ge": ge, "gt": gt, "le": le, "lt": lt, "unit": unit, "doc": doc, "nullable": nullable}
    return Declared("feature", options)


def category(*values: str, doc: str = "", nullable: bool = False) -> Any:
    """Declare a feature that is one of a few texts. As a number it is its place in `values`."""
    return Declared("feature", {"values": _distinct(values), "doc": doc, "nullable": nullable})


def target(  # noqa: PLR0913 - one keyword a promise
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    unit: str = "",
    doc: str = "",
    nullable: bool = False,
) -> Any:
    """Declare what is predicted. A nullable target may be unknown: such rows are kept, but neither train nor test."""
    options = {"ge": ge, "gt": gt, "le": le, "lt": lt, "unit": unit, "doc": doc, "nullable": nullable}
    return Declared("target", options)


def label(*values: str, doc: str = "", nullable: bool = False) -> Any:
    """Declare a target that is one of a few texts: a classification."""
    if len(values) < 2:
        raise DeclarationInvalid("a label needs at least two values", got=f"{values!r}")
    return Declared("target", {"values": _distinct(values), "doc": doc, "nullable": nullable})


def subject(*, doc: str = "") -> Any:
    """Declare a column that identifies a person: never a feature, never in statistics, samples or messages."""
    return Declared("subject", {"doc": doc})


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or len(set(values)) != len(values) or not all(isinstance(v, str) for v in values):
        raise DeclarationInvalid("a category needs distinct texts", got=f"{values!r}")
    return values
