"""Champion and challenger: a release beside the one that it replaced, or is to, on the same rows, as their labels come."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import polars as pl

from modelmill.build.pairing import losses
from modelmill.errors import ModelmillError
from modelmill.names import ModelName
from modelmill.orchestrator.quality import answers_of, ask_again, release_map, truth_of
from modelmill.outcomes import ChampionVerdict
from modelmill.registry.evidence import QUALITY, all_evidence, list_evidence, record_evidence
from modelmill.registry.fleet import check_answer_alike
from modelmill.release.analysis import ALPHA, fewest_answers, mean_interval
from modelmill.release.releasing import current_release, previous_release
from modelmill.release.rollouts import DONE, list_rollouts
from modelmill.settings import Settings
from modelmill.store.opening import Store

_COMPARED = 20_000
"""How many labelled answers of a release are compared, the first: each is asked of the other. An interval that holds at all
times is one of rows that are added, not of a window that moves."""
_WORDS = {"better": True, "worse": False}


class Place(NamedTuple):
    """A model in an environment, and the metric by which its versions are ordered."""

    store: Store
    settings: Settings
    environment: str
    model: ModelName
    metric: str


def judge_champion(place: Place, labelled: pl.DataFrame) -> ChampionVerdict:
    """Compare the current release with the one before, on the rows that it answered; what is found becomes evidence.

    What cannot be said is `unknown`, with the reason: no labels, too few, no release before, or one that has no answer.
    """
    current = current_release(place.store.database, place.environment, place.model)
    if current is None:
        return ChampionVerdict(verdict="unknown", why="nothing is released")
    try:
        before = previous_release(place.store.database, place.environment, place.model, current.number)
    except ModelmillError as error:
        return ChampionVerdict(verdict="unknown", release=current.number, why=error.what)
    return _judged(place, labelled, current.number, before)


def judge_challenger(place: Place, labelled: pl.DataFrame) -> ChampionVerdict | None:
    """Compare the newest canary's candidate with what served beside it; None where it is current now, or there was none.

    A candidate that was taken back is compared as well: labels that come later say whether that was right.
    """
    newest = list_rollouts(place.store.database, place.environment, place.model, limit=1)
    if not newest or newest[0].state == DONE:
        return None
    return _judged(place, labelled, newest[0].candidate, newest[0].before)


def known_verdicts(store: Store, environment: str, model: ModelName) -> dict[int, ChampionVerdict]:
    """Return what was found last of each release of an environment: its number -> the verdict."""
    found = [one.facts for one in all_evidence(store.database, model) if one.kind == QUALITY]
    verdicts = (msgspec.convert(facts, ChampionVerdict) for facts in found if facts["environment"] == environment)
    return {verdict.release: verdict for verdict in verdicts}


def _judged(place: Place, labelled: pl.DataFrame, release: int, before: int) -> ChampionVerdict:
    some = labelled.filter(pl.col("release") == release).head(_COMPARED)
    unknown = ChampionVerdict(verdict="unknown", release=release, before=before, rows=len(some))
    needed = fewest_answers(ALPHA)
    if len(some) < needed:
        why = f"{len(some):,} of {needed} labelled answers of r{release}"
        return msgspec.structs.replace(unknown, why=why)
    try:
        found = _compared(place, some, release, before)
    except ModelmillError as error:
        return msgspec.structs.replace(unknown, why=error.what)
    _note(place, release_map(place.store, place.environment, place.model, release).header.run, found)
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
