"""Plans, releases, canaries, load tests, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from modelmill.outcomes.labelling import ChampionVerdict
from modelmill.outcomes.parts import Outcome


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


class CheckFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was checked of a release, and that an environment may require."""

    floor: str
    """``clean commit``, ``law``, ``gate``, ``refused``, ``load`` or ``approval``"""
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
    environments: tuple[str, ...] = ()
    """Package environments that the version needs and the node's own is not, each with whether `deploy` will make it."""
    rehearsed: str = ""
    """What came of the last rehearsal of the version; empty where there was none. `deploy` has one."""
    taking: str = ""
    """The release that takes traffic beside the current one, which has to end first: ``r2``; empty where none does."""
    load_mb: float
    """What its node would map that it has not mapped yet."""
    url: str
    workers: int
    runs: bool
    """Whether the node runs now."""
    unseen: tuple[str, ...] = ()
    """Machines that are declared to run a node and that nothing is known of here."""
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
        return 3 if (self.unmet or self.hold or self.taking) and not self.nothing else 0


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
    outcome: str = ""
    """Of an A/B test: what is measured."""
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
    rehearsed: str = ""
    """What a fresh process answered before anything was moved."""
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


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured at one rate; latencies are counted from the moments at which requests were due."""

    rate: float
    """Requests a second that were due."""
    per_s: float
    """Requests a second that were answered, over the last three quarters of the time."""
    asked: int
    """Requests that were due."""
    answered: int
    """Of which in time, rightly or not."""
    errors: int
    """Of which failed."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    most_ms: float
    """The largest of all."""
    late_ms: float
    """By how much the sender was behind what was due, at its p99."""
    late: bool
    """Whether that was too much: then the rate says nothing."""
    follows: bool
    """Whether as much was answered as was asked."""
    broken: tuple[str, ...] = ()
    """What of the SLO does not hold at this rate, in words."""
    said: str = ""
    """The first answer that was an error."""


class LoadtestOutcome(Outcome, frozen=True, kw_only=True):
    """What a version bears, and whether that is what it has to."""

    environment: str
    model: str
    version: int
    slo: str
    verdict: str
    """``pass``, ``fail`` or ``inconclusive``"""
    why: str
    knee: float
    """The highest rate at which the SLO's limits held; 0 where they held at none."""
    knee_below: float | None
    """The lowest rate at which they did not; None where none was found."""
    by_sender: bool
    """Whether the search ended because the sender could send no faster: the knee is at least that."""
    curve: tuple[LoadPoint, ...]
    """By rate."""
    against: str = ""
    """What it was compared with in the same run: ``live`` or a version's number."""
    other: tuple[LoadPoint, ...] = ()
    """The curve of that, at the same rates."""
    requests: str = ""
    """Where the rows came from that were asked."""
    rows: int
    segments: int
    url: str
    workers: int
    host: str
    cores: int
    by: str
    out: str = ""
    """The plot that was written."""
    seconds: float = 0.0
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Return 1 where the SLO does not hold, or where that is not known."""
        return 0 if self.verdict == "pass" else 1


class ApproveOutcome(Outcome, frozen=True, kw_only=True):
    """What was said about releasing a version to an environment."""

    environment: str
    model: str
    version: int
    approved: bool
    by: str
    built_by: str
    reason: str
    seconds: float = 0.0
    next: str = ""


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
    quality: ChampionVerdict | None = None
    """What labels said last of the release that came, or that was taken back; None where nothing was compared."""


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
