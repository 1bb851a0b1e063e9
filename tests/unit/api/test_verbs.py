"""The table of verbs: every function exists, and takes and returns what the table says."""

from inspect import get_annotations
from pathlib import Path
from typing import get_type_hints

import pytest

from modelmill.api.mill import Mill, MillData, MillLabels, MillReleases
from modelmill.api.verbs import VERBS, Verb, call, get_verb, make_request
from modelmill.errors import NotFound, UsageError
from modelmill.outcomes import DoctorOutcome, Outcome
from modelmill.requests import DoctorRequest, Request
from modelmill.settings import Settings

EVERY_VERB = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)


@EVERY_VERB
def test_a_verbs_function_has_the_tables_types(verb: Verb) -> None:
    written = [str(text).rpartition(".")[2] for text in get_annotations(verb.function()).values()]
    assert written == ["Settings", verb.input.__name__, "Progress", verb.output.__name__]


@EVERY_VERB
def test_a_verb_is_a_method_for_python_programs(verb: Verb) -> None:
    owner, _, name = verb.name.rpartition(" ")
    groups = {"data": MillData, "labels": MillLabels}
    methods = groups.get(owner) or (MillReleases if hasattr(MillReleases, name) else Mill)
    method = getattr(methods, name if name != "import" else "import_")
    assert get_type_hints(method)["return"] is verb.output


@EVERY_VERB
def test_a_verb_says_what_it_does_in_one_sentence(verb: Verb) -> None:
    assert verb.summary.endswith(".")
    assert len(verb.summary) <= 80
    assert issubclass(verb.input, Request)
    assert issubclass(verb.output, Outcome)


@EVERY_VERB
def test_a_request_of_nothing_is_possible(verb: Verb) -> None:
    assert make_request(verb, {}) == verb.input()


def test_a_misspelt_verb_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFound) as caught:
        get_verb("trian")
    assert caught.value.parts["likely"] == "did you mean `train`?"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fil": "x"}, "unknown field `fil`"),
        ({"file": 3}, "option `file`: Expected `str | null`, got `int`"),
        ({"workers": 0}, "option `workers`: Expected `int` >= 1"),
    ],
)
def test_an_impossible_option_is_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match="`train` cannot be asked that") as caught:
        make_request(get_verb("train"), options)
    assert said in caught.value.what


def test_a_verb_is_called_with_its_request(tmp_path: Path) -> None:
    outcome = call(get_verb("doctor"), Settings(root=tmp_path), DoctorRequest())
    assert isinstance(outcome, DoctorOutcome)
