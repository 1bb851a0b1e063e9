"""What any runtime promises: it opens an entry of a fleet map and answers rows with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelmill.registry.fleet import Entry

Row = Mapping[str, Any]


class Runtime(Protocol):
    """Answers the rows of one model."""

    async def start(self) -> None:
        """Get ready; called before the release that needs the runtime takes requests."""

    async def answer(self, entry: Entry, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return the answers to rows that the parser accepted, of shape (rows,) or (rows, classes).

        Raises `AnswerInvalid` where the model gives none, `NodeNotReady` where the runtime cannot ask it now.
        """

    async def close(self) -> None:
        """Give everything back."""
