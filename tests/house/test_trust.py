"""Who may open what could run code: one audited module, and the process of a model; never the server."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import modelmill

SOURCE = Path(modelmill.__file__).parent
RISKY_MODULES = {"pickle", "joblib", "cloudpickle", "dill", "marshal", "shelve", "yaml", "torch", "skops", "skops.io"}
RISKY_CALLS = {"eval", "exec"}
AUDITED = "artifact.saving"
REASONS = {
    AUDITED: "the one place: it saves fitted objects, and opens what this installation has signed",
    "compute.local": "it writes what its own forks read, and opens nothing",
    "orchestrator.foreign": "a person has said that this one file may be opened, in a process that holds no store and no key",
    "model.schema": "annotations of a schema, where the file that holds them is being imported anyway",
}
"""Every module in which one of these occurs, and what it does there."""
OPENERS = {"unpickle", "decode"}
"""What of the audited module opens a pickle."""


def modules() -> dict[str, ast.Module]:
    """Return the source of the whole package: ``serving.child`` -> its tree."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


TREES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield all that a module imports, also inside of functions, and by `import_module` of a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name_of(node.func) == "import_module" and node.args:
            (first, *_) = node.args
            if isinstance(first, ast.Constant):
                yield str(first.value)


def _name_of(function: ast.expr) -> str:
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def risky(tree: ast.AST) -> set[str]:
    """Return what a module has of what could run code."""
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return (set(imported(tree)) & RISKY_MODULES) | (called & RISKY_CALLS)


def reachable(start: set[str]) -> set[str]:
    """Return the modules of the package that some import, directly or not; packages on the way as well."""
    found: set[str] = set()
    pending = list(start)
    while pending:
        name = pending.pop()
        if name in found or name not in TREES:
            continue
        found.add(name)
        names = [one.removeprefix("modelmill.") for one in imported(TREES[name]) if one.startswith("modelmill.")]
        pending += [".".join(one.split(".")[:length]) for one in names for length in range(1, one.count(".") + 2)]
    return found


SERVER = reachable({name for name in TREES if name.startswith("serving.") and name != "serving.child"})


def test_whatever_could_run_code_has_its_reason() -> None:
    assert {name for name, tree in TREES.items() if risky(tree)} == set(REASONS)


def test_the_server_knows_no_way_to_run_what_it_reads() -> None:
    assert "serving.child" not in SERVER
    assert len(SERVER) > 50
    assert {name for name in SERVER if risky(TREES[name])} <= {AUDITED, "model.schema"}


def test_only_the_process_of_a_model_opens_a_pickle_while_it_is_served() -> None:
    """Of all that a server imports, and of its children, nobody but the child takes what opens one."""
    takers = {
        name
        for name in SERVER | {"serving.child"}
        for one in imported(TREES[name])
        if one in {f"modelmill.{AUDITED}.{opener}" for opener in OPENERS}
    }
    assert takers == {"serving.child"}


def test_what_is_written_for_forks_is_never_read_by_us() -> None:
    used = {
        node.attr
        for node in ast.walk(TREES["compute.local"])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle"
    }
    assert used == {"dumps"}


def test_the_audited_module_opens_in_one_function() -> None:
    places = [
        function.name
        for function in ast.walk(TREES[AUDITED])
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr in {"loads", "load", "Unpickler"}
    ]
    assert places == ["unpickle"]
