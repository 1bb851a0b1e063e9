"""What the commands answer, as values: the command line renders them, ``--json`` is their JSON, Python gets them as is.

Light on purpose: nothing but msgspec is imported, so that the command line can know the shapes without the machines.
Times are seconds unless a name says otherwise; texts named `segment` are written as `names.format_segment` does;
`next` is the one command that makes sense now. `exit_code` is 0 where all went well and 1 where some of it did not.

While a verb works it calls ``progress(kind, facts)``; `PROGRESS_KINDS` says which kinds there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

Progress = Callable[[str, dict[str, Any]], None]
"""How a verb tells what it is doing: a kind, and the facts of that kind."""

PROGRESS_KINDS = {
    "line": "text: one line for a person",
    "build": "done, total, built, failed, unchanged, pooled, rate: counts of segments so far; rate is models a second",
    "failure": "segment, code, summary: one segment that could not be built",
    "plan": "outcome: the PlanOutcome that is about to be applied",
    "up": "outcome: the UpOutcome or ServeOutcome, once the node answers; the verb returns when the node has ended",
}


def no_progress(kind: str, facts: dict[str, Any]) -> None:
    """Tell nobody."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a verb."""

    @property
    def exit_code(self) -> int:
        """Return 0: all went well; a verb that could not do its work raises instead."""
        return 0


# ------------------------------------------------------------------ parts


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot, as it is shown."""

    label: str
    """``flights@s1``"""
    dataset: str
    number: int
    digest: str
    rows: int
    segments: int = 0
    bytes: int = 0
    source: str = ""
    taken_at: datetime | None = None
    new: bool = True
    """False when the rows were the same as those of a snapshot that was there already."""
    rows_without_label: int = 0
    notices: tuple[str, ...] = ()
    """What is no mistake, and a person would want to know: segments that are gone, many fewer rows."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One error on the same test rows: the models of their own, the pooled model, and the mean of the training rows."""

    metric: str
    rows: int
    """Test rows that all three answered."""
    own: float
    """The segments' own models, also where the pooled one answers: choosing on these rows would flatter the choice."""
    pooled: float | None = None
    mean: float | None = None
    unit: str = ""


class PairedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Other answers less the champion's on the same test rows: the mean loss, lower is better."""

    measure: str
    """``mae``, ``mse``, ``mape``, ``log_loss`` or ``error rate``"""
    new: float
    champion: float
    difference: float
    low: float | None
    """The 95 % interval of the difference, corrected for the number of arms; None where it is not known."""
    high: float | None
    verdict: str
    """``better`` or ``worse`` where the interval does not hold zero, else ``no real difference``."""
    rows: int
    segments: int
    better: int
    """Segments that are clearly better, each by a paired t test of its rows; of 100 that do not differ 2 are expected."""
    worse: int
    unjudged: int
    """Segments with too few rows for that."""


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Segments that failed for one cause."""

    code: str
    cause: str
    count: int
    stage: str = ""
    segments: tuple[str, ...] = ()
    """At most three examples."""
    where: str = ""
    """``delays.py:41 train()``"""
    got: str = ""
    """What a gate found of the first one: ``mae 3.21, the champion's 2.98, on 63 rows: clearly worse``"""
    next: str = ""
    safe: str = ""


class LawCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many segments a law was asked of, and for how many it does not hold."""

    name: str
    asked: int
    failed: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The segments of a fleet, by what this run did and by who answers now. The pooled model is not counted."""

    segments: int
    built: int = 0
    unchanged: int = 0
    """Carried forward: code, data and model are the same."""
    failed: int = 0
    """Their previous version stays; where there is none the pooled model answers."""
    refused: int = 0
    """Built, and refused by the gate: their champion goes on answering, or the pooled model where there is none."""
    own: int = 0
    """Segments whose own model answers."""
    pooled: int = 0
    """Segments that the pooled model answers for; `TrainOutcome.pooled_because` says why."""


