"""Trees as arrays: nodes of 16 bytes, siblings side by side, all trees of a model in one block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.layout import NODE, Flag, Link
from modelmill.artifact.loading import kernels

Floats = NDArray[np.float64]

MOST_FEATURES = 1 << 16
NO_SETS = np.zeros(0, dtype="<u4")
NO_LEAVES = np.zeros((0, 0))


class Tables(NamedTuple):
    """The nodes of some trees as their library keeps them, one tree after the other; children counted in their tree."""

    sizes: Sequence[int]
    """Nodes in each tree; the first of them is the root."""
    left: NDArray[Any]
    right: NDArray[Any]
    leaf: NDArray[np.bool_]
    feature: NDArray[Any]
    value: Floats
    """Threshold, a leaf's value, or where a set of categories begins."""
    flags: NDArray[Any]
    """Without LEAF."""


class Trees(NamedTuple):
    """A model of trees: scores are sums of leaf values, or means of rows of `leaves`."""

    nodes: NDArray[np.void]
    roots: NDArray[np.int32]
    start: Floats
    """(scores,): what the sums begin with; tree t adds to score t % scores."""
    sets: NDArray[np.uint32] = NO_SETS
    """Sets of categories: how many words of 32 bits, then those."""
    leaves: Floats = NO_LEAVES
    """(leaves, classes) where leaves hold more than one number."""
    link: int = Link.IDENTITY.value
    """One of `Link`, as a number: a kernel takes an enum ten times as slowly."""
    scale: float = 1.0
    width: int = 1
    single: bool = False
    """Whether features are cast to float32 before they are compared."""
    sums_single: bool = False
    """Whether sums are in float32, too."""
    missing: bool = False
    """Whether a missing value has an answer."""

    def fits(self, width: int) -> bool:
        """Return whether all that its nodes point to is there: children behind their parents, so that every walk ends."""
        nodes, count = self.nodes, len(self.nodes)
        leaf = nodes["flags"] & Flag.LEAF != 0
        inner = np.flatnonzero(~leaf)
        child, leaves = nodes["child"], len(self.leaves)
        return (
            len(self.start) <= self.width
            and bool(((self.roots >= 0) & (self.roots < count)).all())
            and bool(((child[inner] > inner) & (child[inner] < count - 1)).all())
            and bool((nodes["feature"] < max(width, 1)).all())
            and (not leaves or (bool((child[leaf] < leaves).all()) and self.leaves.shape[1] == self.width))
            and self._sets_fit()
        )

    def _sets_fit(self) -> bool:
        of_sets = self.nodes["flags"] & Flag.SET != 0
        if not of_sets.any():
            return True
        begins = self.nodes["value"][of_sets].astype(np.int64)
        if not ((begins >= 0) & (begins < len(self.sets))).all():
            return False
        return bool((begins + self.sets[begins] < len(self.sets)).all())

    def evaluate(self, x: Floats, answers: Floats) -> None:
        """Write the answers to (rows, features), (rows, width)."""
        if len(self.leaves):
            kernels().forest(self.nodes, self.roots, self.leaves, x, self.missing, answers)
        elif self.sums_single:
            kernels().boosted32(self.nodes, self.roots, self.sets, self.start, x, self.missing, self.link, answers)
        else:
            model = self.nodes, self.roots, self.sets, self.start
            kernels().boosted(*model, x, self.single, self.missing, self.link, self.scale, answers)

    def agrees(self, _x: Floats, found: Floats, expected: Floats) -> bool:
        """Return whether answers are its library's: the same bits, or within 4 units in the last place behind a link."""
        if self.link in (Link.IDENTITY, Link.MEAN, Link.SIGN, Link.LARGEST):
            return bool((found == expected).all())
        size = np.abs(expected)
        if self.link == Link.SIGMOID:
            size[:, 0] = size.max(axis=1)  # it is 1 - p: its last place is that of the larger one
        last_place = np.spacing(size.astype(np.float32 if self.sums_single else np.float64))
        return bool((np.abs(found - expected) <= 4 * last_place.astype(np.float64)).all())


def lay_out(tables: Tables) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """Return nodes with siblings side by side, and the roots.

    The children of a tree's n-th inner node are its nodes 2n + 1 and 2n + 2: every node but the root is the child of
    exactly one inner node, so this numbers them all.
    """
    sizes = np.asarray(tables.sizes, dtype=np.int64)
    roots = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    base = np.repeat(roots, sizes)
    inner = np.flatnonzero(~tables.leaf)
    before: NDArray[np.int64] = np.cumsum(~tables.leaf) - ~tables.leaf
    rank: NDArray[np.int64] = before[inner] - before[base[inner]]
    left = base[inner] + 2 * rank + 1
    place = np.empty(len(base), dtype=np.int64)
    place[roots] = roots
    place[base[inner] + tables.left[inner]] = left
    place[base[inner] + tables.right[inner]] = left + 1
    nodes = np.zeros(len(base), dtype=NODE)
    nodes["value"][place] = tables.value
    nodes["feature"][place] = np.where(tables.leaf, 0, tables.feature)
    nodes["flags"][place] = np.where(tables.leaf, int(Flag.LEAF), tables.flags)
    children = np.zeros(len(base), dtype=np.int64)
    children[inner] = left
    children[tables.leaf] = np.arange(int(tables.leaf.sum()))
    nodes["child"][place] = children
    return nodes, roots.astype("<i4")
