"""Write the generated pages of the reference; ``--check`` only says whether they are up to date."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import modelmill.settings
from modelmill.cli import app
from modelmill.errors import every_error

FOLDER = Path(__file__).parent / "reference"
_HEAD = "<!-- written by `python -m docs.reference`: edit the source instead -->\n"
_SETTINGS = {"Settings": "", "BuildSettings": "build.", "ServeSettings": "serve."}


def errors_page() -> str:
    """Return the page of all errors."""
    lines = [
        "# Errors",
        "",
        "Every error has a code, one sentence, and the command to run next. HTTP answers carry the same.",
        "",
    ]
    for kind in every_error():
        doc = (kind.__doc__ or "").strip().split("\n")[0]
        lines += [f"## {kind.code}", "", f"{doc} `{kind.__name__}`, HTTP {kind.status}, exit {kind.exit}.", ""]
    return "\n".join(lines)


def cli_page() -> str:
    """Return the page of all commands, as their own help shows them."""
    root = app.app
    lines = [
        "# Commands",
        "",
        "Exit codes: 0 done · 1 finished, but some segments failed or the verdict is no · 2 the caller's mistake ·",
    ]
    lines += ["3 refused by a rule · 4 needs approval · 70 the platform's fault.", ""]
    for name, command in _commands(root, click.Context(root, info_name="modelmill")):
        lines += [f"## {name}", "", "```text", command, "```", ""]
    return "\n".join(lines)


def _commands(group: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, group.get_help(context)
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            if found is not None:
                yield from _commands(found, click.Context(found, parent=context, info_name=name))


def settings_page() -> str:
    """Return the page of all settings, from the docstrings under their fields."""
    lines = [
        "# Settings",
        "",
        f"In `modelmill.toml`, at the project's root. {', '.join(f'`{name}`' for name in modelmill.settings.VARIABLES)}",
    ]
    lines += [
        "win over the file; flags win over both.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    tree = ast.parse(Path(modelmill.settings.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in _SETTINGS:
            lines += [f"| `{_SETTINGS[node.name]}{name}` | {default} | {doc} |" for name, default, doc in _fields(node)]
    return "\n".join([*lines, ""])


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id != "root":
            doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            plain = isinstance(field.value, ast.Constant)
            default = f"`{ast.unparse(field.value)}`" if plain and field.value else ""
            yield field.target.id, default, " ".join(str(doc).split())


PAGES = {"errors.md": errors_page, "cli.md": cli_page, "settings.md": settings_page}


def main() -> int:
    """Write the pages, or compare them."""
    stale = []
    for name, page in PAGES.items():
        place, text = FOLDER / name, _HEAD + page()
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                place.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {', '.join(stale)}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
