"""What answers for one segment, opened, and what it answered to one row."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from modelmill.artifact.saved import Saved
from modelmill.artifact.tracing import Program
from modelmill.model.decoding import Values
from modelmill.model.fitted import Floats
from modelmill.names import Segment
from modelmill.serving.meters import Meter


class Found(msgspec.Struct, gc=False):
    """The body of an answer, and what is logged of it."""

    body: bytes
    choice: Choice
    inputs: bytes | tuple[Values]
    """As `Batch.logged` gives them."""
    numbers: list[float]
    x: Floats
    """The features, (1, features), as the model had them."""


class Choice(NamedTuple):
    """What answers for one segment, opened, and what is told around its numbers."""

    segment: Segment
    model: Saved
    before: Program | None
    named: tuple[bytes, ...]
    """An answer with named fields, split where its numbers stand."""
    v2: tuple[bytes, bytes, bytes]
    """A reply in V2, split in the same way."""
    meter: Meter
    answerer: msgspec.Raw
    """What answers, as the prediction log has it."""
    share: float
    """Which share of the requests is logged."""
