"""Writing to a terminal, a file or a pipe: text without control characters, JSON, errors."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TextIO

import msgspec

from modelmill.cli.rendering import render
from modelmill.errors import ModelmillError
from modelmill.outcomes import Outcome

# Names and texts come from data that others wrote: none of it may steer a terminal.
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """Print what a verb answered on standard output."""
    write(sys.stdout, to_json(outcome) if as_json else "\n".join(render(outcome)).translate(_CONTROL))


def print_error(error: ModelmillError, *, as_json: bool) -> None:
    """Print an error: as lines on standard error, as JSON on standard output."""
    if as_json:
        write(sys.stdout, to_json(error.as_dict()))
        return
    write(sys.stderr, "\n".join(error.lines()).translate(_CONTROL))


def print_trace(error: ModelmillError) -> None:
    """Print the whole traceback on standard error."""
    write(sys.stderr, "".join(traceback.format_exception(error)).rstrip())


def to_json(value: object) -> str:
    """Return a value as indented JSON; what is not a number there, such as NaN, is null."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()


def write(stream: TextIO, text: str) -> None:
    """Write lines at once; a reader that has gone away, such as `head`, ends nothing."""
    try:
        stream.write(f"{text}\n" if text else "")
        stream.flush()
    except BrokenPipeError:
        # Python flushes again when it exits, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except UnicodeEncodeError:
        stream.write(text.encode("ascii", "backslashreplace").decode() + "\n")
        stream.flush()
