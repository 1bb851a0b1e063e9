"""Studies as they are shown: each arm with its difference from the champion, corrected for the number of arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelmill.build.pairing import Paired
from modelmill.errors import NotFound, did_you_mean
from modelmill.names import ModelName
from modelmill.outcomes import ArmFacts, PairedFacts, ShowOutcome, StudyFacts
from modelmill.registry.studies import Arm, list_arms
from modelmill.store.locks import find_holder
from modelmill.store.opening import Store


def lock_of(store: Store, token: str) -> Path:
    """Return the file that the process of an arm holds while it works."""
    return store.folder / "experiments" / f"{token}.lock"


def study_facts(store: Store, model: ModelName, name: str) -> StudyFacts:
    """Return a study; every arm of it that was compared widens the interval of all."""
    before = list_arms(store.database, model, name)[name]
    lost = {arm.number for arm in before if arm.end is None and not _works(store, arm)}
    # Read again: an arm may have ended between the first look and the look at its lock.
    arms = list_arms(store.database, model, name)[name]
    compared = sum(bool(arm.end and arm.end.paired) for arm in arms)
    shown = tuple(_arm_facts(arm, compared, lost) for arm in arms)
    return StudyFacts(
        name=name,
        model=model,
        snapshot=arms[0].start.snapshot,
        champion=arms[0].start.champion,
        arms=shown,
        winner=best_of(shown),
    )


def show_study(store: Store, model: ModelName, name: str | None) -> ShowOutcome:
    """Return a study with all its arms; the newest one where none is named."""
    known = list(list_arms(store.database, model))
    if not known:
        raise NotFound(f"model `{model}` has no studies", next="modelmill experiment --set NAME=VALUE")
    if name is not None and name not in known:
        raise NotFound(f"there is no study `{name}`", likely=did_you_mean(name, known), next="modelmill show study")
    found = study_facts(store, model, name or known[-1])
    states = [arm.state for arm in found.arms]
    facts = {
        "model": model,
        "data": f"snapshot {found.snapshot[:12]}, the same for every arm",
        "arms": ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        "champion": f"version {found.champion}",
        "others": ", ".join(other for other in known if other != found.name),
    }
    return ShowOutcome(
        kind="study",
        name=found.name,
        facts={label: text for label, text in facts.items() if text},
        study=found,
        next="modelmill experiment --set NAME=VALUE",
    )


def best_of(arms: Sequence[ArmFacts]) -> int | None:
    """Return the number of the arm with the lowest loss among those that are better than the champion."""
    better = [
        (arm.compared.difference, arm.number) for arm in arms if arm.compared and arm.compared.verdict == "better"
    ]
    return min(better)[1] if better else None


def _works(store: Store, arm: Arm) -> bool:
    return find_holder(lock_of(store, arm.start.token)) is not None


def _arm_facts(arm: Arm, arms: int, lost: set[int]) -> ArmFacts:
    if arm.end is None:
        state = "interrupted" if arm.number in lost else "running"
        return ArmFacts(number=arm.number, state=state, changed=arm.start.changed)
    end = arm.end
    return ArmFacts(
        number=arm.number,
        state=end.state,
        changed=arm.start.changed,
        parameters=arm.start.parameters,
        metrics=end.metrics,
        tried=end.tried,
        failed=end.failed,
        compared=paired_facts(msgspec.convert(end.paired, Paired), arms) if end.paired else None,
        seconds=end.seconds,
    )


def paired_facts(paired: Paired, arms: int = 1) -> PairedFacts:
    """Return a comparison as it is shown; the more arms share the error, the wider its interval."""
    low, high = paired.interval(arms)
    return PairedFacts(
        measure=paired.measure,
        new=paired.first,
        champion=paired.second,
        difference=paired.difference,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        verdict=paired.verdict(arms),
        rows=paired.rows,
        segments=paired.segments,
        better=paired.better,
        worse=paired.worse,
        unjudged=paired.unjudged,
    )
