"""How good answers were, once labels came: beside what another release would have answered to the same rows.

The comparison is paired. Every labelled answer of one release is a row whose inputs were logged; the other release is asked
them again, by the code and the bytes that it is made of (`batch.answer_rows`). So what makes a row hard falls out, and it
does not matter that the two sides were given different rows. Only the answers that were really given count for the one
side: what callers got, fallbacks included.

`excess` turns "worse by more than a share" into values whose mean is above zero exactly then, which the confidence sequence
of `release.analysis` judges: it stays valid however often one looks, and in whatever order labels come, as long as what
makes a label late is not by how much the two sides differ on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelmill.build.pairing import losses
from modelmill.data.joining import Given, Joined, join
from modelmill.data.labels import LABEL, LabelFile, list_label_files, read_labels
from modelmill.data.predictions import journal_folder, read_predictions
from modelmill.errors import ModelmillError
from modelmill.model.fitted import Floats, category_codes
from modelmill.model.metrics import MEANS, metrics_for
from modelmill.names import ModelName
from modelmill.orchestrator.batch import answer_rows
from modelmill.orchestrator.settling import shapes_of
from modelmill.registry.fleet import FleetMap, Header, decode
from modelmill.release.analysis import tally
from modelmill.release.policy import Limit
from modelmill.release.releasing import get_release
from modelmill.release.rollouts import Rollout
from modelmill.settings import Settings
from modelmill.store.opening import Store

_REST = 9.0
"""How many times as long as a look took is rested: reading many labels takes a tenth of a core at most, and traffic is
looked at in between."""
WORSE = "worse"
"""The quantity of a limit that is about labelled answers."""


class Compared(NamedTuple):
    """Labelled answers, and what another release would have answered."""

    truth: Floats
    """(rows,): numbers, or codes of classes."""
    given: Floats
    """(rows,), or (rows, classes): what callers got."""
    other: Floats


def excess(metric: str, by: float, compared: Compared) -> Floats:
    """Return values, (rows,), whose mean is above 0 exactly where a metric is worse than the other's by more than a share.

    Of an accuracy, that is where it is below (1 - `by`) times the other's; of an error, above (1 + `by`) times, which for
    the root of a mean is the mean's (1 + `by`) squared.
    """
    _, own = losses(metric, compared.truth, compared.given)
    _, other = losses(metric, compared.truth, compared.other)
    if metric == "accuracy":
        return (1 - by) * (1 - other) - (1 - own)
    allowed = (1 + by) ** 2 if metric == "rmse" else 1 + by
    return own - allowed * other


def judged(limit: Limit, compared: Compared, of_step: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Return what a look writes down of one condition: the sums that judge it, and the metric of both sides.

    `of_step`, (rows,), says which rows were asked since the step began; their sums are under ``of_step``, of all if left out.
    """
    values = excess(limit.metric, limit.limit, compared)
    seen = tally(values)
    measure = metrics_for(task_of(compared))[limit.metric]
    own, other = (measure(compared.truth, answers) for answers in (compared.given, compared.other))
    of_ring = seen if of_step is None else tally(values[of_step])
    return {**seen._asdict(), "own": own, "other": other, "of_step": of_ring._asdict()}


def task_of(compared: Compared) -> str:
    """Return the task whose metrics fit."""
    return "regression" if compared.given.ndim == 1 else "binary" if compared.given.shape[1] == 2 else "multiclass"


# ------------------------------------------------------------------ labelled answers


def join_all(answers: pl.DataFrame, store: Store, files: Sequence[LabelFile], header: Header) -> Joined:
    """Join all labels of a model to answers of one environment."""
    given = [Given(read_labels(store, file), file.within) for file in files]
    time = header.spec.time
    return join(answers, given, [column.name for column in header.spec.keys], time.name if time else None)


def truth_of(labelled: pl.DataFrame, labels: Sequence[str]) -> Floats:
    """Return the labels as metrics take them."""
    series = labelled[LABEL]
    if not labels:
        return series.cast(pl.Float64).to_numpy()
    if series.dtype == pl.Boolean:
        return series.cast(pl.Float64).to_numpy()
    return category_codes(np.array(series.to_list(), dtype=object), labels).astype(np.float64)


def answers_of(logged: pl.DataFrame, labels: Sequence[str]) -> Floats:
    """Return logged answers as numbers, (rows,), or probabilities, (rows, classes)."""
    if labels:
        return np.array(logged["probabilities"].to_list(), dtype=np.float64).reshape(len(logged), len(labels))
    return logged["answer"].cast(pl.Float64).to_numpy()


