"""Completion in the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from modelmill.cli.local import CompletionOutcome, CompletionRequest
from modelmill.errors import UsageError, did_you_mean
from modelmill.outcomes import Progress
from modelmill.settings import Settings

SHELLS = ("bash", "zsh", "fish")


def complete(_settings: Settings, request: CompletionRequest, _progress: Progress) -> CompletionOutcome:
    """Return the script that makes `request.shell` complete."""
    shell = request.shell or ""
    kind = get_completion_class(shell) if shell in SHELLS else None
    if kind is None:
        raise UsageError(
            f"there is no completion for `{shell}`" if shell else "say for which shell",
            expected=", ".join(SHELLS),
            likely=did_you_mean(shell, SHELLS) if shell else "",
            next='eval "$(modelmill completion bash)"      (in ~/.bashrc)',
        )
    script = kind(click.Group("modelmill"), {}, "modelmill", "_MODELMILL_COMPLETE").source()
    return CompletionOutcome(shell=shell, script=script.strip())
