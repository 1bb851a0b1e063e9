"""What verbs are asked: values that refuse what they do not know, named once, and light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from modelmill import requests
from modelmill.api.verbs import VERBS, Verb

FOLDER = Path(requests.__file__).parent


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_request_refuses_what_it_does_not_know(verb: Verb) -> None:
    assert msgspec.json.decode(b"{}", type=verb.input) == verb.input()
    with pytest.raises(msgspec.ValidationError, match="unknown field `surprise`"):
        msgspec.json.decode(b'{"surprise": 1}', type=verb.input)


def test_every_verb_is_asked_by_a_request_of_its_own_and_the_room_names_them_all() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("[a-z]*.py")]
    written = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    assert written == set(requests.__all__)
    assert {verb.input.__name__ for verb in VERBS} == written - {"Request"}


def test_what_is_asked_is_known_without_the_machines() -> None:
    program = "import sys, modelmill.requests; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "polars", "sqlalchemy", "modelmill.orchestrator"} & set(loaded)
