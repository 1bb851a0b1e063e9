"""`Mill`: a project for Python programs. Its methods are the verbs of the command line; they return the same values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from modelmill import outcomes
from modelmill.api.verbs import call, get_verb, make_request
from modelmill.outcomes import Progress, no_progress
from modelmill.settings import Settings, find_project, load_settings

Answered = TypeVar("Answered", bound=outcomes.Outcome)


class Ask(Protocol):
    """Asks a verb by its name, and returns its answer."""

    def __call__(self, name: str, _outcome: type[Answered], **options: Any) -> Answered:
        """Return what the verb answers."""


class MillData:
    """The verbs of a project's data, ``modelmill data ...``: ``Mill().data.append("today.csv")``."""

    def __init__(self, ask: Ask) -> None:
        """Take what asks a verb."""
        self._ask = ask

    def import_(self, source: Any = None, **options: Any) -> outcomes.ImportOutcome:
        """Keep rows as a snapshot: of a file or a connection by name, or of a data frame."""
        return self._ask("data import", outcomes.ImportOutcome, **_rows_from(source), **options)

    def append(self, source: Any = None, **options: Any) -> outcomes.ImportOutcome:
        """Add rows to the newest snapshot; what is there is not copied, and rows that are all there add nothing."""
        return self._ask("data append", outcomes.ImportOutcome, **_rows_from(source), **options)

    def infer(self, source: Any, target: str, **options: Any) -> outcomes.InferOutcome:
        """Guess a schema from a sample file, as source to be edited."""
        return self._ask("data infer", outcomes.InferOutcome, source=str(source), target=target, **options)

    def list(self, dataset: str | None = None) -> outcomes.SnapshotListing:
        """List the snapshots."""
        return self._ask("data list", outcomes.SnapshotListing, dataset=dataset)

    def show(self, snapshot: str | None = None, **options: Any) -> outcomes.ShowOutcome:
        """Show one snapshot, or ``predictions/MODEL``."""
        return self._ask("data show", outcomes.ShowOutcome, snapshot=snapshot, **options)

    def export(self, snapshot: str, out: str | Path) -> outcomes.ExportOutcome:
        """Write a snapshot's rows to a .parquet or .csv file."""
        return self._ask("data export", outcomes.ExportOutcome, snapshot=snapshot, out=str(out))

    def diff(self, before: str, after: str) -> outcomes.DiffOutcome:
        """Compare two snapshots."""
        return self._ask("data diff", outcomes.DiffOutcome, what=(before, after))


class MillLabels:
    """What was true, come back: ``Mill().labels.import_("labels.csv")``."""

    def __init__(self, ask: Ask) -> None:
        """Take what asks a verb."""
        self._ask = ask

    def import_(self, source: Any, model: str | None = None, **options: Any) -> outcomes.LabelsOutcome:
        """Take labels of a file, a connection or a data frame; ``on="keys,time"``, ``columns=("request_id=id",)``."""
        return self._ask("labels import", outcomes.LabelsOutcome, **_rows_from(source), model=model, **options)

    def show(self, model: str | None = None, **options: Any) -> outcomes.LabelsOutcome:
        """Say how many answers have labels, and how good they were; ``out=`` names a file that gets these."""
        return self._ask("labels show", outcomes.LabelsOutcome, model=model, **options)