# ------------------------------------------------------------------ train, up, down


class TrainOutcome(Outcome, frozen=True, kw_only=True):
    """What a build did."""

    model: str
    version: int
    """The number that the new versions carry; the current one where nothing was built."""
    run: int | None
    """None when there was nothing to do."""
    snapshot: SnapshotFacts
    counts: Counts
    seconds: float
    """Wall-clock time of the whole command."""
    stages: Mapping[str, float] = {}
    """Seconds by stage, in order: import, snapshot, plan, build, register."""
    platform_ms: float | None = None
    """Milliseconds of the platform per model built: what is neither the user's fit nor the user's predict."""
    build_cpu_s: float = 0.0
    """CPU seconds of the workers."""
    user_ms: float | None = None
    """Milliseconds of the user's own functions per model built."""
    comparison: Comparison | None = None
    metrics: Mapping[str, float] = {}
    """Medians over the segments."""
    failures: tuple[FailureGroup, ...] = ()
    pooled_because: Mapping[str, int] = {}
    """Why the pooled model answers -> how many segments."""
    laws: tuple[LawCount, ...] = ()
    reasons: Mapping[str, int] = {}
    """Why segments were built or left alone -> how many."""
    changes: Mapping[str, int] = {}
    """What the new versions are in the eyes of those before them, computed from their digests -> how many."""
    explained: tuple[tuple[str, str], ...] = ()
    """With ``--explain``: (segment, reason) of every segment."""
    inactive: tuple[str, ...] = ()
    """Declared policies that are stored but do not act yet."""
    map_digest: str = ""
    unsteady: str = ""
    """A segment that was fitted twice and came out otherwise; empty where both fits were the same."""
    resumed: bool = False
    """Whether this run went on where an interrupted one had stopped."""
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when a segment failed."""
        return 1 if self.counts.failed else 0


class RetrainOutcome(Outcome, frozen=True, kw_only=True):
    """What new rows made of a model, and what the gate let through."""

    train: TrainOutcome
    champion: int
    """The version that answered until now."""
    before: str
    """Its snapshot: ``flights@s1``"""
    gate: tuple[str, ...] = ()
    """The conditions that were asked."""
    judged: int = 0
    """Segments whose new answers were put before the gate."""
    compared: PairedFacts | None = None
    """All of them together beside their champions, on the test rows of the new snapshot."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 3 when the gate refused everything that it judged, else 1 when a segment could not be built."""
        refused = self.train.counts.refused
        return 3 if refused and refused >= self.judged else self.train.exit_code


class ReleaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment points to."""

    environment: str
    number: int
    version: int
    new: bool = True
    confirmed: int = 0
    """Live workers that have applied it."""
    workers: int = 0
    seconds: float = 0.0


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One serving node."""

    url: str
    """``http://127.0.0.1:8700``"""
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
    """Packed models that were asked, and are open in a worker."""
    logged: int = 0
    """Records of its prediction log."""
    log_dropped: int = 0
    """Records that it could not keep up with, or had no room for, or that a killed worker took with it."""
    healthy: bool = True
    broken: Mapping[str, str] = {}
    """What is wrong with models: a release that cannot be opened, damage found when it was asked."""
    models: tuple[str, ...] = ()
    releases: Mapping[str, int] = {}


class UpOutcome(Outcome, frozen=True, kw_only=True):
    """What `up` did: the build, the release and the node that answers."""

    train: TrainOutcome
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


class CheckFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was checked of a release, and that an environment may require."""

    floor: str
    """``clean commit``, ``law`` or ``gate``"""
    ok: bool | None
    """None where it is not known: never taken for a yes."""
    text: str


class PlanOutcome(Outcome, frozen=True, kw_only=True):
    """What a release would change, in six blocks; applied exactly as it is, or not at all."""

    id: str = ""
    """The digest of all that it was made from; eight digits."""
    environment: str
    model: str
    before: int
    """The release that is current; 0 where there is none."""
    before_version: int
    version: int
    """What would be released."""
    kind: str
    """What lies between the two versions: ``retraining``, ``experiment``, ``rework``, ``first`` ..."""
    what: Mapping[str, tuple[str, ...]]
    """``code``, ``model``, ``data``, ``lock`` -> what of it differs."""
    changed: tuple[str, ...]
    """Segments that would be answered otherwise."""
    new: int
    gone: int
    same: int
    pooled_changes: bool
    """Whether the pooled model changes, which answers for segments without one of their own."""
    checks: tuple[CheckFacts, ...]
    unmet: tuple[str, ...]
    """What the environment requires and the release lacks."""
    load_mb: float
    """What its node would map that it has not mapped yet."""
    url: str
    workers: int
    runs: bool
    """Whether the node runs now."""
    steps: tuple[str, ...]
    """How the release takes traffic; at once where there are none."""
    of: str
    hold_s: float
    abort: tuple[str, ...]
    hold: str
    """Why nothing may be released now; empty where it may."""
    undo: str
    nothing: bool
    """Whether the environment serves it already."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 3 when `deploy` would refuse."""
        return 3 if (self.unmet or self.hold) and not self.nothing else 0


class ApartFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A segment whose shadow answers otherwise, or fails."""

    segment: str
    copies: int
    failed: int
    equal: int
    mean_difference: float
    largest_difference: float


class ShadowFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A release that answers copies of the requests, and its answers beside those that were given."""

    environment: str
    model: str
    release: int
    version: int
    share: float
    """Of the requests that are copied."""
    began_at: datetime
    ended_at: datetime | None = None
    copies: int = 0
    """Rows that were answered, or failed."""
    failed: int = 0
    equal: int = 0
    """Answers that are the same number, or the same probabilities, to the last bit."""
    agreed: int = 0
    """Answers with the same label; without labels, the equal ones."""
    dropped: int = 0
    """Copies that there was no time for."""
    mean_difference: float = 0.0
    """Of a number, or the largest of a row's probabilities; absolute."""
    largest_difference: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    apart: tuple[ApartFacts, ...] = ()
    """Segments that fail most often, then those farthest apart; a few."""


class ShadowOutcome(Outcome, frozen=True, kw_only=True):
    """What `shadow` did, and the shadows that it was about."""

    environment: str
    model: str
    done: str
    """``begun``, ``ended``, or empty where they are only shown"""
    shadows: tuple[ShadowFacts, ...]
    confirmed: int = 0
    """Workers of its node that have applied it; 0 where none runs."""
    seconds: float = 0.0
    next: str = ""


class CanaryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A release that takes traffic step by step, as it is shown."""

    environment: str
    model: str
    release: int
    """The candidate."""
    before: int
    """What serves beside it, and what everybody gets when it is taken back."""
    state: str
    """``running``, ``done`` or ``stopped``"""
    steps: tuple[str, ...]
    step: int
    """Which of the steps it is at, from 0 on."""
    of: str
    exposed: int
    """Where segments are shared: how many the candidate answers for."""
    step_s: float
    """How long it has been at this step."""
    hold_s: float
    asked: int = 0
    """Requests that the candidate answered so far."""
    verdict: str = "undecided"
    texts: tuple[str, ...] = ()
    """What is known of each condition."""
    why: str = ""
    """Why it has ended, or taken its last step."""
    copies: ShadowFacts | None = None
    """What it answered to copies, where its first step is a shadow."""


class DeployOutcome(Outcome, frozen=True, kw_only=True):
    """What `deploy` and `promote` did."""

    plan: PlanOutcome
    release: int
    moved: bool
    """False where the environment served it already, or where a canary has only begun."""
    canary: CanaryFacts | None = None
    confirmed: int = 0
    """Workers of its node that have applied it; 0 where none runs."""
    control_s: float = 0.0
    """Until it was committed and published."""
    seconds: float = 0.0
    """Until the last worker had applied it."""
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 3 when the canary was taken back."""
        return 3 if self.canary is not None and self.canary.state == "stopped" else 0


