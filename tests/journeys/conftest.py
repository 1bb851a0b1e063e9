"""Commands as a person types them: real processes, in a project's folder."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.journeys.forking import Template
from tests.postgresql import postgresql  # noqa: F401 - a fixture

PATIENCE_S = 300
"""A command that hangs is ended; one that is slow beside other tests is not."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the journeys of a file in one process and in their order: they share a project, and what was done to it.

    Each is marked as it is collected: xdist reads the marks before any later hook of a conftest's.
    """
    item.add_marker(pytest.mark.xdist_group(item.path.stem))


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the answer of a command that was asked for JSON."""
        return json.loads(self.out)

    @property
    def next(self) -> str:
        """Return the command that the answer ends in."""
        return self.out.rstrip().splitlines()[-1].removeprefix("next").strip()


Command = Callable[..., Done]


def environment() -> dict[str, str]:
    """Return an environment in which no setting of the caller's reaches the command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MODELMILL_")}


@pytest.fixture(scope="session")
def templates() -> Iterator[Iterator[Template]]:
    """Return two templates in turn: commands that follow one another differ in the order of their sets, as everywhere."""
    both = [Template(environment()) for _ in range(2)]
    yield itertools.cycle(both)
    for template in both:
        template.close()


@pytest.fixture(scope="session")
def modelmill(templates: Iterator[Template]) -> Command:
    """Return a function that runs one command line to its end; what is set for the interpreter itself needs a new one."""

    def run(*words: str, cwd: Path, **variables: str) -> Done:
        environ = environment() | variables
        if not any(name.startswith("PYTHON") for name in variables):
            return Done(*next(templates).run(words, cwd, environ, PATIENCE_S))
        command = [sys.executable, "-m", "modelmill", *words]
        done = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def fleet(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project as `init` writes it, trained once; whatever node it has in the end is stopped."""
    folder = tmp_path_factory.mktemp("journey") / "delays"
    assert modelmill("init", str(folder), cwd=folder.parent).code == 0
    trained = modelmill("train", cwd=folder)
    assert trained.code == 0, trained.err
    yield folder
    modelmill("down", cwd=folder)
