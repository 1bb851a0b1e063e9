"""`approve`: a person says that a version may be released to an environment, or that it may not.

What is approved are bytes: the version's fleet map, not its number. Whoever has built a version cannot approve it.
"""

from __future__ import annotations

import time

from modelmill.errors import OwnApproval, UsageError
from modelmill.names import ModelName
from modelmill.orchestrator.served import pick_model, pick_run
from modelmill.outcomes import ApproveOutcome, CheckFacts, Progress, no_progress
from modelmill.registry.evidence import APPROVAL, list_evidence, record_evidence
from modelmill.registry.host import read_host, user_name
from modelmill.registry.records import Run
from modelmill.requests import ApproveRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

FLOOR = "approval"


def approve(settings: Settings, request: ApproveRequest, _: Progress = no_progress) -> ApproveOutcome:
    """Record what a person says about a version and an environment."""
    began = time.monotonic()
    if request.version is None or not request.environment:
        raise UsageError("an approval needs a version and an environment", expected="modelmill approve 2 --for prod")
    settings.environment(request.environment)
    with open_store(settings, create=False) as store:
        model = pick_model(store, request.model)
        run = pick_run(store, model, request.version)
        by, built_by = user_name(), builder_of(store, run)
        if by == built_by and not request.decline:
            raise OwnApproval(
                f"version {run.number} of `{model}` was built by you, {by}: somebody else has to approve it",
                next=f"modelmill approve {run.number} --for {request.environment}      (as another user)",
                safe="nothing was recorded",
            )
        facts = {"environment": request.environment, "map": run.map, "by": by, "reason": request.reason}
        record_evidence(store.database, model, APPROVAL, number=run.number, verdict=not request.decline, facts=facts)
    return ApproveOutcome(
        environment=request.environment,
        model=model,
        version=run.number,
        approved=not request.decline,
        by=by,
        built_by=built_by,
        reason=request.reason,
        seconds=time.monotonic() - began,
        next=f"modelmill plan {request.environment}",
    )


def builder_of(store: Store, run: Run) -> str:
    """Return who has built a version."""
    return read_host(store.blobs, run.host).get("user", "")


def approval_check(store: Store, model: ModelName, run: Run, environment: str) -> CheckFacts:
    """Return what was said last about these bytes in an environment."""
    said = [
        one
        for one in list_evidence(store.database, model, run.number)
        if one.kind == APPROVAL and one.facts["environment"] == environment and one.facts["map"] == run.map
    ]
    if not said:
        return CheckFacts(floor=FLOOR, ok=None, text="nobody has said so")
    last = said[-1]
    word = "approved" if last.verdict else "declined"
    reason = f": {last.facts['reason']}" if last.facts["reason"] else ""
    text = f"{word} by {last.facts['by']}, {last.recorded_at:%Y-%m-%d %H:%M} UTC{reason}"
    return CheckFacts(floor=FLOOR, ok=last.verdict, text=text)
