"""`infra`: what of a project runs on this machine, as the operating system shows it.

A process is the project's when it is one of its nodes or descends from one, when its command names the project, or when
it holds a file of the store. No database is opened: what runs is to be seen also when that is down.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from modelmill.outcomes import InfraOutcome, ProcessFacts, Progress, no_progress
from modelmill.requests import InfraRequest
from modelmill.serving.control import NodeInfo, describe_node, find_node
from modelmill.serving.memory import megabytes, taken_by
from modelmill.serving.processes import (
    Held,
    Process,
    descendants,
    held_by,
    list_processes,
    listening,
)
from modelmill.settings import Settings

_MODULES = {
    "modelmill.serving.node": "node",
    "modelmill.serving.child": "model",
    "modelmill.orchestrator.rolling": "deployer",
    "modelmill.orchestrator.settling": "settler",
    "modelmill.compute.template": "template",
    "modelmill": "command",
}
_FORKS = {"node": "worker", "template": "builder"}
"""A fork has the command line of its parent, and another role."""
_NOTHING = Held(frozenset(), frozenset(), frozenset())


def infra(settings: Settings, _: InfraRequest, __: Progress = no_progress) -> InfraOutcome:
    """Say which processes of this machine are the project's, and what each has: ports, files, memory."""
    machine = _Machine(settings)
    processes = tuple(machine.facts(one) for one in machine.ours())
    hidden = sum(one.hidden for one in processes)
    return InfraOutcome(
        store=str(settings.store_folder),
        host=socket.gethostname(),
        processes=processes,
        notices=(f"what {hidden} of them have open is another user's, and cannot be seen",) if hidden else (),
        next="modelmill status" if processes else "modelmill up",
    )


class _Machine:
    """All processes of this machine, and which of them are a project's."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store = settings, os.path.realpath(settings.store_folder)
        me = os.getpid()
        self.all = {one.pid: one for one in list_processes() if one.pid != me}
        self.listening = listening()
        found = (find_node(settings.store_folder, place) for place in settings.places)
        self.nodes: dict[int, NodeInfo] = {node.pid: node for node in found if node is not None}
        self.told: dict[int, Mapping[str, Any]] = {pid: describe_node(node) or {} for pid, node in self.nodes.items()}
        self._held: dict[int, Held | None] = {}

    def ours(self) -> Iterator[Process]:
        """Yield the project's processes, each before those that it started."""
        started = {pid for pid, one in self.all.items() if pid in self.nodes or self._names_us(one)}
        ours = descendants(self.all, started) | {pid for pid in self.all if self._holds(pid)}
        tops = sorted(pid for pid in ours if self.all[pid].parent not in ours)
        for pid in tops:
            yield from self._below(pid, ours)

    def _below(self, pid: int, ours: set[int]) -> Iterator[Process]:
        yield self.all[pid]
        for child in sorted(one for one in ours if self.all[one].parent == pid):
            yield from self._below(child, ours)

    def _names_us(self, one: Process) -> bool:
        """Return whether a process of ours was started for this project, be it that it holds nothing of it now."""
        if _module(one.words) not in _MODULES:
            return False
        return str(self.settings.root) in one.words or any(f'"store":"{self.store}"' in word for word in one.words)

    def _holds(self, pid: int) -> bool:
        held = self.held(pid)
        return held is not None and bool(self._of_store(held.files) or self._of_store(held.maps))

    def held(self, pid: int) -> Held | None:
        """Return what a process has open; looked for once."""
        if pid not in self._held:
            self._held[pid] = held_by(pid)
        return self._held[pid]

    def _of_store(self, paths: frozenset[str]) -> list[str]:
        return sorted(path for path in paths if path.startswith(self.store + os.sep))

    def facts(self, one: Process) -> ProcessFacts:
        """Return what is shown of one of the project's processes."""
        held = self.held(one.pid)
        shown, memory = held or _NOTHING, taken_by(one.pid)
        node = self._node_of(one)
        workers = {worker["pid"]: worker for worker in self.told.get(node or 0, {}).get("workers", [])}
        models = self.told.get(one.pid, {}).get("models", {})
        return ProcessFacts(
            pid=one.pid,
            parent=one.parent,
            role=self.role(one),
            environment=self._environment(one, node),
            node=node,
            user=_user(one.user),
            since=one.since,
            command=" ".join(one.words)[:200],
            listens=tuple(sorted({self.listening[inode] for inode in shown.sockets & self.listening.keys()})),
            files=tuple(self._of_store(shown.files)),
            maps=tuple(self._of_store(shown.maps)),
            revision=workers.get(one.pid, {}).get("revision"),
            releases={name: model["release"] for name, model in models.items()},
            resident_mb=megabytes(memory.resident) if memory else None,
            proportional_mb=megabytes(memory.share) if memory else None,
            hidden=held is None,
        )

    def role(self, one: Process) -> str:
        """Return what a process is there for: its command says so, or its parent's."""
        role = _MODULES.get(_module(one.words), "other")
        parent = self.all.get(one.parent)
        return _FORKS.get(role, role) if parent is not None and parent.words == one.words else role

    def _node_of(self, one: Process) -> int | None:
        while one.pid not in self.nodes:
            parent = self.all.get(one.parent)
            if parent is None:
                return None
            one = parent
        return one.pid

    def _environment(self, one: Process, node: int | None) -> str:
        if node is not None:
            return self.nodes[node].environment
        return one.words[-1] if self.role(one) == "deployer" else ""


def _module(words: Sequence[str]) -> str:
    """Return which module of ours a command runs; empty where it is none."""
    for word, following in pairwise(words):
        if word == "-m":
            return following
    return "modelmill" if any(Path(word).name == "modelmill" for word in words[:2]) else ""


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)