def ask_again(store: Store, settings: Settings, fleet: FleetMap, logged: pl.DataFrame) -> Floats:
    """Return what a fleet answers to logged inputs; raises what its models do where it has no answer."""
    inputs = logged["inputs"].struct.unnest()
    unused = [name for name in inputs.columns if inputs[name].is_null().all() and name not in fleet.header.by]
    return answer_rows(store, settings, fleet, inputs.drop(unused)).numbers


def release_map(store: Store, environment: str, model: ModelName, number: int) -> FleetMap:
    """Return the fleet map of a release."""
    return decode(store.blobs.get(get_release(store.database, environment, model, number).map))


def answered_by(answers: pl.DataFrame, environment: str, since: datetime | None = None) -> pl.DataFrame:
    """Return the answers of an environment's nodes, those since a moment."""
    if answers.is_empty():
        return answers
    found = answers.filter(pl.col("environment") == environment)
    return found if since is None else found.filter(pl.col("asked_at") >= since.replace(tzinfo=None))


# ------------------------------------------------------------------ what a deployer sees


class Labelled:
    """The labelled answers of a canary's candidate; what serves beside it is asked each row once."""

    def __init__(self, store: Store, settings: Settings, rollout: Rollout) -> None:
        """Take the rollout; nothing is read before `look`."""
        self._store, self._settings, self.rollout = store, settings, rollout
        self._limits = [limit for limit in rollout.policy.abort if limit.quantity == WORSE and limit.metric in MEANS]
        self._seen: tuple[int, int] | None = None
        """The step and the last import that were looked at, where all labels have joined."""
        self._asked = pl.DataFrame()
        """The rows that the other release was asked already, with the place of its answer in `_numbers`."""
        self._numbers: Floats = np.empty(0)
        self._rests_until = 0.0

    def look(self) -> dict[str, Any] | None:
        """Return what labels say of each condition now, by its text; None where there is nothing new, or while it rests.

        Where they cannot be compared - the other release has no answer to a row - that is said instead, under ``trouble``.
        """
        if not self._limits or time.monotonic() < self._rests_until:
            return None
        files = list_label_files(self._store, self.rollout.model)
        if not files or self._seen == (self.rollout.step, files[-1].number) or not journal_folder(self._store).is_dir():
            return None
        began = time.monotonic()
        try:
            return self._compared(files)
        except ModelmillError as error:
            return {"trouble": f"it cannot be compared with r{self.rollout.before}: {error.what}"}
        finally:
            self._rests_until = time.monotonic() + _REST * (time.monotonic() - began)

    def forget(self) -> None:
        """Take what was seen last for not written down: the next look sees it again."""
        self._seen, self._rests_until = None, 0.0

    def _compared(self, files: Sequence[LabelFile]) -> dict[str, Any] | None:
        rollout = self.rollout
        fleet = release_map(self._store, rollout.environment, rollout.model, rollout.before)
        logged = read_predictions(self._store, shapes_of(self._store), rollout.model, since=rollout.began_at)
        answers = answered_by(logged, rollout.environment, rollout.began_at)
        if answers.is_empty():
            return None
        joined = join_all(answers, self._store, files, fleet.header)
        found = self._judged(fleet, joined.answers.filter(pl.col("release") == rollout.candidate))
        self._seen = None if joined.parked else (rollout.step, files[-1].number)
        return found

    def _judged(self, fleet: FleetMap, labelled: pl.DataFrame) -> dict[str, Any] | None:
        if labelled.is_empty():
            return None
        labels = fleet.header.labels
        given, other = answers_of(labelled, labels), self._beside(fleet, labelled)
        compared = Compared(truth_of(labelled, labels), given, other)
        of_step = (labelled["asked_at"] >= self.rollout.step_at.replace(tzinfo=None)).to_numpy()
        return {str(limit): judged(limit, compared, of_step) for limit in self._limits}

    def _beside(self, fleet: FleetMap, labelled: pl.DataFrame) -> Floats:
        """Return what the other release answers to labelled rows, in their order."""
        row, start = ["request_id", "row", "asked_at"], len(self._asked)
        fresh = labelled.join(self._asked, on=row, how="anti") if start else labelled
        if len(fresh):
            numbers = ask_again(self._store, self._settings, fleet, fresh)
            self._numbers = np.concatenate([self._numbers, numbers]) if start else numbers
            added = fresh.select(row).with_columns(place=pl.int_range(start, start + len(fresh), dtype=pl.Int64))
            self._asked = pl.concat([self._asked, added]) if start else added
        places = labelled.select(row).join(self._asked, on=row, how="left", maintain_order="left")["place"]
        found: Floats = self._numbers[places.to_numpy()]
        return found
