"""The command line: the verbs of `api` as commands, their answers as short aligned text, their errors in one shape.

Owns no rule of its own but how things are typed and shown. May import every room but `testing`; imports the machines
only when a command is really called.
"""

from modelmill.cli.app import main

__all__ = ["main"]
