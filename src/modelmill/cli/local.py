"""The commands that ask nothing of a project: they start one, and teach the shell to complete."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill.api.verbs import Verb
from modelmill.outcomes import Outcome
from modelmill.requests import Request


class InitRequest(Request, frozen=True, kw_only=True):
    """Write a project that runs."""

    folder: Annotated[
        str | None,
        Meta(description="Where; this folder if left out.", extra={"argument": True, "metavar": "[DIR]", "path": True}),
    ] = None


class InitOutcome(Outcome, frozen=True, kw_only=True):
    """What was written."""

    folder: str
    created: tuple[str, ...]
    kept: tuple[str, ...] = ()
    """What was there already, and was not touched."""
    notices: tuple[str, ...] = ()
    next: str = ""


class CompletionRequest(Request, frozen=True, kw_only=True):
    """Print a script."""

    shell: Annotated[
        str | None, Meta(description="bash, zsh or fish.", extra={"argument": True, "metavar": "bash|zsh|fish"})
    ] = None


class CompletionOutcome(Outcome, frozen=True, kw_only=True):
    """A script that teaches a shell to complete."""

    shell: str
    script: str


LOCAL_VERBS = (
    Verb(
        "init",
        "Write a project that runs: a model file, its tests, a sample of real flights.",
        InitRequest,
        InitOutcome,
        "modelmill.cli.starting:init",
        "author",
        project=False,
        examples=("modelmill init delays && cd delays && modelmill up",),
    ),
    Verb(
        "completion",
        "Print what makes a shell complete modelmill's commands.",
        CompletionRequest,
        CompletionOutcome,
        "modelmill.cli.completing:complete",
        "viewer",
        project=False,
        examples=('eval "$(modelmill completion bash)"',),
    ),
)
