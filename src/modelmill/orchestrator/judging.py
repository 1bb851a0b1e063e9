"""What a retraining would change is put before the gate: each segment's new answers beside those that it got until now.

What is compared are answers, not models: where the pooled model answers for a segment, on either side, its answers count.
All of them are given by saved versions, opened as a batch opens them, to the test rows of the new snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from modelmill.build.gating import Candidate, Gate, compare
from modelmill.build.pairing import Paired
from modelmill.build.plan import Step
from modelmill.build.segment import mean_answers, metrics_of, tests_of
from modelmill.data.build_table import BuildTable
from modelmill.data.snapshot import Segments
from modelmill.model.fitted import Floats, make_y
from modelmill.model.rows import Rows
from modelmill.names import POOLED, Digest, Segment
from modelmill.orchestrator.champion import Board, champion_map, test_answers
from modelmill.orchestrator.project import Project
from modelmill.registry.fleet import Entry
from modelmill.registry.records import Run
from modelmill.registry.refusing import Refusal
from modelmill.store.opening import Store

Fleet = dict[Segment, Entry]
"""The newest version of every segment."""
Answers = dict[tuple[Segment, Digest], Floats]
"""(segment, artifact) -> what that artifact answers to the segment's test rows."""


class Judge:
    """Asks the gate of a model about everything that would be answered otherwise than by its champion."""

    def __init__(self, store: Store, project: Project, champion: Run, labelled: Segments, board: Board) -> None:
        """Take the champion's run, and the table of the new rows with its labelled segments."""
        self.store, self.settings, self.model, self.board = store, project.settings, project.model, board
        self.old = champion_map(store, champion)
        self.gate = Gate(self.model.gate, metrics_of(self.model))
        self.steps = {
            segment: Step(segment, start, rows, Digest(data.hex()), "")
            for segment, start, rows, data in labelled
            if rows
        }
        self.rows = BuildTable(board.table, self.model.spec).rows(0, int(labelled.rows.sum()))
        self.y = make_y(self.model.spec, self.rows).astype(np.float64)
        self.judged = 0
        """How many segments were put before the gate."""
        self.compared: Paired | None = None
        """All of them together, beside their champions."""

    def __call__(self, entries: list[Entry]) -> list[Refusal]:
        """Return what may not answer of these entries, the newest of every segment."""
        new = {entry.segment: entry for entry in entries}
        changed = [step for segment, step in self.steps.items() if segment != POOLED and self._differs(new, segment)]
        pooled = self._differs(new, POOLED)
        # All answers in one go: each round of workers would cost what judging costs.
        answers = self._ask(set(self._asked(new, changed, pooled=pooled)))
        refusals = [refusal] if pooled and (refusal := self._judge_pooled(new[POOLED], answers)) else []
        if refusals:
            new.pop(POOLED)
            if (champion := self.old.find(POOLED)) is not None:
                new[POOLED] = champion
        return [*refusals, *self._judge_segments(changed, new, answers)]

    def _differs(self, new: Fleet, segment: Segment) -> bool:
        return segment in new and new[segment].number != self._own_number(segment)

    def _own_number(self, segment: Segment) -> int | None:
        """Return the number of the segment's own version in the champion's map; None where the pooled model stands in."""
        entry, pooled = self.old.find(segment), self.old.find(POOLED)
        if entry is None or (pooled is not None and segment != POOLED and entry.artifact == pooled.artifact):
            return None
        return entry.number

    # ---------------------------------------------------------------- answers

    def _asked(self, new: Fleet, changed: Sequence[Step], *, pooled: bool) -> Iterator[tuple[Step, Entry]]:
        """Yield whom to ask about which segment's test rows: whoever answers now, and whoever answered before."""
        every = self.steps.values() if pooled else changed if POOLED in new else ()
        for step in every:
            yield step, new[POOLED]
            if (before := self.old.find(POOLED)) is not None:
                yield step, before
        for step in changed:
            yield step, new[step.segment]
            if (champion := self._champion(step.segment)) is not None:
                yield step, champion

    def _ask(self, asked: Collection[tuple[Step, Entry]]) -> Answers:
        ordered = sorted(asked, key=lambda pair: (pair[0].start, pair[1].artifact))
        found = test_answers(self.store, self.settings, self.old, self.board, ordered)
        return {(segment, entry.artifact): numbers for segment, entry, numbers in found}

    def _champion(self, segment: Segment) -> Entry | None:
        if self.old.find(segment) is None and self.old.find(POOLED) is None:
            return None
        return self.old.entry_for(segment)[0]

    # ---------------------------------------------------------------- judging

    def _judge_pooled(self, entry: Entry, answers: Answers) -> Refusal | None:
        """Judge the pooled model on the test rows of all segments."""
        champion, steps = self.old.find(POOLED), list(self.steps.values())
        own = _of_all(steps, entry, answers)
        candidate = Candidate(
            truth=np.concatenate([self._truth(step) for step in steps]),
            answers=own,
            champion=_of_all(steps, champion, answers) if champion else None,
            mean=mean_answers(np.concatenate([self._training(step) for step in steps]), own),
            pooled=None,
            lengths=np.array([self._tests(step) for step in steps]),
            rows=self._test_rows(steps),
        )
        if not self.model.by:
            self._note([candidate])
        return self._refusal(POOLED, candidate)

    def _judge_segments(self, steps: Sequence[Step], new: Fleet, answers: Answers) -> Iterator[Refusal]:
        candidates = [self._candidate(step, new, answers) for step in steps]
        if self.model.by:
            self._note(candidates)
        for step, candidate in zip(steps, candidates, strict=True):
            if refusal := self._refusal(step.segment, candidate):
                yield refusal

    def _candidate(self, step: Step, new: Fleet, answers: Answers) -> Candidate:
        entry, champion, pooled = new[step.segment], self._champion(step.segment), new.get(POOLED)
        if entry.state == "pooled" and pooled is not None:
            entry = pooled  # it answers in the segment's place, where its own model is not better
        own = answers[step.segment, entry.artifact]
        return Candidate(
            truth=self._truth(step),
            answers=own,
            champion=answers[step.segment, champion.artifact] if champion else None,
            mean=mean_answers(self._training(step), own),
            pooled=answers[step.segment, pooled.artifact] if pooled else None,
            lengths=np.array([self._tests(step)]),
            rows=self._test_rows([step]),
        )

    def _refusal(self, segment: Segment, candidate: Candidate) -> Refusal | None:
        found = self.gate.refusal(candidate)
        if found is None:
            return None
        condition, why = found
        return Refusal(segment, str(condition), why)

    def _note(self, candidates: Sequence[Candidate]) -> None:
        """Remember all that were judged, as one comparison; those without a champion have nothing to be compared with."""
        self.judged = len(candidates)
        beside = [one for one in candidates if one.champion is not None]
        if beside:
            names = ("truth", "answers", "champion", "lengths")
            truth, answers, champions, lengths = (
                np.concatenate([getattr(one, name) for one in beside]) for name in names
            )
            self.compared = compare(self.model.metrics[0], truth, answers, champions, lengths)

    # ---------------------------------------------------------------- rows

    def _tests(self, step: Step) -> int:
        return tests_of(step.rows, self.board.test_share)

    def _truth(self, step: Step) -> Floats:
        return self.y[self._places(step)]

    def _test_rows(self, steps: Sequence[Step]) -> Rows | None:
        """Return the test rows of segments, one after the other; None where no condition is about a slice."""
        if not any(condition.on for condition in self.gate.conditions):
            return None
        if len(steps) == 1:
            return self.rows.take(self._places(steps[0]))
        places = [np.arange(which.start, which.stop) for which in map(self._places, steps)]
        return self.rows.take(np.concatenate(places))

    def _places(self, step: Step) -> slice:
        return slice(step.start + step.rows - self._tests(step), step.start + step.rows)

    def _training(self, step: Step) -> Floats:
        return self.y[step.start : step.start + step.rows - self._tests(step)]


def _of_all(steps: Sequence[Step], entry: Entry, answers: Answers) -> Floats:
    return np.concatenate([answers[step.segment, entry.artifact] for step in steps])
