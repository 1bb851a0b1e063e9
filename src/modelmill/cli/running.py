"""Calling a verb for somebody at a terminal: settings, progress, the answer, and unexpected errors in our shape."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from modelmill.api.verbs import Verb, call, make_request
from modelmill.cli.output import print_outcome
from modelmill.cli.progress import Show, choose_progress
from modelmill.errors import ApprovalNeeded, ModelmillError, PlatformError, ProjectNotFound
from modelmill.outcomes import Outcome, PlanOutcome
from modelmill.settings import Settings, find_project, load_settings


@dataclass(frozen=True, slots=True)
class Flags:
    """The options that every command has."""

    as_json: bool = False
    trace: bool = False
    project: str | None = None
    store: str | None = None


def run_verb(verb: Verb, flags: Flags, options: Mapping[str, Any]) -> int:
    """Call a verb, print its answer and return the exit code."""
    request = make_request(verb, options)
    settings = read_settings(flags, needed=verb.project)
    with choose_progress(silent=flags.as_json) as show:
        telling = Telling(show, as_json=flags.as_json)
        try:
            outcome = call(verb, settings, request, telling)
        except ApprovalNeeded:
            if telling.plan is None or not _says_yes(telling, show):
                raise
            approved = make_request(verb, {**options, "yes": True, "plan": telling.plan.id})
            outcome = call(verb, settings, approved, telling)
        except ModelmillError:
            raise
        except Exception as error:
            raise unexpected(error) from error
    if not telling.told:
        print_outcome(outcome, as_json=flags.as_json)
    return outcome.exit_code


def _says_yes(telling: Telling, show: Show) -> bool:
    """Ask a person once, where there is one."""
    if telling.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    show.close()
    return click.confirm("Apply?", default=False)


class Telling:
    """What a verb tells while it works: progress is shown, and the answer of a verb that goes on is printed at once."""

    def __init__(self, show: Show, *, as_json: bool) -> None:
        """Pass everything on to `show` but the answer itself."""
        self._show, self.as_json = show, as_json
        self.told = False
        self.plan: PlanOutcome | None = None
        """What is about to be done, where somebody has to say yes to it."""

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take one thing that a verb tells."""
        if kind == "plan":
            self.plan = facts["outcome"]
            if not self.as_json:
                self._show.close()
                print_outcome(facts["outcome"], as_json=False)
            return
        if kind != "up":
            self._show(kind, facts)
            return
        outcome: Outcome = facts["outcome"]
        self._show.close()
        print_outcome(outcome, as_json=self.as_json)
        self.told = True


def read_settings(flags: Flags, *, needed: bool) -> Settings:
    """Return the settings of the project that a command is called in; without one, those of the folder itself."""
    start = Path(flags.project or ".").resolve()
    try:
        root = find_project(start)
    except ProjectNotFound:
        if needed:
            raise
        root = start
    store = None if flags.store is None else str(Path(flags.store).resolve())
    return load_settings(root, store=store)


def unexpected(error: Exception) -> PlatformError:
    """Return an error that nobody foresaw, in the shape of those that were."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}()" if frames else ""
    return PlatformError(
        f"modelmill itself failed: {type(error).__name__}: {error}",
        where=place,
        hint="this is a fault of modelmill, not yours; please report it with the output of --trace",
        next="modelmill doctor, or the same command with --trace",
    )
