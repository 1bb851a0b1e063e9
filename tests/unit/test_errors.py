"""The error tree: every class is explained, has a code of its own, and survives the way between processes."""

from __future__ import annotations

import pickle
import re

import pytest

from modelmill.errors import PARTS, ContractBroken, ModelmillError, did_you_mean, every_error


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[ModelmillError]) -> None:
    error = kind("what happened", where="delays.py:3", next="modelmill check")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again), again.parts) == (kind, "what happened", error.parts)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_has_a_code_a_sentence_and_a_status(kind: type[ModelmillError]) -> None:
    assert re.fullmatch(r"MM\d{3}", kind.code)
    assert (kind.__doc__ or "").startswith(kind().what)
    assert 400 <= kind.status < 600


def test_codes_are_given_once() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(codes) == len(set(codes))


def test_the_parts_are_shown_in_their_order() -> None:
    shown = list(ContractBroken("rows break", next="fix", where="row 3\nrow 4").lines())
    assert shown == ["MM101 rows break", "  where     row 3", "            row 4", "  next      fix"]


def test_an_unknown_part_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="hnt"):
        ModelmillError("x", hnt="y")
    assert "next" in PARTS


def test_did_you_mean() -> None:
    assert did_you_mean("distanse", ["distance", "hour"]) == "did you mean `distance`?"
    assert did_you_mean("zzz", ["a", "b"]) == "known: `a`, `b`"
    assert did_you_mean("zzz", []) == ""
