"""The one error tree. Layer 0: it imports nothing but the standard library.

    ModelmillError
      UserError                 the caller can fix it             exit 2   HTTP 4xx
        UsageError   MM0xx      the command, the project, the settings
        DataError    MM1xx      rows are not what the schema declares
        RequestError MM2xx      one request to a serving node
        ModelError   MM3xx      the model file says something impossible
        ReproductionError MM6xx what was built cannot be built again
      Refused        MM4xx      a law, a gate or a policy said no exit 1/3 HTTP 409
      PlatformError  MM5xx      ours to fix                       exit 70  HTTP 5xx

Each class has one code, and its docstring is its default sentence. An error says, in this order, what
happened, where, the evidence, the likely cause, the one command to run next, and what was not harmed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that a misspelt `name` may have meant, best first."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.55)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean `x`?`` for a misspelt `name`, else the known names, else nothing."""
    names = list(known)
    if close := nearest(name, names):
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(f'`{n}`' for n in sorted(names)[:12])}" if names else ""


class ModelmillError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "MM000"
    status: ClassVar[int] = 500
    exit: ClassVar[int] = 70
    place: Any = None
    """Whose failure it was, for a node that counts."""

    def __init__(self, what: str = "", **parts: str) -> None:
        """Take the sentence and its parts; `parts` are those named in `PARTS`, each one line of text."""
        unknown = parts.keys() - set(PARTS)
        if unknown:
            raise TypeError(f"unknown parts of an error: {sorted(unknown)}")
        super().__init__(what)
        self.what = what or (type(self).__doc__ or "").split("\n")[0].rstrip(".")
        self.parts = {name: parts[name] for name in PARTS if parts.get(name)}

    def __str__(self) -> str:
        """Return the sentence alone."""
        return self.what

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling: errors cross process borders."""
        return _restore, (type(self), self.what, self.parts)

    def lines(self) -> Iterator[str]:
        """Yield the error as a terminal shows it: `MM101 sentence`, then one indented line a part."""
        yield f"{self.code} {self.what}"
        for name, text in self.parts.items():
            first, *rest = text.splitlines() or [""]
            yield f"  {name:<9} {first}"
            yield from (f"  {'':<9} {line}" for line in rest)

    def as_dict(self) -> dict[str, Any]:
        """Return the error as every JSON answer carries it."""
        return {"error": self.what, "code": self.code, **self.parts}


PARTS = ("where", "expected", "got", "likely", "hint", "next", "safe")
"""The parts of an error, in the order in which they are shown."""


def _restore(kind: type[ModelmillError], what: str, parts: dict[str, str]) -> ModelmillError:
    return kind(what, **parts)


class UserError(ModelmillError):
    """The request cannot be done as asked."""

    status = 400
    exit = 2


# ------------------------------------------------------------------ MM0xx: command, project, settings


class UsageError(UserError):
    """The command was not understood."""

    code = "MM001"


class ProjectNotFound(UsageError):
    """There is no modelmill project here."""

    code = "MM002"
    status = 404


class SettingInvalid(UsageError):
    """A setting has an impossible value."""

    code = "MM003"


class NameInvalid(UsageError):
    """A name is not written as names are."""

    code = "MM004"


class NotFound(UsageError):
    """There is nothing by that name."""

    code = "MM005"
    status = 404


class EnvironmentUnknown(NotFound):
    """There is no environment by that name."""

    code = "MM008"


class ExtraMissing(UsageError):
    """An optional part of modelmill is not installed."""

    code = "MM007"


# ------------------------------------------------------------------ MM1xx: data


class DataError(UserError):
    """Rows are not what the schema declares."""

    code = "MM100"
    status = 422


class ContractBroken(DataError):
    """Rows break the contract."""

    code = "MM101"


class ColumnMissing(DataError):
    """A declared column is missing from the rows."""

    code = "MM102"


class ColumnTypeChanged(DataError):
    """A column holds values of another type than declared."""

    code = "MM103"


class NoRows(DataError):
    """There are no rows."""

    code = "MM104"


class SourceUnreadable(DataError):
    """The source cannot be read."""

    code = "MM105"


class ConnectionUnknown(DataError):
    """The project declares no such connection."""

    code = "MM106"


class SnapshotBroken(DataError):
    """A snapshot's files are not the ones that were recorded."""

    code = "MM107"


class CheckFailed(DataError):
    """A check of the model file does not hold for the rows."""

    code = "MM110"


class DataStale(DataError):
    """The newest row is older than the model allows."""

    code = "MM111"


class DataShrunk(DataError):
    """Too many of the last snapshot's rows or segments are gone."""

    code = "MM112"


