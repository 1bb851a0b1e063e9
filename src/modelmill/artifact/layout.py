"""The words of a packed model: how a node lies in memory, what links and operations there are."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

NODE = np.dtype([("value", "<f8"), ("child", "<i4"), ("feature", "<u2"), ("flags", "<u2")])
"""A node of a tree, 16 bytes. `value`: threshold, leaf value, or where a set of categories begins; `child`: the left child,
whose neighbour is the right one, or a leaf's place among the leaves."""
OPERATION = np.dtype([("code", "<i4"), ("begin", "<i4"), ("end", "<i4"), ("unused", "<i4"), ("a", "<f8"), ("b", "<f8")])
"""One step of a column's preparation; see `Op`."""


class Flag(IntFlag):
    """What a node says beside its numbers."""

    LEAF = 1
    MISSING_LEFT = 2
    SET = 4
    """Left are the categories in a set; else those up to the threshold."""
    ZERO_MISSING = 8
    """Zero counts as missing."""


class Link(IntEnum):
    """What is done with raw scores at the end."""

    IDENTITY = 0
    MEAN = 1
    """Divide by the scale."""
    EXP = 2
    SQUARE = 3
    """Square, keeping the sign."""
    SIGMOID = 4
    """Of two classes, from one score times the scale."""
    SOFTMAX = 5
    ONE_VS_REST = 6
    """A sigmoid for each class, normalised."""
    SIGMOIDS = 7
    """A sigmoid for each class, as they are."""
    CLIPPED = 8
    """(clip(score, -1, 1) + 1) / 2, normalised: modified Huber."""
    SIGN = 9
    """All for the second class where the score is positive."""
    LARGEST = 10
    """All for the class with the largest score."""


class Op(IntEnum):
    """What is done with a column before the model sees it."""

    SUBTRACT = 0
    DIVIDE = 1
    MULTIPLY = 2
    ADD = 3
    CLIP = 4
    """Between a and b."""
    FILL = 5
    """a for a missing value."""
    EQUALS = 6
    """1 where the value is a; a missing value equals a missing a."""
    MISSING = 7
    """1 where the value is missing."""
    LOOKUP = 8
    """The place in table[begin:end], sorted; b for a missing value, a for one that is not there."""
    KNOWN = 9
    """Infinity, which has no answer, where the value is not in table[begin:end]; b is 1 where missing is known."""
    REPLACE = 10
    """b for a."""