class MillReleases:
    """What is released where: ``Mill().releases.plan("prod")``."""

    def __init__(self, ask: Ask) -> None:
        """Take what calls a verb of the project."""
        self._ask = ask

    def plan(self, environment: str, **options: Any) -> outcomes.PlanOutcome:
        """Say what a release to an environment would change; ``out="next.plan"`` keeps it for `deploy`."""
        return self._ask("plan", outcomes.PlanOutcome, environment=environment, **options)

    def deploy(self, target: str, **options: Any) -> outcomes.DeployOutcome:
        """Release to an environment, or as a file says that `plan` wrote; ``plan=ID`` makes sure that it is that one."""
        options.setdefault("yes", True)
        return self._ask("deploy", outcomes.DeployOutcome, target=target, **options)

    def promote(self, version: int, to: str, **options: Any) -> outcomes.DeployOutcome:
        """Release a version that was built before to another environment."""
        return self._ask("promote", outcomes.DeployOutcome, version=version, environment=to, **options)

    def approve(self, version: int, environment: str, **options: Any) -> outcomes.ApproveOutcome:
        """Say that a version may be released to an environment; somebody who has not built it has to."""
        return self._ask("approve", outcomes.ApproveOutcome, version=version, environment=environment, **options)

    def rollback(self, *what: str, **options: Any) -> outcomes.RollbackOutcome:
        """Go back to what was served before: ``rollback("air-time", "prod")``, ``rollback("air-time[JFK,*]", "prod")``."""
        return self._ask("rollback", outcomes.RollbackOutcome, what=what, **options)

    def shadow(self, version: int | None = None, **options: Any) -> outcomes.ShadowOutcome:
        """Have a version answer copies: ``shadow(3, environment="prod", share="10%")``; without one, say which do."""
        return self._ask("shadow", outcomes.ShadowOutcome, version=version, **options)

    def ab(self, version: int | None = None, **options: Any) -> outcomes.AbOutcome:
        """Have two versions serve side by side: ``ab(3, environment="prod", outcome="revenue")``; else say how it stands."""
        return self._ask("ab", outcomes.AbOutcome, version=version, **options)

    def hold(self, *what: str, **options: Any) -> outcomes.HoldOutcome:
        """Have nothing released: ``hold("air-time", "prod", length="2h")``."""
        return self._ask("hold", outcomes.HoldOutcome, what=what, **options)

    def resume(self, *what: str, **options: Any) -> outcomes.HoldOutcome:
        """Lift a hold: ``resume("air-time", "prod")``."""
        return self._ask("resume", outcomes.HoldOutcome, what=what, **options)

    def history(self, *what: str, **options: Any) -> outcomes.HistoryOutcome:
        """Say what was current when: ``history("air-time", "prod")``."""
        return self._ask("history", outcomes.HistoryOutcome, what=what, **options)