class LabelsContradict(DataError):
    """Two labels say different things of one answer."""

    code = "MM115"


class LabelsUnjoinable(DataError):
    """Labels of this kind cannot find the answers of this model."""

    code = "MM116"


# ------------------------------------------------------------------ MM2xx: one request to a serving node


class RequestError(UserError):
    """The request is refused."""

    code = "MM200"
    status = 422


class FieldMissing(RequestError):
    """A field of the request is missing."""

    code = "MM201"


class FieldInvalid(RequestError):
    """A field of the request has an impossible value."""

    code = "MM202"


class FieldUnknown(RequestError):
    """The request has a field that the schema does not know."""

    code = "MM203"


class BodyUnreadable(RequestError):
    """The body of the request cannot be read."""

    code = "MM204"
    status = 400


class ModelUnknown(RequestError):
    """The node serves no such model."""

    code = "MM205"
    status = 404


class RouteUnknown(RequestError):
    """The node has no such address."""

    code = "MM206"
    status = 404


class BodyTooLarge(RequestError):
    """The body of the request is too large."""

    code = "MM207"
    status = 413


class AnswerInvalid(RequestError):
    """The model gave no usable answer for these rows."""

    code = "MM208"


# ------------------------------------------------------------------ MM3xx: the model file


class TokenRefused(RequestError):
    """The request does not carry the node's token."""

    code = "MM209"
    status = 401


class HostRefused(RequestError):
    """The request came under a name that is not the node's."""

    code = "MM210"
    status = 421


class ModelError(UserError):
    """The model file says something impossible."""

    code = "MM300"


class Unsaveable(ModelError):
    """The model cannot be saved."""

    code = "MM301"


class ModelFileBroken(ModelError):
    """The model file cannot be imported."""

    code = "MM302"


class DeclarationInvalid(ModelError):
    """The declaration is not possible."""

    code = "MM303"


class ModelMissing(ModelError):
    """The model file declares no model."""

    code = "MM304"


class FeaturesNotRowWise(ModelError):
    """The features of a row depend on the rows around it."""

    code = "MM305"


class UserCodeFailed(ModelError):
    """A function of the model file raised."""

    code = "MM306"


class ModelReturned(ModelError):
    """A function of the model file returned something else than promised."""

    code = "MM307"


class AdoptionFailed(ModelError):
    """A finished model cannot be adopted."""

    code = "MM310"


class TrustNeeded(ModelError):
    """A pickle is opened only where a person says that it may be."""

    code = "MM311"
    exit = 4


class NetworkUnusable(ModelError):
    """A network of torch gives no answers in float64, or none that fit the target."""

    code = "MM312"


class OnnxRefused(ModelError):
    """An ONNX file is damaged, or does something that no graph of a node may."""

    code = "MM313"


class SafeAnswerInvalid(ModelError):
    """A declared safe answer breaks the promise of the target."""

    code = "MM320"


class LevelInvalid(ModelError):
    """A level is not possible."""

    code = "MM321"


# ------------------------------------------------------------------ MM4xx: a law, a gate or a policy said no


class Refused(ModelmillError):
    """A rule said no."""

    code = "MM400"
    status = 409
    exit = 3


class LawFailed(Refused):
    """A law does not hold."""

    code = "MM401"


class GateRefused(Refused):
    """A gate is not passed."""

    code = "MM402"


class NothingBuilt(Refused):
    """Not one segment could be built."""

    code = "MM403"
    exit = 1


class Conflict(Refused):
    """Somebody else was first."""

    code = "MM404"


class NodesLagging(Refused):
    """Some workers have not confirmed the release yet."""

    code = "MM405"
    exit = 1


class ApprovalNeeded(Refused):
    """A person must say yes."""

    code = "MM406"
    exit = 4


class OwnApproval(Refused):
    """Somebody approves what they have built themselves."""

    code = "MM407"


class ExperimentEmpty(Refused):
    """An experiment in which nothing differs from the current version."""

    code = "MM410"


class ExperimentOnOtherRows(Refused):
    """An experiment on other rows than the current version's."""

    code = "MM411"


class StudyMixed(Refused):
    """The arms of a study are on one snapshot."""

    code = "MM412"


class ExperimentAborted(Refused):
    """The model file was changed while an experiment ran."""

    code = "MM413"


class NotRetraining(Refused):
    """More than the rows has changed since the current version."""

    code = "MM414"


class PlanOutdated(Refused):
    """What a plan was made from has changed."""

    code = "MM415"


class FloorNotMet(Refused):
    """A release lacks what its environment requires."""

    code = "MM416"


class OnHold(Refused):
    """Releases of a model are on hold."""

    code = "MM417"


