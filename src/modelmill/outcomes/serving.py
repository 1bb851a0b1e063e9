"""What a node is and does, what it answers, and whether that is what training answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from modelmill.outcomes.building import TrainOutcome
from modelmill.outcomes.parts import Outcome
from modelmill.outcomes.releasing import CanaryFacts, PlanOutcome, ReleaseFacts, ShadowFacts


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One serving node."""

    url: str
    """``http://127.0.0.1:8700``"""
    grpc: str = ""
    """``127.0.0.1:8701``, where it answers over gRPC; empty where it does not."""
    pid: int
    port: int
    environment: str
    started_at: datetime | None = None
    workers: int = 1
    declared_workers: int = 1
    requests: int = 0
    errors: int = 0
    requests_per_s: float = 0.0
    """Of about the last minute, as the two below."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    memory_mb: float | None = None
    """Of all workers; what they share is counted once."""
    opened: int = 0
    """Models that were asked, and are open in a worker."""
    evictions: int = 0
    """Graphs that were closed because others needed the memory."""
    refused: Mapping[str, int] = {}
    """Requests that nobody had time for since it began, by reason: ``busy``, ``deadline``, ``late``, ``batch``, ``canary``."""
    children_ended: int = 0
    """Processes of models that have ended since it began, although nobody had wanted it."""
    children_over_memory: int = 0
    """Those of them that had grown to their limit."""
    quarantined: int = 0
    """Processes of models that are not started now, after they have ended again and again."""
    log_file: str = ""
    """Where it writes what it, and user code in it, prints."""
    logged: int = 0
    """Records of its prediction log."""
    log_dropped: int = 0
    """Records that it could not keep up with, or had no room for, or that a killed worker took with it."""
    healthy: bool = True
    broken: Mapping[str, str] = {}
    """What is wrong with models: a release that cannot be opened, damage found when it was asked."""
    models: tuple[str, ...] = ()
    releases: Mapping[str, int] = {}
    """What runs, of each model."""
    declared: Mapping[str, int] = {}
    """What should run."""
    declared_at: datetime | None = None
    """Since when that is declared."""
    behind_s: float | None = None
    """How long a worker has not taken what is declared; None where all have."""


class UpOutcome(Outcome, frozen=True, kw_only=True):
    """What `up` did: the build, the release and the node that answers."""

    train: TrainOutcome
    plan: PlanOutcome
    """What was released, as it was planned."""
    release: ReleaseFacts
    node: NodeFacts
    url: str
    """``http://127.0.0.1:8700/air-time``"""
    curl: str
    """A request that can be pasted into a terminal."""
    detached: bool = False
    seconds: float = 0.0
    """From the command to the first answer."""
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when a segment failed."""
        return self.train.exit_code


class ServeOutcome(Outcome, frozen=True, kw_only=True):
    """What `serve` did: the node that answers."""

    node: NodeFacts
    revision: int
    """What all of its workers have applied."""
    restarted: int = 0
    """Workers that were replaced."""
    token_file: str = ""
    """Where the token is kept that requests must carry; empty where they need none."""
    detached: bool = False
    seconds: float = 0.0
    next: str = ""


class DownOutcome(Outcome, frozen=True, kw_only=True):
    """What `down` did."""

    stopped: bool
    """False when no node ran."""
    pid: int | None = None
    seconds: float = 0.0
    next: str = "modelmill up"


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where one model stands."""

    model: str
    version: int
    segments: int
    own: int = 0
    pooled: int = 0
    failed: int = 0
    refused: int = 0
    """Versions that the gate has refused in the last run, those of shared models among them."""
    parents: int = 0
    """Models of levels that answer."""
    refused_parents: int = 0
    """Models of levels that the gate has refused in the last run."""
    run: int | None = None
    run_state: str = ""
    finished_at: datetime | None = None
    snapshot: str = ""
    metric: str = ""
    score: float | None = None
    """Median over the segments."""
    releases: Mapping[str, int] = {}
    """environment -> number of the current release."""


