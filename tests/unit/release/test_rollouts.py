"""Samples of segments, policies and floors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelmill.release.policy import ALWAYS, Limit, policy_of, unmet
from modelmill.release.rollouts import draw

SEGMENTS = st.dictionaries(st.tuples(st.text("abc", min_size=1, max_size=4)), st.integers(0, 1000), max_size=60)


@given(SEGMENTS, st.text("xyz", min_size=1, max_size=5))
def test_all_segments_are_drawn_once_and_the_same_each_time(segments: dict[tuple[str, ...], int], salt: str) -> None:
    drawn = draw(segments, salt)
    assert sorted(drawn) == sorted(segments)
    assert draw(dict(reversed(segments.items())), salt) == drawn


def test_a_beginning_of_what_is_drawn_has_its_share_of_the_traffic() -> None:
    segments: dict[tuple[str, ...], int] = {(f"s{n:04d}",): 5000 // (n + 1) for n in range(5000)}
    drawn = draw(segments, "salt")
    for share in (0.01, 0.1):
        first = drawn[: int(share * 5000)]
        busiest = sum(segments[one] >= 10 for one in first)  # the busiest tenth
        assert 0.08 <= busiest / len(first) <= 0.12
    assert draw(segments, "another")[:50] != drawn[:50]


def test_a_declared_canary_is_a_policy() -> None:
    declared = {
        "steps": ["shadow", "2%", "100%"],
        "of": "segments",
        "hold": "30m",
        "abort": [{"left": "p99_ms", "op": ">", "right": 20.0}, {"left": "worse(mae)", "op": ">", "right": 0.1}],
    }
    policy = policy_of(declared)
    assert (policy.steps, policy.of, policy.hold_s, policy.has_shadow) == ((0.0, 0.02, 1.0), "segments", 1800.0, True)
    assert policy.abort == (Limit("p99_ms", 20.0), Limit("worse", 0.1, "mae"))
    assert [str(limit) for limit in policy.abort] == ["p99_ms > 20", "worse(mae) > 0.1"]
    assert policy_of({**declared, "abort": []}).abort == ALWAYS
    assert policy_of(None).steps == ()


def test_what_is_not_known_is_not_reached() -> None:
    checks = {"clean commit": True, "law": None, "gate": False}
    assert unmet(["clean commit", "law", "gate", "canary"], checks, policy_of(None)) == ["law", "gate", "canary"]
    assert unmet([], checks, policy_of(None)) == []