class RollbackOutcome(Outcome, frozen=True, kw_only=True):
    """What `rollback` did."""

    environment: str
    model: str
    before: int
    after: int
    """The release that is current now."""
    version: int
    segments: tuple[str, ...] = ()
    """Those that went back; empty for all."""
    confirmed: int = 0
    control_s: float = 0.0
    seconds: float = 0.0
    without_database: bool = False
    """Whether it was ordered past the database, which learns of it later."""
    next: str = ""


class MoveFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One change of what an environment serves."""

    environment: str
    model: str
    at: datetime
    kind: str
    before: int
    after: int
    by: str
    reason: str


class HistoryOutcome(Outcome, frozen=True, kw_only=True):
    """What was current when, the newest first; and what is on hold."""

    moves: tuple[MoveFacts, ...]
    holds: Mapping[str, str] = {}
    """``model environment`` -> why"""
    next: str = ""


class HoldOutcome(Outcome, frozen=True, kw_only=True):
    """What `hold` and `resume` did."""

    environment: str
    model: str
    held: bool
    release: int
    """What is current, and stays so while it is held."""
    until: datetime | None = None
    reason: str = ""
    next: str = ""


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


# ------------------------------------------------------------------ check, status


class CheckStep(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    text: str
    """``contract holds on 60 000 sample rows``"""
    seconds: float = 0.0


class DrillFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One promise about the data, and whether a row that breaks it is caught."""

    promise: str
    """``distance int 1..6000 mile``"""
    bad: str
    """What was planted: ``6001``"""
    caught: bool | None
    """None where a check did not notice any of the rows that were spoiled for it: it may look for something else."""


class CheckOutcome(Outcome, frozen=True, kw_only=True):
    """What `check` found; it stops at the first thing that does not hold, with that error."""

    model: str
    file: str
    segment: str
    """The one that was trained, saved, opened again and asked."""
    steps: tuple[CheckStep, ...]
    seconds: float
    comparison: Comparison | None = None
    notices: tuple[str, ...] = ()
    inactive: tuple[str, ...] = ()
    drill: tuple[DrillFacts, ...] = ()
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when something bad was planted and not caught."""
        return int(any(one.caught is False for one in self.drill))


class AdoptOutcome(Outcome, frozen=True, kw_only=True):
    """What became of a finished model."""

    model: str
    what: str
    """``sklearn.linear_model._ridge.Ridge``"""
    written: tuple[str, ...]
    """Files in the project: the model file, what was adopted, the sample."""
    columns: int
    rows: int
    """Of the sample."""
    trusted: bool
    """Whether it is a pickle, which a person had to trust."""
    steps: tuple[CheckStep, ...] = ()
    comparison: Comparison | None = None
    """On the last rows of the sample; it may have been fitted on them."""
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    next: str = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where one model stands."""

    model: str
    version: int
    segments: int
    own: int = 0
    pooled: int = 0
    failed: int = 0
    refused: int = 0
    """Segments whose newest version the gate has refused in the last run."""
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


# ------------------------------------------------------------------ predict, search, show


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One row's answer."""

    model: str
    segment: str
    value: float | str | bool | None
    """The predicted number, or the most probable label."""
    answered_by: str
    """``own`` or ``pooled``"""
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


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of one segment, before and after."""

    segment: str
    before: float
    after: float


class MetricDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over the segments of both sides, each on its own version's test rows."""

    name: str
    before: float
    """The median over the segments."""
    after: float
    segments: int
    better: int
    worse: int
    most: tuple[Moved, ...] = ()
    """The segments that moved most: those that became worse first, five each at most; with ``--all`` every one."""


