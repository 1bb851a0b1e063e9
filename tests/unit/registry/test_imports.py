"""A serving node imports these without SQLAlchemy, Alembic or a training library."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = [
    "modelmill.store.blobs",
    "modelmill.store.packs",
    "modelmill.store.signing",
    "modelmill.store.locks",
    "modelmill.store.files",
    "modelmill.registry.fleet",
    "modelmill.registry.facts",
    "modelmill.registry.change",
    "modelmill.release.pointers",
]
HEAVY = {"sqlalchemy", "alembic", "pandas", "polars", "pyarrow", "sklearn", "pandera", "ray", "click", "rich"}


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_a_store_that_is_up_to_date_needs_no_alembic(tmp_path: object) -> None:
    code = (
        "import sys, pathlib; from modelmill.settings import Settings; from modelmill.store.opening import open_store; "
        "open_store(Settings(root=pathlib.Path(sys.argv[1]))).close(); print('alembic' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told == ["True\n", "False\n"]
