"""What lies between two versions: computed from three digests, never claimed."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import NamedTuple

from modelmill.names import Digest


class Digests(NamedTuple):
    """What a version was computed from."""

    code: Digest
    """The user's files that were really imported."""
    data: Digest
    """The rows of this segment."""
    model: Digest
    """The declaration and the parameters."""

    @property
    def identity(self) -> Digest:
        """Return the one digest that stands for all three: where it is known already, there is nothing to build."""
        return Digest(hashlib.sha256(bytes.fromhex(self.code + self.data + self.model)).hexdigest())


class Change(StrEnum):
    """What one version is in the eyes of another."""

    FIRST = "first"
    """There is no other."""
    SAME = "same"
    """Nothing differs."""
    EXPERIMENT = "experiment"
    """The same data, another model or code."""
    RETRAINING = "retraining"
    """The same model and code, other data."""
    PROMOTION = "promotion"
    """Nothing differs but the place."""
    REWORK = "rework"
    """The data differ, and the model or code as well."""


def change_between(earlier: Digests, later: Digests, *, same_place: bool = True) -> Change:
    """Return what was changed from `earlier` to `later`; every pair of versions has exactly one answer."""
    recipe = (earlier.code, earlier.model) != (later.code, later.model)
    return change_of(data=earlier.data != later.data, recipe=recipe, same_place=same_place)


def change_of(*, data: bool, recipe: bool, same_place: bool = True) -> Change:
    """Return the change where one knows which digests differ: that of the data, and those of the code or model."""
    match data, recipe:
        case True, True:
            return Change.REWORK
        case True, False:
            return Change.RETRAINING
        case False, True:
            return Change.EXPERIMENT
    return Change.SAME if same_place else Change.PROMOTION