class AnswersDiff(msgspec.Struct, frozen=True, kw_only=True):
    """How answers to the same rows moved."""

    source: str
    """``logged requests``, or ``rows of flights@s2``"""
    rows: int
    moved: int
    """Rows with another answer: beyond one part in a thousand million, or another likeliest label."""
    median: float
    """Of the absolute moves; of classes, of the probability that moved most."""
    p95: float
    largest: float
    mean: tuple[float, float] | None = None
    """The mean answer, before and after; None of classes."""


class DiffOutcome(Outcome, frozen=True, kw_only=True):
    """What lies between two versions, releases or snapshots."""

    kind: str
    """``versions`` or ``snapshots``"""
    before: str
    after: str
    segment: str = ""
    change: str = ""
    """``experiment``, ``retraining``, ``rework`` or ``same``: computed from digests."""
    differs: tuple[str, ...] = ()
    """Which of code, data and model."""
    code: tuple[str, ...] = ()
    """Lines of a unified diff."""
    commits: str = ""
    lock: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    """Parameters and declarations, before -> after."""
    data: Any = None
    """A `data.diff.SnapshotDiff`; None where the data are the same."""
    segments_new: int = 0
    segments_gone: int = 0
    segments_refitted: int = 0
    """Segments whose models have other bytes."""
    segments_same: int = 0
    answered: tuple[str, ...] = ()
    """How many segments are answered by another kind of model, or runtime, than before."""
    metrics: tuple[MetricDiff, ...] = ()
    refused: tuple[str, ...] = ()
    """Laws and gates that refused more segments, or fewer, than before: ``law failed: more_is_more  3 -> 5 segments``."""
    answers: AnswersDiff | None = None
    seconds: float = 0.0
    next: str = ""


class ModelAudit(msgspec.Struct, frozen=True, kw_only=True):
    """At which level one model is, and why not higher."""

    model: str
    version: int
    segments: int
    level: int
    """The highest of 0 to 4 all of whose cells are reached."""
    cells: tuple[Any, ...]
    """24 of `registry.audit.Cell`, in the order of the rules."""
    blocked_by: tuple[str, ...] = ()
    """What the next level lacks."""
    emptied: tuple[str, ...] = ()
    """Cells that were filled at the last audit, and are not now."""
    level_before: int | None = None
    """At the last audit; None where there was none."""


class AuditOutcome(Outcome, frozen=True, kw_only=True):
    """The levels of models, from recorded evidence alone."""

    rules: int
    """The version of the rules."""
    audits: tuple[ModelAudit, ...]
    fail_under: int = 0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 3 where a model is below the level that was asked for."""
        return 3 if any(one.level < self.fail_under for one in self.audits) else 0


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that was built again and is not what was recorded."""

    segment: str
    verdict: str
    """``equal``, ``different`` or ``failed``"""
    array: str = ""
    """Where it differs most: an array of the weights, ``answers``, or a metric."""
    largest: float | None = None
    """By which share of the larger number; None where shapes or kinds differ."""
    text: str = ""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a segment's model is not the same twice."""

    segment: str
    cause: str
    lines: tuple[str, ...] = ()
    """The user's own lines that did it, ``delays.py:41 train()``."""


class ReproduceOutcome(Outcome, frozen=True, kw_only=True):
    """Whether versions come out again as they were recorded."""

    target: str
    run: int
    verdict: str
    """``IDENTICAL``, ``EQUAL`` (within `tolerance`) or ``DIFFERENT``"""
    segments: int
    """How many were built again, the pooled model included."""
    identical: int
    equal: int = 0
    different: int = 0
    failed: int = 0
    tolerance: float = 1e-9
    worst: tuple[Rebuilt, ...] = ()
    """At most ten."""
    differs: tuple[str, ...] = ()
    """What differs between the machine, and the packages, of then and now."""
    cause: Cause | None = None
    environment: str = ""
    """``lock 9f02ab34``, or ``here``"""
    environment_s: float = 0.0
    """What its making took; 0 where it was there."""
    by_another: bool = False
    """Whether it was done by another person or on another machine than the build."""
    not_kept: str = ""
    """Why the verdict could not be recorded, where it could not."""
    earlier: int = 0
    """Segments of this version that an earlier run built: they are reproduced by its number."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where something came out otherwise."""
        return int(self.verdict == "DIFFERENT")


class FoundVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version, as a search lists it."""

    model: str
    segment: str
    number: int
    current: bool = True
    state: str = "own"
    """``own``, ``pooled``, or ``refused`` by the gate."""
    score: float | None = None
    metric: str = ""
    rows: int = 0
    change: str = ""
    """In a segment's history: what it is in the eyes of the version before it."""
    run: int | None = None
    made_at: datetime | None = None


class ArmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of a study."""

    number: int
    state: str
    """``done``, ``running``, ``aborted`` or ``interrupted``"""
    changed: Mapping[str, str] = {}
    """What differs from the champion: name -> ``1.0 -> 10``."""
    parameters: Mapping[str, Any] = {}
    metrics: Mapping[str, float] = {}
    """Medians over the segments."""
    tried: int = 0
    failed: int = 0
    compared: PairedFacts | None = None
    seconds: float = 0.0
    failures: tuple[FailureGroup, ...] = ()


class ExperimentOutcome(Outcome, frozen=True, kw_only=True):
    """What was tried on the rows of the current version. Nothing of it can be served."""

    model: str
    study: str
    champion: int
    """The number of the version that the arms are compared with."""
    snapshot: SnapshotFacts
    arms: tuple[ArmFacts, ...]
    winner: int | None = None
    """The arm with the lowest loss among those that are better, if any is."""
    unit: str = ""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where a segment could not be tried."""
        return int(any(arm.failed for arm in self.arms))


class NeedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One need of the model file, and whether it is met."""

    condition: str
    """``better(mae) than mean by 0.1``"""
    verdict: bool | None
    """None: undecided, the rows are too few or too noisy to say."""
    value: float | None
    limit: float | None
    """What the value had to reach."""
    interval: bool
    """Whether a 95 % interval decided, or the point itself: r2, f1, roc_auc and metrics of one's own have no interval."""


class SegmentGain(msgspec.Struct, frozen=True, kw_only=True):
    """One segment: its losses on its test rows, and how much smaller its own model's is than the mean's."""

    segment: str
    rows: int
    """Test rows."""
    own: float
    mean: float
    pooled: float | None
    gain: float
    """1 - own / mean: 0.2 is a fifth less; below zero the model is worse than the mean."""
    low: float | None = None
    """The 95 % interval of own less mean, paired over the test rows; None where there are too few."""
    high: float | None = None


class FeasibilityOutcome(Outcome, frozen=True, kw_only=True):
    """What models of their own, the pooled model alone, and the mean would give. Nothing is built, nothing is served."""

    model: str
    purpose: str
    snapshot: SnapshotFacts
    tried: int
    """Segments with a model of their own; 0 where one model answers for all rows."""
    small: int = 0
    """Segments with too few rows for one."""
    failed: int = 0
    own_or_mean: PairedFacts | None = None
    """Models of their own - or the one model of all rows - beside the mean of the training rows."""
    own_or_pooled: PairedFacts | None = None
    """Models of their own beside the pooled model alone; None without segments."""
    pooled_or_mean: PairedFacts | None = None
    needs: tuple[NeedFacts, ...] = ()
    gains: tuple[SegmentGain, ...] = ()
    """Every segment, the largest gain first."""
    advice: str = ""
    failures: tuple[FailureGroup, ...] = ()
    unit: str = ""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where a need is not met, or undecided."""
        return int(any(need.verdict is not True for need in self.needs))


class StudyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The arms of one study, all on one snapshot."""

    name: str
    model: str
    snapshot: str
    champion: int
    arms: tuple[ArmFacts, ...]
    winner: int | None = None


