"""What the verbs are asked, as values: one struct a verb, from which the command line makes its options.

Light on purpose: nothing but msgspec is imported. A field's `Meta` says how it is shown: its description is the help;
`extra` may hold ``argument`` (a place on the command line instead of an option), ``option``
(another name than the field's), ``metavar``, ``path`` (it names a file) and ``hidden``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

File = Annotated[
    str | None,
    Meta(
        description="The model file; may be left out where the project has one.",
        extra={"argument": True, "path": True},
    ),
]
ModelOption = Annotated[str | None, Meta(description="Which model, where the file declares several.")]


AtLeastOne = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verb is asked."""


class CheckRequest(Request, frozen=True, kw_only=True):
    """Try one segment; nothing is recorded."""

    file: File = None
    model: ModelOption = None
    segment: Annotated[
        str | None,
        Meta(description="Which segment to try, such as UA,ORD; the largest if left out."),
    ] = None
    drill: Annotated[
        bool, Meta(description="Plant bad rows, too, and show that every promise about the data can fail.")
    ] = False


class TrainRequest(Request, frozen=True, kw_only=True):
    """Build what has changed."""

    file: File = None
    model: ModelOption = None
    values: Annotated[
        tuple[str, ...],
        Meta(
            description="Another value for a hyperparameter; may be repeated.",
            extra={"option": "--set", "metavar": "NAME=VALUE"},
        ),
    ] = ()
    snapshot: Annotated[
        str | None,
        Meta(
            description="Build from this snapshot, such as flights@s2, instead of reading the source.",
            extra={"metavar": "SNAPSHOT"},
        ),
    ] = None
    window: Annotated[
        str | None,
        Meta(
            description="Which rows @data reads: from A on and before B, as dates or times; either may be left out.",
            extra={"metavar": "A..B"},
        ),
    ] = None
    explain: Annotated[bool, Meta(description="Say of each segment why it is built or left alone.")] = False
    rebuild: Annotated[bool, Meta(description="Build every segment, the unchanged ones too.")] = False
    workers: Annotated[AtLeastOne | None, Meta(description="Worker processes; one a core if left out.")] = None


class ExperimentRequest(Request, frozen=True, kw_only=True):
    """Try something else on the same rows."""

    file: File = None
    model: ModelOption = None
    values: Annotated[
        tuple[str, ...],
        Meta(
            description="Another value for a hyperparameter; may be repeated.",
            extra={"option": "--set", "metavar": "NAME=VALUE"},
        ),
    ] = ()
    vary: Annotated[
        tuple[str, ...],
        Meta(
            description="Several values, an arm each; of several such options, every combination.",
            extra={"metavar": "NAME=VALUE,VALUE,..."},
        ),
    ] = ()
    snapshot: Annotated[
        str | None,
        Meta(
            description="The snapshot that it has to be; any other than the current version's is refused.",
            extra={"metavar": "SNAPSHOT"},
        ),
    ] = None
    study: Annotated[
        str | None,
        Meta(
            description="The study that the arms belong to; the snapshot's name if left out.", extra={"metavar": "NAME"}
        ),
    ] = None
    workers: Annotated[AtLeastOne | None, Meta(description="Worker processes; one a core if left out.")] = None


