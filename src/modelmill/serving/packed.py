"""The runtime of packed models: arrays used where they lie in the mapped pack, without any user code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.packed import Packed, decode
from modelmill.artifact.saved import Saved
from modelmill.artifact.tracing import open_program
from modelmill.errors import AnswerInvalid
from modelmill.model.fitted import as_matrix
from modelmill.model.request import Batch
from modelmill.names import Digest
from modelmill.registry.fleet import Entry
from modelmill.store.blobs import Blobs
from modelmill.store.packs import PackReader


class PackedRuntime:
    """Opens packed models: mapped arrays, with the programs of what the user's functions do around them."""

    def __init__(self, blobs: Blobs, before: PackedRuntime | None = None) -> None:
        """Take where the packs are, and the runtime of the release before: what stayed the same stays open.

        An entry is opened when it is first asked. What the release before had open, and this one is never asked, is let
        go by the release after.
        """
        self._blobs = blobs
        self._packs: dict[Digest, PackReader] = {}
        self._opened: dict[Digest, Packed] = {}
        self._before: dict[Digest, Packed] = before._opened if before else {}  # noqa: SLF001 - one of us

    @property
    def opened(self) -> int:
        """Return how many models are open."""
        return len(self._opened)

    def open(self, entry: Entry) -> Packed:
        """Return a model, opened when it is first asked; bytes that are not what was recorded raise `BlobBroken`."""
        opened = self._opened.get(entry.artifact)
        if opened is None:
            kept = self._before.pop(entry.artifact) if entry.artifact in self._before else None
            opened = self._opened[entry.artifact] = kept or self._read(entry)
        return opened

    def _read(self, entry: Entry) -> Packed:
        if entry.pack not in self._packs:
            self._packs[entry.pack] = PackReader(self._blobs.open(entry.pack))
        return decode(self._packs[entry.pack].entry(entry.offset, entry.length, entry.artifact))


def answer_of(model: Saved, batch: Batch) -> NDArray[np.float64]:
    """Return the answers of a model of this process to a batch; raises `AnswerInvalid` where it gives none."""
    before = model.programs.before
    try:
        answers = model.answer(as_matrix(open_program(before).run(batch.rows)) if before else batch.features())
    except (ArithmeticError, TypeError, ValueError) as error:
        # What the user's function would raise at such a row, its program raises too.
        raise AnswerInvalid(f"the model gave no answer: {type(error).__name__}: {error}"[:300]) from error
    if not np.isfinite(answers).all():
        raise AnswerInvalid("the model answered NaN or infinity")
    return answers
