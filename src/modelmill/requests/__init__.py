"""What the verbs are asked, as values: one struct a verb, from which the command line makes its options.

Light on purpose: nothing but msgspec is imported. A field's `Meta` says how it is shown: its description is the help;
`extra` may hold ``argument`` (a place on the command line instead of an option), ``option``
(another name than the field's), ``metavar``, ``path`` (it names a file) and ``hidden``.
"""

from modelmill.requests.building import (
    AdoptRequest,
    CheckRequest,
    ExperimentRequest,
    FeasibilityRequest,
    RetrainRequest,
    TrainRequest,
    UpRequest,
)
from modelmill.requests.data import (
    AppendRequest,
    DataDiffRequest,
    ExportRequest,
    ImportRequest,
    InferRequest,
    SnapshotListRequest,
    SnapshotShowRequest,
)
from modelmill.requests.labelling import LabelsImportRequest, LabelsShowRequest
from modelmill.requests.looking import DoctorRequest, ExplainRequest, FsckRequest, SearchRequest, ShowRequest
from modelmill.requests.measuring import AbRequest, LoadtestRequest
from modelmill.requests.parts import Request
from modelmill.requests.proving import AuditRequest, DiffRequest, ReproduceRequest
from modelmill.requests.releasing import (
    ApproveRequest,
    DeployRequest,
    HistoryRequest,
    HoldRequest,
    PlanRequest,
    PromoteRequest,
    ResumeRequest,
    RollbackRequest,
    ShadowRequest,
)
from modelmill.requests.serving import (
    DownRequest,
    InfraRequest,
    ParityRequest,
    PredictRequest,
    ServeRequest,
    StatusRequest,
)

__all__ = [
    "AbRequest",
    "AdoptRequest",
    "AppendRequest",
    "ApproveRequest",
    "AuditRequest",
    "CheckRequest",
    "DataDiffRequest",
    "DeployRequest",
    "DiffRequest",
    "DoctorRequest",
    "DownRequest",
    "ExperimentRequest",
    "ExplainRequest",
    "ExportRequest",
    "FeasibilityRequest",
    "FsckRequest",
    "HistoryRequest",
    "HoldRequest",
    "ImportRequest",
    "InferRequest",
    "InfraRequest",
    "LabelsImportRequest",
    "LabelsShowRequest",
    "LoadtestRequest",
    "ParityRequest",
    "PlanRequest",
    "PredictRequest",
    "PromoteRequest",
    "ReproduceRequest",
    "Request",
    "ResumeRequest",
    "RetrainRequest",
    "RollbackRequest",
    "SearchRequest",
    "ServeRequest",
    "ShadowRequest",
    "ShowRequest",
    "SnapshotListRequest",
    "SnapshotShowRequest",
    "StatusRequest",
    "TrainRequest",
    "UpRequest",
]