class AdoptRequest(Request, frozen=True, kw_only=True):
    """Make a finished model one that runs like any other."""

    source: Annotated[
        str | None,
        Meta(
            description="A pickle, joblib or skops file, a LightGBM .txt, an XGBoost .json or .ubj, or module:function.",
            extra={"argument": True, "metavar": "MODEL", "path": True},
        ),
    ] = None
    sample: Annotated[
        str | None,
        Meta(
            description="A .csv or .parquet file of rows such as it was fitted on, with the target.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
    target: Annotated[str | None, Meta(description="The column that it predicts.", extra={"metavar": "COLUMN"})] = None
    name: Annotated[str | None, Meta(description="The name of the model; the file's if left out.")] = None
    i_trust_this: Annotated[
        bool, Meta(description="Open a pickle, which can run anything; its versions are marked for ever.")
    ] = False


class FeasibilityRequest(Request, frozen=True, kw_only=True):
    """Find out whether a model is worth building."""

    file: File = None
    model: ModelOption = None
    values: Annotated[
        tuple[str, ...],
        Meta(
            description="Another value for a hyperparameter; may be repeated.",
            extra={"option": "--set", "metavar": "NAME=VALUE"},
        ),
    ] = ()
    snapshot: Annotated[
        str | None,
        Meta(description="On this snapshot, such as flights@s2, instead of the source.", extra={"metavar": "SNAPSHOT"}),
    ] = None
    window: Annotated[
        str | None,
        Meta(
            description="Which rows @data reads: from A on and before B, as dates or times; either may be left out.",
            extra={"metavar": "A..B"},
        ),
    ] = None
    workers: Annotated[AtLeastOne | None, Meta(description="Worker processes; one a core if left out.")] = None


class RetrainRequest(Request, frozen=True, kw_only=True):
    """Build from new rows, and let the gate judge."""

    file: File = None
    model: ModelOption = None
    snapshot: Annotated[
        str | None,
        Meta(
            description="Build from this snapshot, such as flights@s2, instead of reading the source.",
            extra={"metavar": "SNAPSHOT"},
        ),
    ] = None
    window: Annotated[
        str | None,
        Meta(
            description="Which rows @data reads: from A on and before B, as dates or times; either may be left out.",
            extra={"metavar": "A..B"},
        ),
    ] = None
    explain: Annotated[bool, Meta(description="Say of each segment why it is built or left alone.")] = False
    workers: Annotated[AtLeastOne | None, Meta(description="Worker processes; one a core if left out.")] = None


class UpRequest(TrainRequest, frozen=True, kw_only=True):
    """Build what has changed, release it, serve it."""

    port: Annotated[Port | None, Meta(description="Where the node listens; 8700 if left out.")] = None
    detach: Annotated[bool, Meta(description="Leave the node running in the background.")] = False


Environment = Annotated[
    str,
    Meta(
        description="The environment, as modelmill.toml declares it.",
        extra={"argument": True, "metavar": "ENVIRONMENT"},
    ),
]
EnvironmentOption = Annotated[
    str, Meta(description="Which environment; dev if left out.", extra={"option": "--env", "metavar": "ENVIRONMENT"})
]
ReasonOption = Annotated[str, Meta(description="Why, for whoever looks at the history.", extra={"metavar": "TEXT"})]


class PlanRequest(Request, frozen=True, kw_only=True):
    """Say what a release would do."""

    environment: Environment = ""
    model: ModelOption = None
    version: Annotated[int | None, Meta(description="Which version to release; the newest if left out.")] = None
    every: Annotated[
        bool, Meta(description="List everything that changes, not only the first few.", extra={"option": "--all"})
    ] = False
    out: Annotated[
        str | None,
        Meta(
            description="Write the plan to a file, for `modelmill deploy FILE`.",
            extra={"path": True, "option": "-o", "metavar": "FILE"},
        ),
    ] = None


class DeployRequest(Request, frozen=True, kw_only=True):
    """Release what is planned."""

    target: Annotated[
        str,
        Meta(
            description="The environment, or the file of a plan.",
            extra={"argument": True, "metavar": "ENVIRONMENT|FILE"},
        ),
    ] = ""
    model: ModelOption = None
    version: Annotated[int | None, Meta(description="Which version to release; the newest if left out.")] = None
    yes: Annotated[bool, Meta(description="Do it without asking.")] = False
    plan: Annotated[str | None, Meta(description="The id of the plan that it has to be.", extra={"metavar": "ID"})] = (
        None
    )
    reason: ReasonOption = ""
    detach: Annotated[bool, Meta(description="Do not wait for the steps of a canary.")] = False


class PromoteRequest(Request, frozen=True, kw_only=True):
    """Release a version to another environment; nothing else may change."""

    version: Annotated[
        int | None, Meta(description="The version's number.", extra={"argument": True, "metavar": "VERSION"})
    ] = None
    environment: Annotated[
        str,
        Meta(
            description="The environment, as modelmill.toml declares it.",
            extra={"option": "--to", "metavar": "ENVIRONMENT"},
        ),
    ] = ""
    model: ModelOption = None
    reason: ReasonOption = ""
    detach: Annotated[bool, Meta(description="Do not wait for the steps of a canary.")] = False


class ApproveRequest(Request, frozen=True, kw_only=True):
    """Say that a version may be released to an environment, or that it may not."""

    version: Annotated[
        int | None, Meta(description="The version's number.", extra={"argument": True, "metavar": "VERSION"})
    ] = None
    environment: Annotated[
        str,
        Meta(
            description="The environment, as modelmill.toml declares it.",
            extra={"option": "--for", "metavar": "ENVIRONMENT"},
        ),
    ] = ""
    model: ModelOption = None
    decline: Annotated[bool, Meta(description="Say that it may not; what was approved before is taken back.")] = False
    reason: ReasonOption = ""


class LoadtestRequest(Request, frozen=True, kw_only=True):
    """Find out what a version bears."""

    model: Annotated[
        str | None,
        Meta(
            description="The model, and the version if not the newest, such as air-time@3.",
            extra={"argument": True, "metavar": "[MODEL][@VERSION]"},
        ),
    ] = None
    slo: Annotated[
        str,
        Meta(
            description="What it has to bear: qps, and limits of p99, p50 and errors, such as p99=20ms,qps=2000.",
            extra={"metavar": "SLO"},
        ),
    ] = ""
    environment: EnvironmentOption = "dev"
    against: Annotated[
        str | None,
        Meta(
            description="Another version, or `live` for what the environment serves: asked in turn in the same run.",
            extra={"metavar": "VERSION"},
        ),
    ] = None
    seconds: Annotated[float, Meta(ge=2, le=600, description="How long load is sent, about.")] = 20.0
    out: Annotated[
        str | None,
        Meta(description="Where the plot is written, as .svg.", extra={"metavar": "FILE", "path": True}),
    ] = None


class RollbackRequest(Request, frozen=True, kw_only=True):
    """Go back to what an environment served before."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model, or some of its segments such as 'sales[s1,*]', and the environment; "
            "the model may be left out.",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]] ENVIRONMENT"},
        ),
    ] = ()
    to: Annotated[
        str | None,
        Meta(description="Which release, such as r11; the one before if left out.", extra={"metavar": "RELEASE"}),
    ] = None
    reason: ReasonOption = ""
    hold: Annotated[
        str | None,
        Meta(
            description="For how long nothing is released, such as 2h; until `resume` if left out.",
            extra={"metavar": "TIME"},
        ),
    ] = None


class AbRequest(Request, frozen=True, kw_only=True):
    """Have two versions serve side by side, and say which does better by an outcome that is measured."""

    version: Annotated[
        int | None,
        Meta(
            description="The version that is tried; without one, the last test is shown.",
            extra={"argument": True, "metavar": "VERSION"},
        ),
    ] = None
    environment: Annotated[
        str, Meta(description="Whose requests are shared.", extra={"option": "--in", "metavar": "ENVIRONMENT"})
    ] = "dev"
    model: ModelOption = None
    share: Annotated[
        str, Meta(description="How many of the entities the version answers, such as 10%.", extra={"metavar": "SHARE"})
    ] = "50%"
    outcome: Annotated[
        str,
        Meta(
            description="What is measured of each answer, as `labels import --outcome` names it.",
            extra={"metavar": "NAME"},
        ),
    ] = ""
    less: Annotated[bool, Meta(description="Less of it is better.")] = False
    absent: Annotated[
        float | None,
        Meta(
            description="What an answer without an outcome counts as, such as 0 where only purchases are reported; "
            "else it does not count.",
            extra={"metavar": "NUMBER"},
        ),
    ] = None
    after: Annotated[
        str | None,
        Meta(description="How old an answer has to be to count, such as 1d.", extra={"metavar": "DURATION"}),
    ] = None
    stop: Annotated[bool, Meta(description="End it: the current release answers everybody.")] = False
    reason: ReasonOption = ""


class HoldRequest(Request, frozen=True, kw_only=True):
    """Have nothing released for a while."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model and the environment; the model may be left out.",
            extra={"argument": True, "metavar": "[MODEL] ENVIRONMENT"},
        ),
    ] = ()
    reason: ReasonOption = ""
    length: Annotated[
        str | None,
        Meta(
            description="For how long, such as 2h; until `resume` if left out.",
            extra={"option": "--for", "metavar": "TIME"},
        ),
    ] = None


