"""What the readers of libraries raise where a model has no packed form."""

from __future__ import annotations


class Unpackable(Exception):
    """The model is answered by the python runtime; the message completes "it is not packed: it has ..."."""
