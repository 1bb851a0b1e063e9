"""What lies between two versions is computed from three digests."""

from __future__ import annotations

import hashlib

import pytest

from modelmill.names import digest_of
from modelmill.registry.change import Change, Digests, change_between

A, B = digest_of(b"a"), digest_of(b"b")
BEFORE = Digests(code=A, data=A, model=A)


@pytest.mark.parametrize(
    ("after", "change"),
    [
        (BEFORE, Change.SAME),
        (Digests(B, A, A), Change.EXPERIMENT),
        (Digests(A, A, B), Change.EXPERIMENT),
        (Digests(B, A, B), Change.EXPERIMENT),
        (Digests(A, B, A), Change.RETRAINING),
        (Digests(B, B, A), Change.REWORK),
        (Digests(A, B, B), Change.REWORK),
        (Digests(B, B, B), Change.REWORK),
    ],
)
def test_change(after: Digests, change: Change) -> None:
    assert change_between(BEFORE, after) is change
    elsewhere = Change.PROMOTION if change is Change.SAME else change
    assert change_between(BEFORE, after, same_place=False) is elsewhere


def test_the_identity_is_the_hash_of_the_three() -> None:
    expected = hashlib.sha256(bytes.fromhex(A) + bytes.fromhex(B) + bytes.fromhex(A)).hexdigest()
    assert Digests(A, B, A).identity == expected
    assert len({Digests(A, A, B).identity, Digests(A, B, A).identity, Digests(B, A, A).identity}) == 3