class ResumeRequest(Request, frozen=True, kw_only=True):
    """Lift a hold."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model and the environment; the model may be left out.",
            extra={"argument": True, "metavar": "[MODEL] ENVIRONMENT"},
        ),
    ] = ()
    reason: ReasonOption = ""


class ShadowRequest(Request, frozen=True, kw_only=True):
    """Have a version answer copies of an environment's requests, or no longer."""

    version: Annotated[
        int | None,
        Meta(
            description="The version's number; without one, all shadows are shown.",
            extra={"argument": True, "metavar": "VERSION"},
        ),
    ] = None
    environment: Annotated[
        str, Meta(description="Whose requests are copied.", extra={"option": "--in", "metavar": "ENVIRONMENT"})
    ] = "dev"
    model: ModelOption = None
    share: Annotated[
        str, Meta(description="How many of the requests are copied, such as 10%.", extra={"metavar": "SHARE"})
    ] = "100%"
    stop: Annotated[bool, Meta(description="End it; without a version, all of the model's.")] = False
    reason: ReasonOption = ""


class HistoryRequest(Request, frozen=True, kw_only=True):
    """Say what was current when."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="The model and the environment; either may be left out.",
            extra={"argument": True, "metavar": "[MODEL] [ENVIRONMENT]"},
        ),
    ] = ()
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many at most.")] = 20


class ServeRequest(Request, frozen=True, kw_only=True):
    """Serve what is released, and nothing else."""

    environment: EnvironmentOption = "dev"
    port: Annotated[Port | None, Meta(description="Where the node listens; 8700 if left out.")] = None
    host: Annotated[
        str | None, Meta(description="The address; one that others reach makes the node ask for a token.")
    ] = None
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=32)] | None, Meta(description="Processes that answer; 1 if left out.")
    ] = None
    memory: Annotated[
        str | None,
        Meta(description="What its processes may take together, such as 1GiB; half of the machine's if left out."),
    ] = None
    detach: Annotated[bool, Meta(description="Leave the node running in the background.")] = False
    restart: Annotated[
        bool,
        Meta(description="Start the running node's processes anew, one after the other; no request fails."),
    ] = False
    no_hot_path: Annotated[
        bool, Meta(description="Answer every request over plain ASGI: slower, with the same bytes.")
    ] = False


class DownRequest(Request, frozen=True, kw_only=True):
    """Stop the node."""

    environment: EnvironmentOption = "dev"


class StatusRequest(Request, frozen=True, kw_only=True):
    """Say what runs and what is released."""


class InfraRequest(Request, frozen=True, kw_only=True):
    """Say which processes of this machine are the project's."""


