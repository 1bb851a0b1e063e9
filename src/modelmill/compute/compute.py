"""What any place of work promises: tasks in, results out in the order of completion, at least once.

A task is a list of items. A worker that dies, hangs or grows too large costs the item it was at: the task comes back
as `Lost` with that item's position, and the caller decides what to do with the others. Nothing is recorded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Task(NamedTuple):
    """Some items of work; `payload` must survive pickling."""

    id: int
    payload: Any
    patience: float = 1.0
    """How many times the usual time each of its items may take."""


class Done(NamedTuple):
    """What the worker's function returned for a task."""

    task: Task
    result: Any
    cpu_s: float


class Lost(NamedTuple):
    """A task whose worker was lost, and why: ``exit``, ``signal``, ``time``, ``memory`` or ``output``."""

    task: Task
    item: int
    """The position of the item that was being worked on; -1 before the first one, or after the last."""
    reason: str
    detail: str


OUTPUT_MB = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may take before its worker is killed."""

    seconds: float = 60.0
    memory_mb: int = 4096
    output_mb: int = OUTPUT_MB


class Compute(Protocol):
    """A place where tasks run."""

    def capacity(self) -> int:
        """Return how many more tasks can be taken now so that no worker waits."""

    def submit(self, task: Task) -> None:
        """Take a task; it begins when a worker is free."""

    def wait(self) -> Done | Lost:
        """Return the next task that ended; raises `ComputeLost` when none can end any more."""

    def close(self) -> None:
        """End all workers."""
