"""What a runtime outside the worker's process promises: it opens an entry of a fleet map and answers batches with it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelmill.model.request import Batch
from modelmill.registry.fleet import Entry


class Runtime(Protocol):
    """Answers the rows of one model."""

    async def start(self) -> None:
        """Get ready; called before the release that needs the runtime takes requests."""

    async def answer(self, entry: Entry, batch: Batch) -> NDArray[np.float64]:
        """Return the answers to a batch, of shape (rows,) or (rows, classes).

        Raises `AnswerInvalid` where the model gives none, `NodeNotReady` where the runtime cannot ask it now.
        """

    async def close(self) -> None:
        """Give everything back."""