class PredictRequest(Request, frozen=True, kw_only=True):
    """Ask one model for the answers to rows."""

    fields: Annotated[
        tuple[str, ...],
        Meta(
            description="The fields of one row, as NAME=VALUE; one without `=` is the model.",
            extra={"argument": True, "metavar": "[NAME=VALUE]..."},
        ),
    ] = ()
    row: Annotated[
        tuple[str, ...],
        Meta(description="May stand before the fields.", extra={"metavar": "NAME=VALUE"}),
    ] = ()
    file: Annotated[str | None, Meta(description="The model file, where the project has several.")] = None
    model: Annotated[
        str | None,
        Meta(description="`air-time`, or `air-time[UA,ORD]` to fill in the segment."),
    ] = None
    table: Annotated[
        str | None,
        Meta(
            description="A .parquet or .csv file with a row for each answer, instead of fields.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
    out: Annotated[
        str | None,
        Meta(
            description="Where the table's rows are written with their answers, as .parquet or .csv.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None
    rows: Annotated[tuple[Mapping[str, Any], ...], Meta(extra={"hidden": True})] = ()
    """Rows with typed values, from Python."""
    frame: Annotated[Any, Meta(extra={"hidden": True})] = None
    """A polars or pandas frame, from Python, instead of a table's file."""

    def written(self) -> dict[str, str]:
        """Return the fields that were written as text: name -> text."""
        return dict(pair.split("=", 1) for pair in (*self.row, *self.fields) if "=" in pair)

    def target(self) -> str | None:
        """Return the model that was named, among the fields or as an option."""
        named = [text for text in (*self.row, *self.fields) if "=" not in text]
        return self.model or (named[0] if named else None)


class ParityRequest(Request, frozen=True, kw_only=True):
    """Ask the training path what the node was asked."""

    model: Annotated[
        str | None, Meta(description="Which model; the only one if left out.", extra={"argument": True})
    ] = None
    last: Annotated[AtLeastOne, Meta(description="How many of the newest logged rows are asked again.")] = 10_000
    tolerance: Annotated[
        float,
        Meta(description="How far apart two answers may be and still be equal, as a share of the larger.", ge=0, le=1),
    ] = 1e-9


class LabelsImportRequest(Request, frozen=True, kw_only=True):
    """Take labels: what was true of answers that were given."""

    source: Annotated[
        str | None,
        Meta(
            description="A .parquet, .csv or .xlsx file, or a connection of modelmill.toml.",
            extra={"argument": True, "path": True, "metavar": "FILE"},
        ),
    ] = None
    model: Annotated[
        str | None, Meta(description="Which model; the only one if left out.", extra={"argument": True})
    ] = None
    on: Annotated[
        str | None,
        Meta(
            description="By what a label finds its answer: `request_id`, or `keys,time`; by the former if left out, "
            "where the file has such a column.",
            extra={"metavar": "COLUMNS"},
        ),
    ] = None
    columns: Annotated[
        tuple[str, ...],
        Meta(
            description="What a column is called in the file; may be repeated.",
            extra={"option": "--column", "metavar": "NAME=COLUMN"},
        ),
    ] = ()
    within: Annotated[
        str | None,
        Meta(
            description="By keys and time: how long before a label's moment its answer may have been asked for, "
            "such as 10m; at that very moment if left out.",
            extra={"metavar": "DURATION"},
        ),
    ] = None
    table: Annotated[
        str | None, Meta(description="Which table of a database or folder, or which sheet of an .xlsx book.")
    ] = None
    query: Annotated[str | None, Meta(description="SQL, where the source is a database.", extra={"metavar": "SQL"})] = (
        None
    )
    outcome: Annotated[
        str,
        Meta(
            description="The file tells something that was measured of the answers, not the target: the column's name.",
            extra={"metavar": "NAME"},
        ),
    ] = ""
    environment: Annotated[
        str | None,
        Meta(
            description="Only this environment's answers are shown; labels are of all.",
            extra={"option": "--env", "metavar": "ENVIRONMENT"},
        ),
    ] = None
    frame: Annotated[Any, Meta(extra={"hidden": True})] = None
    """A polars or pandas frame, from Python, instead of a source."""


class LabelsShowRequest(Request, frozen=True, kw_only=True):
    """Show how many answers have labels, and how good they were."""

    model: Annotated[
        str | None, Meta(description="Which model; the only one if left out.", extra={"argument": True})
    ] = None
    environment: Annotated[
        str | None,
        Meta(description="Only this environment's answers.", extra={"option": "--env", "metavar": "ENVIRONMENT"}),
    ] = None
    last: Annotated[AtLeastOne, Meta(description="How many of the newest logged rows are looked at.")] = 1_000_000
    out: Annotated[
        str | None,
        Meta(
            description="Where the answers that have a label are written, as .parquet or .csv.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None


class ReproduceRequest(Request, frozen=True, kw_only=True):
    """Build versions again from their record, and compare."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="`air-time[JFK,B6,BOS] 3`, `air-time 3` for all that it built, or `3` where there is one model.",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]] VERSION"},
        ),
    ] = ()
    sample: Annotated[
        str | None,
        Meta(description="Only so many of the segments, drawn at random.", extra={"metavar": "1%"}),
    ] = None
    place: Annotated[
        str | None,
        Meta(
            description="`here`: with the packages that are installed, not those of the lock.",
            extra={"option": "--in", "metavar": "here"},
        ),
    ] = None
    workers: Annotated[AtLeastOne | None, Meta(description="Worker processes; one a core if left out.")] = None


class DiffRequest(Request, frozen=True, kw_only=True):
    """Compare two things of one kind."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="Two versions (`air-time 2 3`, `air-time[JFK,B6,BOS] 2 3`), two releases (`r1 r2`), "
            "or two snapshots (`flights@s1 flights@s2`).",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]] A B"},
        ),
    ] = ()
    answers: Annotated[bool, Meta(description="Ask both the same rows, and say how answers moved.")] = False
    every: Annotated[
        bool, Meta(description="Give the metrics of every segment, not of a few.", extra={"option": "--all"})
    ] = False


class ExportRequest(Request, frozen=True, kw_only=True):
    """Write a snapshot's rows."""

    snapshot: Annotated[
        str | None,
        Meta(description="`flights@s1`, or a dataset for its newest.", extra={"argument": True}),
    ] = None
    out: Annotated[
        str | None,
        Meta(
            description="The file, as .parquet or .csv; one that is there is replaced.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None


class DataDiffRequest(Request, frozen=True, kw_only=True):
    """Compare two snapshots."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="Two snapshots: `flights@s1 flights@s2`; a dataset's name is its newest.",
            extra={"argument": True, "metavar": "A B"},
        ),
    ] = ()


class AuditRequest(Request, frozen=True, kw_only=True):
    """Say at which level a model is."""

    model: Annotated[
        str | None, Meta(description="Which model; each of them if left out.", extra={"argument": True})
    ] = None
    fail_under: Annotated[
        Annotated[int, Meta(ge=1, le=4)] | None,
        Meta(description="Exit with 3 where a model is below this level.", extra={"metavar": "LEVEL"}),
    ] = None


class SearchRequest(Request, frozen=True, kw_only=True):
    """Find versions."""

    model: Annotated[
        str | None,
        Meta(description="`air-time` or `air-time[UA,ORD]`.", extra={"argument": True}),
    ] = None
    segment: Annotated[str | None, Meta(description="Segments that begin so, such as UA.")] = None
    tag: Annotated[
        str | None,
        Meta(description="A tag of the version.", extra={"metavar": "KEY[=VALUE]"}),
    ] = None
    where: Annotated[
        str | None,
        Meta(description="A condition on a metric, such as 'mae < 10'.", extra={"metavar": "CONDITION"}),
    ] = None
    every: Annotated[
        bool,
        Meta(description="Old versions too, not only those that answer.", extra={"option": "--all"}),
    ] = False
    limit: Annotated[int, Meta(description="How many at most.", ge=1, le=1000)] = 50
    after: Annotated[
        str | None,
        Meta(description="Where the page before has ended.", extra={"metavar": "CURSOR"}),
    ] = None


class ExplainRequest(Request, frozen=True, kw_only=True):
    """Say what answers, and why."""

    what: Annotated[
        str,
        Meta(
            description="The model, or one of its segments such as 'air-time[UA,ORD]'.",
            extra={"argument": True, "metavar": "[MODEL[SEGMENT]]"},
        ),
    ] = ""
    environment: Annotated[
        str,
        Meta(description="Which environment; dev if left out.", extra={"option": "--in", "metavar": "ENVIRONMENT"}),
    ] = "dev"


class ShowRequest(Request, frozen=True, kw_only=True):
    """Show one thing."""

    what: Annotated[
        tuple[str, ...],
        Meta(
            description="`air-time`, `air-time[UA,ORD] 3`, `run 3`, `flights@s1` or `study NAME`.",
            extra={"argument": True, "metavar": "WHAT..."},
        ),
    ] = ()


class ImportRequest(Request, frozen=True, kw_only=True):
    """Take a snapshot of rows."""

    source: Annotated[
        str | None,
        Meta(
            description="A .parquet, .csv or .xlsx file, or a connection of modelmill.toml; "
            "what the model file reads if left out.",
            extra={"argument": True, "path": True},
        ),
    ] = None
    table: Annotated[
        str | None, Meta(description="Which table of a database or folder, or which sheet of an .xlsx book.")
    ] = None
    query: Annotated[str | None, Meta(description="SQL, where the source is a database.", extra={"metavar": "SQL"})] = (
        None
    )
    dataset: Annotated[
        str | None,
        Meta(description="The name of the dataset; what the model reads if left out."),
    ] = None
    file: Annotated[str | None, Meta(description="The model file whose schema the rows must keep.")] = None
    model: ModelOption = None
    frame: Annotated[Any, Meta(extra={"hidden": True})] = None
    """A polars or pandas frame, from Python, instead of a source."""


class AppendRequest(ImportRequest, frozen=True, kw_only=True):
    """Add rows to the newest snapshot."""

    window: Annotated[
        str | None,
        Meta(
            description="Without a source: which rows @data reads, from A on and before B, as dates or times.",
            extra={"metavar": "A..B"},
        ),
    ] = None


class InferRequest(Request, frozen=True, kw_only=True):
    """Guess a schema from a sample."""

    source: Annotated[
        str | None,
        Meta(description="A .parquet, .csv or .xlsx file.", extra={"argument": True, "metavar": "FILE", "path": True}),
    ] = None
    target: Annotated[
        str | None, Meta(description="The column that is to be predicted.", extra={"metavar": "COLUMN"})
    ] = None
    by: Annotated[
        str | None, Meta(description="The columns of the segments' key.", extra={"metavar": "COLUMN,COLUMN"})
    ] = None
    time: Annotated[
        str | None,
        Meta(
            description="The column that orders the rows; the only date or time if left out.",
            extra={"metavar": "COLUMN"},
        ),
    ] = None
    name: Annotated[str, Meta(description="The name of the class.")] = "Row"
    out: Annotated[
        str | None,
        Meta(description="Where it is written, instead of printed.", extra={"metavar": "FILE", "path": True}),
    ] = None


class SnapshotListRequest(Request, frozen=True, kw_only=True):
    """List snapshots."""

    dataset: Annotated[str | None, Meta(description="Only this dataset's.", extra={"argument": True})] = None


class SnapshotShowRequest(Request, frozen=True, kw_only=True):
    """Show one snapshot."""

    snapshot: Annotated[
        str | None,
        Meta(
            description="`flights@s1`, a dataset for its newest, or `predictions/air-time` for what a node has logged.",
            extra={"argument": True},
        ),
    ] = None
    last: Annotated[AtLeastOne | None, Meta(description="Of predictions: only so many of the newest rows.")] = None
    out: Annotated[
        str | None,
        Meta(
            description="Of predictions: where the rows are written, as .parquet or .csv.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None


class FsckRequest(Request, frozen=True, kw_only=True):
    """Look through the whole store."""

    repair: Annotated[bool, Meta(description="Remove what interrupted runs left behind; nothing that a row names.")] = (
        False
    )


class DoctorRequest(Request, frozen=True, kw_only=True):
    """Look at the surroundings."""
