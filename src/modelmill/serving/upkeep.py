"""What a process keeps of its children: what they may use, how they have ended, and who is in quarantine.

A child that ends is started again, which costs a second or more of a processor and leaves everybody waiting. One that ends
again and again would do so for ever: after three short lives it is left alone for a while, which doubles each time. A new
release begins anew, and so does a child that has lived long enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from modelmill.errors import ModelQuarantined
from modelmill.settings import ServeSettings

MEMORY_MB = ServeSettings().child_memory_mb
_SHORT_S = 60.0
"""A life that ends earlier after its start is one of a loop."""
_MOST_SHORT = 3
"""Short lives one after the other, until nobody starts the next."""
_FIRST_S, _LONGEST_S = 5.0, 300.0
"""How long that is: doubled each time."""


class Quarantine:
    """Whether a model's child may be started, by how it has ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without any ends."""
        self._clock = clock
        self._short = 0
        self._back_off_s = 0.0
        self._until = 0.0

    def note_end(self, lived_s: float) -> None:
        """Take note that the child has ended, so long after it was ready; 0 where it never was."""
        if lived_s >= _SHORT_S:
            self._short, self._back_off_s = 0, 0.0
        self._short += 1
        if self._short >= _MOST_SHORT or self._back_off_s:  # after a quarantine, once is enough
            self._back_off_s = min(_LONGEST_S, 2 * self._back_off_s or _FIRST_S)
            self._until = self._clock() + self._back_off_s

    @property
    def left_s(self) -> float:
        """Return for how long the child is not started; 0 where it may be."""
        return max(0.0, self._until - self._clock())

    def check(self) -> None:
        """Raise `ModelQuarantined` where the child is not to be started now."""
        left_s = self.left_s
        if left_s:
            refused = ModelQuarantined(self.text, next="modelmill rollback      (the node's log says what it printed)")
            refused.after_s = left_s
            raise refused

    @property
    def text(self) -> str:
        """Return what is told of a quarantine, empty where there is none."""
        if not self.left_s:
            return ""
        return (
            f"the model's process has ended {self._short} times in a row, and is not started for {self._back_off_s:g} s"
        )


@dataclass
class Upkeep:
    """What one process counts and allows."""

    memory_mb: int = MEMORY_MB
    """What each child may have of its own."""
    ended: int = 0
    """Children that ended although nobody had wanted it."""
    over_memory: int = 0
    """Those of them that had grown to their limit."""
    quarantines: dict[Hashable, Quarantine] = field(default_factory=dict)

    def quarantine_of(self, key: Hashable) -> Quarantine:
        """Return the quarantine of what is always the same process: a release that is opened anew does not begin anew."""
        if key not in self.quarantines and len(self.quarantines) >= _MOST_KNOWN:
            del self.quarantines[next(iter(self.quarantines))]
        return self.quarantines.setdefault(key, Quarantine())

    @property
    def quarantined(self) -> int:
        """Return how many children are in quarantine now."""
        return sum(bool(one.left_s) for one in self.quarantines.values())


_MOST_KNOWN = 10_000
UPKEEP = Upkeep()
"""Of this process. Limits and counts are those of a whole process, whichever release has started a child."""
