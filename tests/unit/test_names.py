"""Names: what is written can be read again, and nothing from outside is taken for a name unchecked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.errors import NameInvalid
from modelmill.names import (
    POOLED,
    format_segment,
    format_target,
    parse_digest,
    parse_model_name,
    parse_segment,
    parse_target,
)

VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_segment_is_read_as_it_was_written(values: list[str]) -> None:
    segment = tuple(values)
    text = format_segment(segment)
    assert parse_segment(text) == segment
    assert not set(text) & set(" /[]#?&\n")
    assert parse_target(f"air-time[{text}]") == ("air-time", segment)


@given(st.lists(VALUES, min_size=1, max_size=3), st.lists(VALUES, min_size=1, max_size=3))
def test_two_segments_are_never_written_alike(a: list[str], b: list[str]) -> None:
    assert (format_segment(tuple(a)) == format_segment(tuple(b))) == (a == b)


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        (POOLED, "pooled"),
        (("pooled",), "%70ooled"),
        (("UA", "ORD"), "UA,ORD"),
        (("New York", "a/b"), "New%20York,a%2Fb"),
        (("München",), "München"),
        (("a,b]",), "a%2Cb%5D"),
    ],
)
def test_the_documented_quoting(segment: tuple[str, ...], text: str) -> None:
    assert format_segment(segment) == text


def test_a_target_may_have_no_segment() -> None:
    assert parse_target("air-time") == ("air-time", None)
    assert format_target("air-time", ("UA",)) == "air-time[UA]"


@pytest.mark.parametrize("text", ["", "A", "a_b", "../x", "a" * 64, "-a", "a[", "a]b", "a[b][c]", "ä"])
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        parse_target(text)


@pytest.mark.parametrize("text", ["", "ab", "A" * 64, "a" * 63, "a" * 65, "../" + "a" * 61, "a" * 64 + "\n"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        parse_digest(text)


def test_impossible_encodings_are_refused() -> None:
    with pytest.raises(NameInvalid):
        parse_target("air-time[%ff]")
    assert parse_model_name("a1-b") == "a1-b"
