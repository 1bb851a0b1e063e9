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
from modelmill.registry.audit import AUTOMATIC, ROWS, Rule, read_rules

FOLDER = Path(__file__).parent / "reference"
_HEAD = "<!-- written by `python -m docs.reference`: edit the source instead -->\n"
_SETTINGS = {
    "Settings": "",
    "BuildSettings": "build.",
    "ServeSettings": "serve.",
    "PredictionSettings": "predictions.",
    "EnvironmentSettings": "environments.NAME.",
}


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


_AUDIT = """# DevOps and MLOps: the 24 cells

Software needs to be reproducible, versioned, tested, automated, deployed, monitored, documented and structured.
A model needs that three times: for its code, for its data, and for itself. `modelmill audit` fills these 24 cells
from what is recorded, and from nothing else: *automatic*, *by hand*, *stale* (automatic once, and too long ago) or
*empty*. The level of a model is the least of what its cells allow:

1. **It works for me.** A version exists, and its file can be imported elsewhere.
2. **It works for others.** Another person, or another machine, has reproduced it, and got the same.
3. **It works again and again.** Data are tested, answers compared and watched; an experiment, a retraining and a
   promotion are recorded, told apart by digests.
4. **It works by itself.** Everything below is automatic, and has said no at least once.

A cell that nothing can fill yet says so: *not available yet*. It is never guessed.
"""


def audit_page() -> str:
    """Return the page of the audit's rules."""
    rules = read_rules()
    lines = [_AUDIT, f"These are the rules in version {rules.version}.", ""]
    for row in ROWS:
        lines += [
            f"## {row.capitalize()}",
            "",
            "| | asks | by hand | automatic | from level |",
            "|---|---|---|---|---|",
        ]
        lines += [_rule_line(rule) for rule in rules.cells if rule.row == row]
        lines.append("")
    return "\n".join(lines)


def _rule_line(rule: Rule) -> str:
    age = f", in the last {rule.days} days" if rule.days and rule.automatic else ""
    automatic = ", ".join(rule.automatic) + age if rule.automatic else "not available yet"
    hand = ", ".join(rule.hand) or ("" if rule.automatic else "not available yet")
    level = f"{rule.level}, automatic" if rule.needs == AUTOMATIC else str(rule.level)
    return f"| **{rule.column}** | {rule.asks} | {hand} | {automatic} | {level} |"


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


PAGES = {"errors.md": errors_page, "cli.md": cli_page, "settings.md": settings_page, "the-24-cells.md": audit_page}


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
