"""What verbs answer: values that become JSON and come back, named once, and an exit code that says how it went."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelmill import outcomes
from modelmill.api.verbs import VERBS, Verb

FOLDER = Path(outcomes.__file__).parent


PLAIN = {"StrType": "a", "BoolType": True, "IntType": 1, "FloatType": 1.0, "DateTimeType": "2026-01-01T00:00:00Z"}
EMPTY: dict[str, Any] = {"DictType": {}, "AnyType": {}, "VarTupleType": [], "ListType": []}


def made(kind: Any) -> Any:
    """Return a plain value of a type: what may be nothing is nothing, what may be empty is empty."""
    return msgspec.convert(_plain(msgspec.inspect.type_info(kind)), kind)


def _plain(info: Any) -> Any:
    match info:
        case msgspec.inspect.StructType():
            return {field.encode_name: _plain(field.type) for field in info.fields if field.required}
        case msgspec.inspect.UnionType():
            return (
                None if any(isinstance(one, msgspec.inspect.NoneType) for one in info.types) else _plain(info.types[0])
            )
        case msgspec.inspect.LiteralType():
            return info.values[0]
        case msgspec.inspect.TupleType():
            return [_plain(one) for one in info.item_types]
    return (PLAIN | EMPTY)[type(info).__name__]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_an_answer_comes_back_from_its_json_as_it_was(verb: Verb) -> None:
    answer = made(verb.output)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=verb.output) == answer
    assert answer.exit_code in {0, 1, 3}


def test_every_public_shape_is_named_by_the_room() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("[a-z]*.py")}
    shapes = {node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    assert len(shapes) > 50
    assert shapes <= set(dir(outcomes))


def test_the_command_line_knows_the_shapes_without_the_machines() -> None:
    program = "import sys, modelmill.outcomes; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    own = {name for name in loaded if name.startswith("modelmill.")}
    assert "modelmill.outcomes.parts" in own
    assert not own & {"modelmill.orchestrator", "modelmill.store", "modelmill.registry", "modelmill.build"}
    assert "sqlalchemy" not in loaded
