"""What the verbs that fit are asked."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill.requests.parts import AtLeastOne, File, ModelOption, Port, Request


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
