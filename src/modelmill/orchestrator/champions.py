"""Champion and challenger: what is current beside the release before, on the same rows, as their labels come."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import polars as pl

from modelmill.build.pairing import losses
from modelmill.errors import ModelmillError
from modelmill.names import ModelName
from modelmill.orchestrator.outcomes import ChampionVerdict
from modelmill.orchestrator.quality import answers_of, ask_again, release_map, truth_of
from modelmill.registry.evidence import QUALITY, list_evidence, record_evidence
from modelmill.registry.fleet import check_answer_alike
from modelmill.release.analysis import ALPHA, FEWEST_ANSWERS, mean_interval
from modelmill.release.releasing import current_release, previous_release
from modelmill.settings import Settings
from modelmill.store.opening import Store

_COMPARED = 20_000
"""How many labelled answers of a release are compared, the newest: each is asked of the release before."""
_WORDS = {"better": True, "worse": False}


class Place(NamedTuple):
    """A model in an environment, and the metric by which its versions are ordered."""

    store: Store
    settings: Settings
    environment: str
    model: ModelName
    metric: str


def judge_champion(place: Place, labelled: pl.DataFrame) -> ChampionVerdict:
    """Compare the current release with the one before on the rows that it answered; what is found becomes evidence.

    What cannot be said is `unknown`, with the reason: no labels, too few, no release before, or one that has no answer.
    """
    database, environment, model = place.store.database, place.environment, place.model
    current = current_release(database, environment, model)
    if current is None:
        return ChampionVerdict(verdict="unknown", why="nothing is released")
    some = labelled.filter(pl.col("release") == current.number).tail(_COMPARED)
    unknown = ChampionVerdict(verdict="unknown", release=current.number, rows=len(some))
    try:
        before = previous_release(database, environment, model, current.number)
        if len(some) < FEWEST_ANSWERS:
            why = f"{len(some):,} of {FEWEST_ANSWERS} labelled answers of r{current.number}"
            return msgspec.structs.replace(unknown, why=why, before=before)
        found = _compared(place, some, current.number, before)
    except ModelmillError as error:
        return msgspec.structs.replace(unknown, why=error.what)
    _note(place, release_map(place.store, environment, model, current.number).header.run, found)
    return found


def _compared(place: Place, labelled: pl.DataFrame, release: int, before: int) -> ChampionVerdict:
    own, other = (release_map(place.store, place.environment, place.model, number) for number in (release, before))
    check_answer_alike(own, other)
    labels = own.header.labels
    truth, again = truth_of(labelled, labels), ask_again(place.store, place.settings, other, labelled)
    measure, losses_ = losses(place.metric, truth, answers_of(labelled, labels))
    _, others = losses(place.metric, truth, again)
    low, high = mean_interval(losses_ - others, ALPHA)
    return ChampionVerdict(
        verdict="better" if high < 0 else "worse" if low > 0 else "no clear difference",
        release=release,
        before=before,
        measure=measure,
        rows=len(labelled),
        own=float(losses_.mean()),
        other=float(others.mean()),
        low=low,
        high=high,
    )


def _note(place: Place, number: int, found: ChampionVerdict) -> None:
    """Record a verdict as evidence of the version, unless the last one said the same."""
    database, model = place.store.database, place.model
    facts = {"environment": place.environment, **msgspec.structs.asdict(found)}
    known = [one for one in list_evidence(database, model, number) if one.kind == QUALITY]
    if not known or known[-1].facts != facts:
        verdict = _WORDS.get(found.verdict)
        record_evidence(database, model, QUALITY, number=number, verdict=verdict, facts=facts)