class SearchOutcome(Outcome, frozen=True, kw_only=True):
    """One page of versions."""

    versions: tuple[FoundVersion, ...]
    after: str | None = None
    """Give it back as ``--after`` for the next page; None when this is the last."""
    next: str = ""


class ShowOutcome(Outcome, frozen=True, kw_only=True):
    """Everything about one thing."""

    kind: str
    """``model``, ``version``, ``run``, ``snapshot``, ``study`` or ``predictions``"""
    name: str
    facts: Mapping[str, str]
    """Label -> text, in the order in which they are shown: answers, made by, from data, ..."""
    details: Mapping[str, Any] = {}
    """The same and more, for programs."""
    failures: tuple[FailureGroup, ...] = ()
    study: StudyFacts | None = None
    next: str = ""


# ------------------------------------------------------------------ data


class ImportOutcome(Outcome, frozen=True, kw_only=True):
    """What became of rows that were imported."""

    snapshot: SnapshotFacts
    seconds: float
    checks: int = 0
    """Promises of the contract that were checked, a column and a rule each."""
    before: str = ""
    """The snapshot that rows were appended to; empty for an import."""
    added: int = 0
    """Rows that were appended; 0 where all of them were there already."""
    repeated: int = 0
    """Of these, rows that equal one that was there in every column: they are kept twice."""
    added_bytes: int = 0
    next: str = ""


class InferOutcome(Outcome, frozen=True, kw_only=True):
    """A schema that was guessed from a sample, as source to be edited."""

    source: str
    columns: int
    rows: int
    out: str = ""
    """The file that it was written to; empty where it is printed."""
    notices: tuple[str, ...] = ()
    next: str = ""


class ExportOutcome(Outcome, frozen=True, kw_only=True):
    """A file that a snapshot was written to."""

    snapshot: SnapshotFacts
    out: str
    bytes: int
    seconds: float
    next: str = ""


class LoggedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes have logged of one model's answers."""

    label: str
    """``predictions/air-time``"""
    rows: int
    files: int = 0
    bytes: int = 0
    pending: int = 0
    """Requests that nodes have written down, but that are in no file yet; their rows are not among `rows`."""
    first_at: datetime | None = None
    last_at: datetime | None = None


class SnapshotListing(Outcome, frozen=True, kw_only=True):
    """The snapshots of a project, newest first."""

    snapshots: tuple[SnapshotFacts, ...] = ()
    predictions: tuple[LoggedFacts, ...] = ()
    """What nodes have logged, a model each."""
    next: str = ""


# ------------------------------------------------------------------ fsck, doctor


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the store that is not as it was recorded."""

    code: str
    what: str
    where: str = ""
    next: str = ""


class FsckOutcome(Outcome, frozen=True, kw_only=True):
    """What a look through the whole store found."""

    checked: Mapping[str, int]
    """Kind of thing -> how many: blobs, packs, versions, snapshots, releases."""
    problems: tuple[Problem, ...] = ()
    unreferenced: int = 0
    """Blobs that no row leads to: left by interrupted runs, harmless."""
    leftovers: int = 0
    """Temporary files whose writer is gone."""
    removed: int = 0
    """How many of both were removed."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when something is broken or lost."""
        return 1 if self.problems else 0


class DoctorCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that modelmill needs of its surroundings."""

    name: str
    state: str
    """``ok``, ``notice`` (works, but could be better) or ``problem``"""
    text: str
    next: str = ""


class DoctorOutcome(Outcome, frozen=True, kw_only=True):
    """How the surroundings are."""

    checks: tuple[DoctorCheck, ...]
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 when there is a problem."""
        return 1 if any(check.state == "problem" for check in self.checks) else 0
