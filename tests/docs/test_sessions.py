"""The documentation is executed: every shell session and every Python block, in a temporary folder, in order.

Only the words that install from the index are substituted: what they would install is in this environment.
What runs in the folder afterwards is a process that a page left behind: it takes its nodes down itself.
A session's ``...`` stands for any output; every other line of output must begin a line of what the command printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = re.compile(r"^pip install [\w.'\[\]-]+$")
MARK = "=====modelmill-session====="


def blocks_of(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def commands_of(session: str) -> list[tuple[str, list[str]]]:
    """Return each command with the output that is written below it; a shell's ``>`` goes on with the command."""
    found: list[tuple[str, list[str]]] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif re.match(r">( |$)", line) and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        else:
            found[-1][1].append(line)
    return found


def script_of(page: str, folder: Path) -> tuple[str, list[tuple[str, list[str]]]]:
    """Return one shell script that runs a page, and what each command should print."""
    lines, expected = ["set -eo pipefail"], []
    for number, (kind, text) in enumerate(blocks_of(page)):
        if kind == "python":
            (folder / f"block{number}.py").write_text(text, encoding="utf-8")
            commands: list[tuple[str, list[str]]] = [(f"cd {folder} && python {folder}/block{number}.py", [])]
        else:
            commands = commands_of(text)
        for command, output in commands:
            runs = ":" if INSTALLS.match(command) else command
            # The shell itself ends at no failure on the left of an `&&`.
            lines += [f"echo {MARK}", f"{{ {runs}\n}} 2>&1", "[ $? = 0 ] || exit 1"]
            expected.append((command, output))
    return "\n".join(lines), expected


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    script, expected = script_of(page, tmp_path)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    environ["MODELMILL_PORT"] = "0"  # any free one, so that a node of somebody else's does no harm
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    printed = done.stdout.split(f"{MARK}\n")[1:]
    assert done.returncode == 0, f"{expected[len(printed) - 1][0]}\n{printed[-1]}{done.stderr}"
    for (command, lines), output in zip(expected, printed, strict=True):
        for line in lines:
            begin = line.split("...")[0].rstrip()
            assert any(got.rstrip().startswith(begin) for got in output.splitlines()), f"{command}: {line}\n{output}"
    assert not left_in(tmp_path), "a page that takes its node down leaves no process behind"


def left_in(folder: Path) -> list[str]:
    """Return what still runs in a folder, after a while in which it may end."""
    deadline = time.monotonic() + 60
    while (found := list(running_in(folder))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def running_in(folder: Path) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if process.joinpath("cwd").readlink().is_relative_to(folder):
                yield process.joinpath("cmdline").read_text().replace("\0", " ")


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [p for p in PAGES[1:] if p.removeprefix("docs/") not in navigation]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / page).parent.joinpath(target).resolve().exists(), f"{page}: {target}"