class StatusOutcome(Outcome, frozen=True, kw_only=True):
    """What runs, what is released and what was built last."""

    project: str
    store: str
    models: tuple[ModelStatus, ...] = ()
    node: NodeFacts | None = None
    """The node of dev, else the first that runs."""
    nodes: tuple[NodeFacts, ...] = ()
    """Those of all environments."""
    canaries: tuple[CanaryFacts, ...] = ()
    shadows: tuple[ShadowFacts, ...] = ()
    holds: Mapping[str, str] = {}
    """``model environment`` -> why nothing is released there."""
    holder: str = ""
    """Who is writing to the store now."""
    notices: tuple[str, ...] = ()
    next: str = ""


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the project, as the operating system shows it."""

    pid: int
    parent: int
    role: str
    """``node``, ``worker``, ``model``, ``deployer``, ``settler``, ``template``, ``builder``, ``command`` or ``other``"""
    environment: str = ""
    node: int | None = None
    """The parent of the node that it belongs to."""
    user: str
    since: datetime
    command: str
    listens: tuple[str, ...] = ()
    """``127.0.0.1:8700``: the sockets on which it takes connections."""
    files: tuple[str, ...] = ()
    """What it has open of the store."""
    maps: tuple[str, ...] = ()
    """What is mapped of the store: the packs that it answers from."""
    revision: int | None = None
    """Of a worker: which state of its environment it serves."""
    releases: Mapping[str, int] = {}
    """Of a node: what it serves of each model."""
    resident_mb: float | None = None
    proportional_mb: float | None = None
    """Its share, where several have the same memory."""
    hidden: bool = False
    """Whether it is another user's, so that what it has open cannot be seen."""


class InfraOutcome(Outcome, frozen=True, kw_only=True):
    """What of a project runs on this machine."""

    store: str
    host: str
    processes: tuple[ProcessFacts, ...] = ()
    """Each below its parent."""
    notices: tuple[str, ...] = ()
    next: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One row's answer."""

    model: str
    segment: str
    value: float | str | bool | None
    """The predicted number, or the most probable label."""
    answered_by: str
    """``own``, ``carrier=UA`` for the model of a level, ``pooled``, or ``safe`` for the safe answer, which has no version."""
    version: int | None = None
    """None for a model that was trained for this answer only and not kept."""
    why: str = ""
    probabilities: Mapping[str, float] = {}


class TableFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A table that was answered as a whole."""

    rows: int
    own: int
    """Rows that their segment's own model answered."""
    pooled: int
    parents: int = 0
    """Rows that the model of a level answered."""
    safe: int = 0
    """Rows that got the declared safe answer, since no model had one."""
    out: str = ""
    """The file that has the answers; empty where none was named."""
    seconds: float = 0.0


class PredictOutcome(Outcome, frozen=True, kw_only=True):
    """The answers, in the order of the rows."""

    target: str
    answers: tuple[Answer, ...]
    source: str
    """Who answered: ``node http://127.0.0.1:8700``, ``version 3``, ``unsaved``"""
    unit: str = ""
    table: TableFacts | None = None
    """Of a whole table, whose answers are in a file: the first few only are among `answers`."""
    next: str = ""


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """A logged answer that the training path does not give."""

    request_id: str
    row: int
    segment: str
    version: int
    logged: float | str
    replayed: float | str
    difference: float
    """Absolute; of classes, of their probabilities."""


class ParityOutcome(Outcome, frozen=True, kw_only=True):
    """Whether what was served is what training computes."""

    model: str
    rows: int
    identical: int
    """Bit for bit."""
    equal: int
    """Within the tolerance, the identical ones included."""
    tolerance: float
    largest: float = 0.0
    """The largest difference."""
    skewed: tuple[Skew, ...] = ()
    """The worst of those that are not equal, ten at most."""
    by_version: Mapping[str, int] = {}
    """Rows that are not equal, by ``model[segment] version``, the worst ten."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where an answer was another one."""
        return int(self.equal < self.rows)
