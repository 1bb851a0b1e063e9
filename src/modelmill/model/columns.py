"""The columns of a schema: a role, a kind and the promises about the values."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, Unpack

import msgspec

from modelmill.errors import DeclarationInvalid, did_you_mean

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
    source: str = ""
    owner: str = ""
    sensitive: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.kind in ("int", "float")

    @property
    def hidden(self) -> bool:
        """Whether its values may be in no message."""
        return self.sensitive or self.role == "subject"

    def meaning(self) -> str:
        """Return its entry in the dictionary as text: ``late leaving the gate; from flights.csv; ask flights@example.com``."""
        parts = [
            self.doc or "no meaning given",
            "" if self.unit or not self.numeric else "no unit given",
            f"from {self.source}" if self.source else "",
            f"ask {self.owner}" if self.owner else "",
            "sensitive" if self.sensitive else "",
        ]
        return "; ".join(part for part in parts if part)

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
        _check_names(name, options)
        nullable = options.pop("nullable", False) or nullable
        if options.get("values"):
            kind = "category"
        _check_bounds(name, kind, options)
        return Column(name=name, role=self.role, kind=kind, nullable=nullable, **options)


def _check_names(name: str, options: dict[str, Any]) -> None:
    known = [field for field in Column.__struct_fields__ if field not in ("name", "role", "kind")]
    for option in options:
        if option not in known:
            raise DeclarationInvalid(
                f"column `{name}` does not know `{option}=`",
                likely=did_you_mean(option, known),
                expected=", ".join(known),
            )


def _check_bounds(name: str, kind: Kind, options: dict[str, Any]) -> None:
    bounds = {key: options[key] for key in ("ge", "gt", "le", "lt") if options.get(key) is not None}
    if bounds and kind not in ("int", "float"):
        raise DeclarationInvalid(f"column `{name}` is a {kind}: it cannot have {', '.join(bounds)}")
    low = bounds.get("ge", bounds.get("gt"))
    high = bounds.get("le", bounds.get("lt"))
    if low is not None and high is not None and low > high:
        raise DeclarationInvalid(f"column `{name}` allows no value at all", got=f"from {low:g} to {high:g}")


class Meaning(TypedDict, total=False):
    """What a column's values mean to people: the entry of the column in the data dictionary."""

    unit: str
    """``min``, ``mile``"""
    doc: str
    """What it says, in a few words."""
    source: str
    """Where it comes from, such as ``warehouse.flights.dep_delay``."""
    owner: str
    """Whom to ask about it."""
    sensitive: bool
    """Its values are in no message and no comparison."""


class Promises(Meaning, total=False):
    """What the values of a number promise, and what they mean."""

    ge: float | None
    gt: float | None
    le: float | None
    lt: float | None
    nullable: bool


def key(**meaning: Unpack[Meaning]) -> Any:
    """Declare a column that names the segment a row belongs to. Type: `str`, `int`, `bool` or `date`."""
    return Declared("key", dict(meaning))


def time(**meaning: Unpack[Meaning]) -> Any:
    """Declare the column by which rows are ordered; the last rows of each segment test. Type: `datetime` or `date`."""
    return Declared("time", dict(meaning))


def col(**promises: Unpack[Promises]) -> Any:
    """Declare a feature, with the range its values promise to keep: ``ge``, ``gt``, ``le``, ``lt``, ``nullable``."""
    return Declared("feature", dict(promises))


def category(*values: str, nullable: bool = False, **meaning: Unpack[Meaning]) -> Any:
    """Declare a feature that is one of a few texts. As a number it is its place in `values`."""
    return Declared("feature", {**meaning, "values": _distinct(values), "nullable": nullable})


def target(**promises: Unpack[Promises]) -> Any:
    """Declare what is predicted. A nullable target may be unknown: such rows are kept, but neither train nor test."""
    return Declared("target", dict(promises))


def label(*values: str, nullable: bool = False, **meaning: Unpack[Meaning]) -> Any:
    """Declare a target that is one of a few texts: a classification."""
    if len(values) < 2:
        raise DeclarationInvalid("a label needs at least two values", got=f"{values!r}")
    return Declared("target", {**meaning, "values": _distinct(values), "nullable": nullable})


def subject(**meaning: Unpack[Meaning]) -> Any:
    """Declare a column that identifies a person: never a feature, never in statistics, samples or messages."""
    return Declared("subject", dict(meaning))


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or len(set(values)) != len(values) or not all(isinstance(v, str) for v in values):
        raise DeclarationInvalid("a category needs distinct texts", got=f"{values!r}")
    return values
