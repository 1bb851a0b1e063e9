"""The `modelmill` command itself: its group of commands, and the one place where errors become text and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from modelmill import __version__
from modelmill.api.verbs import VERBS
from modelmill.cli.commands import command_of
from modelmill.cli.local import LOCAL_VERBS
from modelmill.cli.output import print_error, print_trace, write
from modelmill.errors import ModelmillError, UsageError, did_you_mean

PROGRAM = "modelmill"
INTERRUPTED = 130
"""What a shell calls a command that ended by Ctrl-C."""

_VERBS = {verb.name: verb for verb in (LOCAL_VERBS[0], *VERBS, *LOCAL_VERBS[1:])}


class Commands(click.Group):
    """A group whose commands are made from the table of verbs when they are asked for; ``data import`` is a group's."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table."""
        prefix = self._prefix()
        names = [name.removeprefix(prefix) for name in _VERBS if name.startswith(prefix)]
        return list(dict.fromkeys(name.split(" ")[0] for name in names))

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, None when there is none by that name."""
        full = self._prefix() + cmd_name
        if full in _VERBS:
            return command_of(_VERBS[full])
        if any(name.startswith(f"{full} ") for name in _VERBS):
            return Commands(full, short_help=_SUMMARIES[full], help=_SUMMARIES[full])
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with, or say which one was probably meant."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise UsageError(
                f"there is no command `{self._prefix()}{name}`",
                likely=did_you_mean(name, self.list_commands(ctx)),
                next=f"{PROGRAM} {self._prefix()}--help",
            )
        return super().resolve_command(ctx, args)

    def _prefix(self) -> str:
        return "" if self.name in (None, PROGRAM) else f"{self.name} "


_SUMMARIES = {
    "data": "Import rows, list and show snapshots.",
    "labels": "Bring back what was true, and see how good answers were.",
}

app = Commands(
    PROGRAM,
    help="One file, thousands of models: built, tested, registered and answering.",
    epilog="Exit codes: 0 done, 1 finished but some segments failed, 2 your mistake, 3 refused, 4 needs approval, "
    "70 modelmill's fault.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app = click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app.main(args=given, prog_name=PROGRAM, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        write(sys.stderr, "interrupted")
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        write(sys.stderr, error.format_message())
        return UsageError.exit
    except click.ClickException as error:
        return _report(_usage_error(error), given)
    except ModelmillError as error:
        return _report(error, given)
    return code if isinstance(code, int) else 0


def _report(error: ModelmillError, given: Sequence[str]) -> int:
    if "--trace" in given:
        print_trace(error)
    print_error(error, as_json="--json" in given)
    return error.exit


def _usage_error(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    what = error.format_message().rstrip(".")
    return UsageError(what[:1].lower() + what[1:], next=f"{path} --help")
