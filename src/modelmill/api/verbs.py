"""The table of verbs. Its functions are named, not imported: what knows the table need not load the machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, cast

import msgspec

from modelmill import outcomes, requests
from modelmill.errors import NotFound, UsageError, did_you_mean
from modelmill.outcomes import Outcome, Progress, no_progress
from modelmill.requests import Request
from modelmill.settings import Settings

Who = Literal["viewer", "author", "approver", "owner"]
"""The least role that may call a verb."""

Function = Callable[[Settings, Request, Progress], Outcome]


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that can be asked of a project."""

    name: str
    """As it is typed: ``train``, ``data import``."""
    summary: str
    """One line of help."""
    input: type[Request]
    output: type[Outcome]
    place: str
    """``modelmill.room.module:function``"""
    who: Who
    project: bool = True
    """Whether it needs a `modelmill.toml`."""
    examples: tuple[str, ...] = ()
    """Command lines, as they are shown under the help."""

    def function(self) -> Function:
        """Import the function and return it."""
        module, _, name = self.place.partition(":")
        return cast("Function", getattr(import_module(module), name))


VERBS = (
    Verb(
        "check",
        "Try the model file on one segment; nothing is recorded.",
        requests.CheckRequest,
        outcomes.CheckOutcome,
        "modelmill.orchestrator.checking:check",
        "author",
        examples=("modelmill check", "modelmill check delays.py --segment UA,ORD"),
    ),
    Verb(
        "train",
        "Build a version of every segment whose code, data or model has changed.",
        requests.TrainRequest,
        outcomes.TrainOutcome,
        "modelmill.orchestrator.training:train",
        "author",
        examples=("modelmill train", "modelmill train --set alpha=0.5 --explain"),
    ),
    Verb(
        "adopt",
        "Make a finished model, such as a pickle, one that runs like any other.",
        requests.AdoptRequest,
        outcomes.AdoptOutcome,
        "modelmill.orchestrator.adopting:adopt",
        "author",
        project=False,
        examples=("modelmill adopt price.txt --sample houses.csv --target price",),
    ),
    Verb(
        "feasibility",
        "Find out what a model would give, before anything is built on it.",
        requests.FeasibilityRequest,
        outcomes.FeasibilityOutcome,
        "modelmill.orchestrator.feasibility:feasibility",
        "author",
        examples=("modelmill feasibility", "modelmill feasibility --window ..2013-11-01"),
    ),
    Verb(
        "experiment",
        "Try other parameters or code on the same rows; nothing of it is served.",
        requests.ExperimentRequest,
        outcomes.ExperimentOutcome,
        "modelmill.orchestrator.experiment:experiment",
        "author",
        examples=("modelmill experiment --set alpha=10", "modelmill experiment --vary alpha=0.1,1,10 --study alpha"),
    ),
    Verb(
        "retrain",
        "Build from new rows, nothing else changed, and let the gate judge.",
        requests.RetrainRequest,
        outcomes.RetrainOutcome,
        "modelmill.orchestrator.retraining:retrain",
        "author",
        examples=("modelmill retrain", "modelmill retrain --window ..2013-12-31"),
    ),
    Verb(
        "up",
        "Build what has changed, release it to dev and serve it.",
        requests.UpRequest,
        outcomes.UpOutcome,
        "modelmill.orchestrator.up:up",
        "author",
        examples=("modelmill up", "modelmill up --port 8701 --detach"),
    ),
    Verb(
        "plan",
        "Say what a release would change, cost and need; nothing is changed.",
        requests.PlanRequest,
        outcomes.PlanOutcome,
        "modelmill.orchestrator.planning:plan",
        "viewer",
        examples=("modelmill plan prod", "modelmill plan prod -o next.plan"),
    ),
    Verb(
        "deploy",
        "Release the newest version to an environment, as planned.",
        requests.DeployRequest,
        outcomes.DeployOutcome,
        "modelmill.orchestrator.deploying:deploy",
        "approver",
        examples=("modelmill deploy prod", "modelmill deploy prod --yes", "modelmill deploy next.plan"),
    ),
    Verb(
        "loadtest",
        "Find the rate that a version bears, and whether it bears what it has to.",
        requests.LoadtestRequest,
        outcomes.LoadtestOutcome,
        "modelmill.orchestrator.loadtest:loadtest",
        "author",
        examples=(
            "modelmill loadtest --slo p99=20ms,qps=2000",
            "modelmill loadtest air-time@3 --slo p99=20ms,qps=2000 --against live --out load.svg",
        ),
    ),
    Verb(
        "promote",
        "Release a version to another environment, its bytes unchanged.",
        requests.PromoteRequest,
        outcomes.DeployOutcome,
        "modelmill.orchestrator.deploying:promote",
        "approver",
        examples=("modelmill promote 2 --to prod",),
    ),
    Verb(
        "approve",
        "Say that a version may be released to an environment.",
        requests.ApproveRequest,
        outcomes.ApproveOutcome,
        "modelmill.orchestrator.approving:approve",
        "approver",
        examples=("modelmill approve 2 --for prod", 'modelmill approve 2 --for prod --decline --reason "too early"'),
    ),
    Verb(
        "rollback",
        "Go back to what an environment served before; nothing is built.",
        requests.RollbackRequest,
        outcomes.RollbackOutcome,
        "modelmill.orchestrator.returning:rollback",
        "author",
        examples=(
            "modelmill rollback prod",
            "modelmill rollback air-time prod --to r3",
            "modelmill rollback 'air-time[JFK,*]' prod",
        ),
    ),
    Verb(
        "shadow",
        "Have a version answer copies of the requests; nobody sees its answers.",
        requests.ShadowRequest,
        outcomes.ShadowOutcome,
        "modelmill.orchestrator.shadowing:shadow",
        "author",
        examples=(
            "modelmill shadow 3 --in prod",
            "modelmill shadow --in prod",
            "modelmill shadow 3 --in prod --stop",
        ),
    ),
    Verb(
        "ab",
        "Have two versions serve side by side, and measure which does better.",
        requests.AbRequest,
        outcomes.AbOutcome,
        "modelmill.orchestrator.measuring:ab",
        "author",
        examples=(
            "modelmill ab 3 --in prod --share 50% --outcome revenue",
            "modelmill ab --in prod",
            "modelmill ab --in prod --stop",
        ),
    ),
    Verb(
        "hold",
        "Have nothing of a model released to an environment.",
        requests.HoldRequest,
        outcomes.HoldOutcome,
        "modelmill.orchestrator.deploying:hold",
        "author",
        examples=('modelmill hold air-time prod --for 2h --reason "stocktaking"',),
    ),
    Verb(
        "resume",
        "Lift what holds a model in an environment.",
        requests.ResumeRequest,
        outcomes.HoldOutcome,
        "modelmill.orchestrator.deploying:resume",
        "author",
        examples=("modelmill resume air-time prod",),
    ),
    Verb(
        "history",
        "Say what was current when, who moved it and why.",
        requests.HistoryRequest,
        outcomes.HistoryOutcome,
        "modelmill.orchestrator.deploying:history",
        "viewer",
        examples=("modelmill history", "modelmill history air-time prod"),
    ),
    Verb(
        "explain",
        "Say what answers in an environment, since when, made of what, on what.",
        requests.ExplainRequest,
        outcomes.ShowOutcome,
        "modelmill.orchestrator.explaining:explain",
        "viewer",
        examples=("modelmill explain", "modelmill explain 'air-time[JFK,B6,BOS]' --in prod"),
    ),
    Verb(
        "serve",
        "Serve what is released, with as many processes as asked.",
        requests.ServeRequest,
        outcomes.ServeOutcome,
        "modelmill.orchestrator.serve:serve",
        "author",
        examples=("modelmill serve --workers 2 --detach", "modelmill serve --restart"),
    ),
    Verb(
        "down",
        "Stop the serving node of this project.",
        requests.DownRequest,
        outcomes.DownOutcome,
        "modelmill.orchestrator.serve:down",
        "author",
    ),
    Verb(
        "status",
        "Say what was built, what is released and what runs.",
        requests.StatusRequest,
        outcomes.StatusOutcome,
        "modelmill.orchestrator.looking:status",
        "viewer",
    ),
    Verb(
        "infra",
        "Say which processes, ports, files and memory of this machine are the project's.",
        requests.InfraRequest,
        outcomes.InfraOutcome,
        "modelmill.orchestrator.infra:infra",
        "viewer",
    ),
    Verb(
        "predict",
        "Ask a model for the answer to one row, or to each row of a table.",
        requests.PredictRequest,
        outcomes.PredictOutcome,
        "modelmill.orchestrator.answering:predict",
        "viewer",
        examples=(
            "modelmill predict --row origin=JFK carrier=B6 dest=BOS time_hour=2013-06-01T09:00 distance=187 hour=9",
            "modelmill predict --table rows.parquet --out answers.parquet",
        ),
    ),
    Verb(
        "parity",
        "Ask the training path what the node was asked, and compare the answers.",
        requests.ParityRequest,
        outcomes.ParityOutcome,
        "modelmill.orchestrator.parity:parity",
        "viewer",
        examples=("modelmill parity", "modelmill parity air-time --last 1000"),
    ),
    Verb(
        "labels import",
        "Take labels, and find the answers that they belong to.",
        requests.LabelsImportRequest,
        outcomes.LabelsOutcome,
        "modelmill.orchestrator.labels:import_labels",
        "author",
        examples=(
            "modelmill labels import labels.csv",
            "modelmill labels import landed.parquet air-time --on keys,time --within 10m",
            "modelmill labels import late.xlsx --column request_id=id --column air_time=minutes",
        ),
    ),
    Verb(
        "labels show",
        "Say how many answers have labels, and how good they were.",
        requests.LabelsShowRequest,
        outcomes.LabelsOutcome,
        "modelmill.orchestrator.labels:show_labels",
        "viewer",
        examples=("modelmill labels show", "modelmill labels show air-time --env prod --out labelled.parquet"),
    ),
    Verb(
        "reproduce",
        "Build a version again from its record and its lock, and compare.",
        requests.ReproduceRequest,
        outcomes.ReproduceOutcome,
        "modelmill.orchestrator.reproducing:reproduce",
        "viewer",
        project=False,
        examples=(
            "modelmill reproduce 1",
            "modelmill reproduce 'air-time[JFK,B6,BOS]' 3",
            "modelmill reproduce 3 --sample 1%",
        ),
    ),
    Verb(
        "diff",
        "Say what lies between two versions, releases or snapshots.",
        requests.DiffRequest,
        outcomes.DiffOutcome,
        "modelmill.orchestrator.diffing:diff",
        "viewer",
        examples=("modelmill diff 1 2", "modelmill diff 'air-time[JFK,B6,BOS]' 1 2 --answers"),
    ),
    Verb(
        "audit",
        "Say at which level a model is, from recorded evidence alone.",
        requests.AuditRequest,
        outcomes.AuditOutcome,
        "modelmill.orchestrator.auditing:audit",
        "viewer",
        examples=("modelmill audit air-time", "modelmill audit --fail-under 2"),
    ),
    Verb(
        "search",
        "Find versions by model, segment, tag or metric.",
        requests.SearchRequest,
        outcomes.SearchOutcome,
        "modelmill.orchestrator.looking:search",
        "viewer",
        examples=("modelmill search air-time --where 'mae > 12'",),
    ),
    Verb(
        "show",
        "Show a model, a version, a run, a snapshot or a study.",
        requests.ShowRequest,
        outcomes.ShowOutcome,
        "modelmill.orchestrator.looking:show",
        "viewer",
        examples=("modelmill show air-time[JFK,B6,BOS]", "modelmill show run 3", "modelmill show study"),
    ),
    Verb(
        "data import",
        "Check rows against the contract and keep them as a snapshot.",
        requests.ImportRequest,
        outcomes.ImportOutcome,
        "modelmill.orchestrator.importing:import_rows",
        "author",
        examples=("modelmill data import flights.csv.zip",),
    ),
    Verb(
        "data append",
        "Add rows to the newest snapshot; the bytes that are there are not copied.",
        requests.AppendRequest,
        outcomes.ImportOutcome,
        "modelmill.orchestrator.importing:append_rows",
        "author",
        examples=("modelmill data append december.csv", "modelmill data append --window 2013-12-01..2014-01-01"),
    ),
    Verb(
        "data infer",
        "Guess a schema from a sample, as source to be edited.",
        requests.InferRequest,
        outcomes.InferOutcome,
        "modelmill.orchestrator.inferring:infer",
        "author",
        project=False,
        examples=(
            "modelmill data infer houses.csv --target price",
            "modelmill data infer sales.parquet --target sold --by store",
        ),
    ),
    Verb(
        "data list",
        "List the snapshots.",
        requests.SnapshotListRequest,
        outcomes.SnapshotListing,
        "modelmill.orchestrator.importing:list_snapshots",
        "viewer",
    ),
    Verb(
        "data show",
        "Show one snapshot, or what nodes have logged of a model's answers.",
        requests.SnapshotShowRequest,
        outcomes.ShowOutcome,
        "modelmill.orchestrator.importing:show_snapshot",
        "viewer",
        examples=(
            "modelmill data show flights@s1",
            "modelmill data show predictions/air-time --last 1000 --out asked.parquet",
        ),
    ),
    Verb(
        "data export",
        "Write a snapshot's rows to a file.",
        requests.ExportRequest,
        outcomes.ExportOutcome,
        "modelmill.orchestrator.exporting:export_rows",
        "viewer",
        examples=("modelmill data export flights@s1 --out rows.parquet",),
    ),
    Verb(
        "data diff",
        "Say what lies between two snapshots: promises, segments, rows, distributions.",
        requests.DataDiffRequest,
        outcomes.DiffOutcome,
        "modelmill.orchestrator.diffing:diff_data",
        "viewer",
        examples=("modelmill data diff flights@s1 flights@s2",),
    ),
    Verb(
        "fsck",
        "Look through the store for anything broken or lost.",
        requests.FsckRequest,
        outcomes.FsckOutcome,
        "modelmill.orchestrator.fsck:fsck",
        "viewer",
    ),
    Verb(
        "doctor",
        "Look at the machine: versions, disk, ports, database.",
        requests.DoctorRequest,
        outcomes.DoctorOutcome,
        "modelmill.api.doctor:doctor",
        "viewer",
        project=False,
    ),
)
"""Every verb, in the order in which help lists them."""

_BY_NAME = {verb.name: verb for verb in VERBS}


def get_verb(name: str) -> Verb:
    """Return the verb called `name`."""
    if name not in _BY_NAME:
        raise NotFound(f"there is no verb `{name}`", likely=did_you_mean(name, _BY_NAME))
    return _BY_NAME[name]


def make_request(verb: Verb, options: Mapping[str, Any]) -> Request:
    """Return what a verb is asked; an unknown option, or one of another type, raises UsageError."""
    try:
        return msgspec.convert(dict(options), verb.input)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        option = f"option `{place.rstrip('`')}`: " if place else ""
        raise UsageError(f"`{verb.name}` cannot be asked that: {option}{what}") from error


def call(verb: Verb, settings: Settings, request: Request, progress: Progress = no_progress) -> Outcome:
    """Do what a verb says and return its answer."""
    return verb.function()(settings, request, progress)