class Mill:
    """One project, opened by its folder or any folder below: ``Mill().train()``."""

    def __init__(self, root: str | Path = ".", *, progress: Progress = no_progress, **flags: Any) -> None:
        """Find the project at or above `root`; `flags`, such as ``store=``, win over its `modelmill.toml`."""
        self.settings: Settings = load_settings(find_project(Path(root).resolve()), **flags)
        self._progress = progress
        self.data = MillData(self._ask)
        self.releases = MillReleases(self._ask)
        self.labels = MillLabels(self._ask)

    def __repr__(self) -> str:
        return f"Mill({str(self.settings.root)!r})"

    def check(self, file: str | None = None, **options: Any) -> outcomes.CheckOutcome:
        """Try the model file on one segment; nothing is recorded."""
        return self._ask("check", outcomes.CheckOutcome, file=file, **options)

    def train(self, file: str | None = None, **options: Any) -> outcomes.TrainOutcome:
        """Build what has changed. Parameters of the fit are given as ``values=("alpha=0.5",)``."""
        return self._ask("train", outcomes.TrainOutcome, file=file, **options)

    def adopt(self, source: str, sample: Any, target: str, **options: Any) -> outcomes.AdoptOutcome:
        """Write the model file of a finished model; a pickle needs ``i_trust_this=True``."""
        options |= {"source": str(source), "sample": str(sample), "target": target}
        return self._ask("adopt", outcomes.AdoptOutcome, **options)

    def feasibility(self, file: str | None = None, **options: Any) -> outcomes.FeasibilityOutcome:
        """Find out what models of their own, one model of all rows, and the mean would give; nothing is built."""
        return self._ask("feasibility", outcomes.FeasibilityOutcome, file=file, **options)

    def experiment(self, file: str | None = None, **options: Any) -> outcomes.ExperimentOutcome:
        """Try other parameters on the same rows: ``values=("alpha=0.5",)``, or a grid: ``vary=("alpha=0.1,1,10",)``."""
        return self._ask("experiment", outcomes.ExperimentOutcome, file=file, **options)

    def retrain(self, file: str | None = None, **options: Any) -> outcomes.RetrainOutcome:
        """Build from new rows, nothing else changed; what the gate refuses keeps its champion."""
        return self._ask("retrain", outcomes.RetrainOutcome, file=file, **options)

    def up(self, file: str | None = None, **options: Any) -> outcomes.UpOutcome:
        """Build what has changed, release it to dev and leave a node serving it in the background."""
        options.setdefault("detach", True)
        return self._ask("up", outcomes.UpOutcome, file=file, **options)

    def serve(self, **options: Any) -> outcomes.ServeOutcome:
        """Leave a node serving what is released in the background; ``restart=True`` replaces its processes."""
        options.setdefault("detach", True)
        return self._ask("serve", outcomes.ServeOutcome, **options)

    def down(self, **options: Any) -> outcomes.DownOutcome:
        """Stop the node of dev, or of ``environment=``."""
        return self._ask("down", outcomes.DownOutcome, **options)

    def status(self) -> outcomes.StatusOutcome:
        """Say what was built, what is released and what runs."""
        return self._ask("status", outcomes.StatusOutcome)

    def infra(self) -> outcomes.InfraOutcome:
        """Say which processes, ports, files and memory of this machine are the project's."""
        return self._ask("infra", outcomes.InfraOutcome)

    def predict(self, *rows: Mapping[str, Any], model: str | None = None) -> outcomes.PredictOutcome:
        """Ask a model for the answers to rows; `model` may be written with its segment."""
        return self._ask("predict", outcomes.PredictOutcome, rows=rows, model=model)

    def predict_table(self, table: Any, model: str | None = None, **options: Any) -> outcomes.PredictOutcome:
        """Ask for the answer to each row of a file or a data frame; ``out=`` names the file that gets them."""
        key = "table" if isinstance(table, str | Path) else "frame"
        given = str(table) if isinstance(table, Path) else table
        return self._ask("predict", outcomes.PredictOutcome, **{key: given}, model=model, **options)

    def parity(self, model: str | None = None, **options: Any) -> outcomes.ParityOutcome:
        """Ask the training path what the node was asked, and compare the answers."""
        return self._ask("parity", outcomes.ParityOutcome, model=model, **options)

    def loadtest(self, model: str | None = None, *, slo: str, **options: Any) -> outcomes.LoadtestOutcome:
        """Find the rate that a version bears on a running node: ``loadtest("air-time@3", slo="p99=20ms,qps=2000")``."""
        return self._ask("loadtest", outcomes.LoadtestOutcome, model=model, slo=slo, **options)

    def reproduce(self, *what: str | int, **options: Any) -> outcomes.ReproduceOutcome:
        """Build versions again from their record: ``reproduce("air-time", 3)``, ``reproduce(3, sample="1%")``."""
        return self._ask("reproduce", outcomes.ReproduceOutcome, what=tuple(map(str, what)), **options)

    def diff(self, *what: str | int, answers: bool = False) -> outcomes.DiffOutcome:
        """Compare: ``diff(1, 2)``, ``diff("air-time[UA,ORD]", 1, 2)``, ``diff("r1", "r2")``, ``diff("a@s1", "a@s2")``."""
        return self._ask("diff", outcomes.DiffOutcome, what=tuple(map(str, what)), answers=answers)

    def audit(self, model: str | None = None, **options: Any) -> outcomes.AuditOutcome:
        """Say at which level a model is, or each of them."""
        return self._ask("audit", outcomes.AuditOutcome, model=model, **options)

    def search(self, model: str | None = None, **options: Any) -> outcomes.SearchOutcome:
        """Find versions; `after` of one page asks for the next."""
        return self._ask("search", outcomes.SearchOutcome, model=model, **options)

    def show(self, what: str) -> outcomes.ShowOutcome:
        """Show ``air-time``, ``air-time[UA,ORD] 3``, ``run 3`` or ``flights@s1``."""
        return self._ask("show", outcomes.ShowOutcome, what=tuple(what.split()))

    def explain(self, what: str = "", **options: Any) -> outcomes.ShowOutcome:
        """Say what answers for a model or a segment in an environment, made of what, on what."""
        return self._ask("explain", outcomes.ShowOutcome, what=what, **options)

    def fsck(self) -> outcomes.FsckOutcome:
        """Look through the store for anything broken or lost."""
        return self._ask("fsck", outcomes.FsckOutcome)

    def doctor(self) -> outcomes.DoctorOutcome:
        """Look at the machine around the project."""
        return self._ask("doctor", outcomes.DoctorOutcome)

    def _ask(self, name: str, _outcome: type[Answered], **options: Any) -> Answered:
        verb = get_verb(name)
        return cast("Answered", call(verb, self.settings, make_request(verb, options), self._progress))


def _rows_from(source: Any) -> dict[str, Any]:
    """Return the option that names a file or a connection, or gives a frame."""
    if source is None or isinstance(source, str | Path):
        return {"source": None if source is None else str(source)}
    return {"frame": source}