class ReleasesDiffer(Refused):
    """Two releases cannot answer beside each other."""

    code = "MM418"


class RehearsalFailed(Refused):
    """A release that answers otherwise, or not at all, in a fresh process."""

    code = "MM419"


class SloInvalid(UsageError):
    """An SLO is not written as one."""

    code = "MM420"


class LoadRefused(Refused):
    """Load would disturb what is being judged."""

    code = "MM421"


class LoadUnanswered(Refused):
    """The model does not answer the requests of a load test."""

    code = "MM422"


class LoadInterrupted(Refused):
    """Load could not be sent."""

    code = "MM423"


class ShadowsFull(Refused):
    """Too many releases answer copies of the requests."""

    code = "MM426"


class ShadowNeedsRelease(Refused):
    """There is no release whose requests could be copied."""

    code = "MM427"


class AbNeedsRelease(Refused):
    """There is no release beside which another version could answer."""

    code = "MM428"


class EnvironmentRefused(Refused):
    """The package environment that a version needs cannot be made here."""

    code = "MM429"


# ------------------------------------------------------------------ MM5xx: the platform


class PlatformError(ModelmillError):
    """The platform failed."""

    code = "MM500"
    status = 500
    retryable: ClassVar[bool] = False


class PortInUse(PlatformError):
    """The port is in use."""

    code = "MM501"
    exit = 2


class StoreUnavailable(PlatformError):
    """The store cannot be reached."""

    code = "MM502"
    status = 503
    retryable = True


class StoreLocked(PlatformError):
    """Another process is writing to this store."""

    code = "MM503"
    status = 503
    exit = 2
    retryable = True


class StoreFull(PlatformError):
    """The store cannot be written."""

    code = "MM504"
    status = 507


class BlobBroken(PlatformError):
    """The bytes in the store are not the ones that were recorded."""

    code = "MM505"


class SignatureInvalid(PlatformError):
    """The signature was not made by this installation."""

    code = "MM506"


class ComputeLost(PlatformError):
    """The worker processes were lost."""

    code = "MM507"
    retryable = True


class NodeNotReady(PlatformError):
    """The node is not ready."""

    code = "MM508"
    status = 503
    retryable = True
    after_s: float = 1.0
    """When to try again, in seconds: the header `retry-after`."""


class ModelBusy(NodeNotReady):
    """More requests wait for the model than it answers in time."""

    code = "MM530"


class GraphRuntimeMissing(PlatformError):
    """ONNX Runtime, which answers for a version, is not installed."""

    code = "MM531"
    exit = 2


class ProtocolUnknown(NodeNotReady):
    """The modelmill of a version's environment speaks to its node in frames that this node does not know."""

    code = "MM536"


class EnvironmentMissing(NodeNotReady):
    """The package environment that a version needs has not been made here."""

    code = "MM537"


class ModelQuarantined(NodeNotReady):
    """The model's process ended again and again, and is not started for a while."""

    code = "MM538"


class DeadlineTooShort(ModelBusy):
    """The answer would come later than its caller waits for it."""

    code = "MM541"


class DeadlinePassed(PlatformError):
    """The caller waits no more."""

    code = "MM542"
    status = 504
    retryable = True


class NodeOverloaded(ModelBusy):
    """What can wait is not answered while others wait."""

    code = "MM543"


class TooMuchHeld(NodeNotReady):
    """Too many large requests are arriving at once."""

    code = "MM544"


class StoreTooNew(PlatformError):
    """The store was written by a newer modelmill."""

    code = "MM509"
    exit = 2


class RuntimeUnknown(PlatformError):
    """A release needs a runtime that this modelmill does not have."""

    code = "MM520"


# ------------------------------------------------------------------ MM6xx: what was built is built again


class ReproductionError(UserError):
    """A version cannot be built again."""

    code = "MM600"


class LockUnsatisfiable(ReproductionError):
    """A package of the lock cannot be had."""

    code = "MM601"


class IndexUnreachable(ReproductionError):
    """The packages of the lock are not in the cache, and the package index cannot be reached."""

    code = "MM602"


class InterpreterMissing(ReproductionError):
    """The Python of the lock is not installed."""

    code = "MM603"


class RerunFailed(ReproductionError):
    """The recorded code does not run in the environment of its lock."""

    code = "MM604"


class NotRecorded(ReproductionError):
    """What the version was built from was not recorded."""

    code = "MM605"


def every_error() -> list[type[ModelmillError]]:
    """Return all classes of the tree that have a code of their own, by code."""
    found: dict[str, type[ModelmillError]] = {}
    pending: list[type[ModelmillError]] = [ModelmillError]
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if "code" in vars(kind):
            found[kind.code] = kind
    return [found[code] for code in sorted(found)]
