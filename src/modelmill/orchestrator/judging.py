"""What a retraining would change is put before the gate: each segment's new answers beside those that it got until now.

What is compared are answers, not models: where the pooled model answers for a segment, on either side, its answers count.
All of them are given by saved versions, opened as a batch opens them, to the test rows of the new snapshot. The pooled model
is judged first, then the models of levels, the widest first, then the segments: each beside what those before it came to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from modelmill.build.gating import Candidate, Gate, compare
from modelmill.build.levels import Group, Places, groups_of
from modelmill.build.pairing import Paired
from modelmill.build.plan import Step
from modelmill.build.segment import mean_answers, metrics_of, tests_among
from modelmill.data.build_table import BuildTable
from modelmill.data.snapshot import Segments
from modelmill.model.fitted import Floats, make_y
from modelmill.names import POOLED, Digest, Parent, Segment, is_shared
from modelmill.orchestrator.champion import Asked, Board, champion_map, test_answers, test_places
from modelmill.orchestrator.project import Project
from modelmill.registry.fleet import SAFE, Entry, wider_than
from modelmill.registry.records import Run
from modelmill.registry.refusing import Refusal
from modelmill.store.opening import Store

Fleet = dict[Segment, Entry]
"""The newest version of every segment."""
Find = Callable[[Segment], Entry | None]
Answers = dict[tuple[Segment, Segment, Digest], Floats]
"""(segment, parent, artifact) -> what that artifact answers to the test rows of the segment that have the parent's values."""


class _Piece(NamedTuple):
    """Test rows of one segment that were all answered by the same model until now."""

    step: Step
    parent: Segment
    """Which of them: those that have the values of this parent; all where it is empty."""
    places: Places
    """Where they lie in the table."""
    champion: Entry | None


class _Judged(NamedTuple):
    """A new version, and the rows on which it is judged: of one segment, or of all that a shared model answers for."""

    segment: Segment
    pieces: list[_Piece]
    training: Places | slice


class Judge:
    """Asks the gate of a model about everything that would be answered otherwise than by its champion."""

    def __init__(self, store: Store, project: Project, champion: Run, labelled: Segments, board: Board) -> None:
        """Take the champion's run, and the table of the new rows with its labelled segments."""
        self.store, self.settings, self.model, self.board = store, project.settings, project.model, board
        self.old = champion_map(store, champion)
        self.gate = Gate(self.model.gate, metrics_of(self.model))
        self.steps = [Step(key, start, rows, Digest(data.hex()), "") for key, start, rows, data in labelled if rows]
        self.ends = np.array([step.start + step.rows for step in self.steps])
        self.tests = tests_among(labelled.rows, board.test_share)
        self.rows = BuildTable(board.table, self.model.spec).rows(0, int(labelled.rows.sum()))
        self.y = make_y(self.model.spec, self.rows).astype(np.float64)
        self.judged = 0
        """How many segments were put before the gate."""
        self.judged_parents = 0
        """How many models of levels were."""
        self.compared: Paired | None = None
        """All segments together, beside their champions."""

    def __call__(self, entries: list[Entry]) -> list[Refusal]:
        """Return what may not answer of these entries, the newest of every segment."""
        new = {entry.segment: entry for entry in entries}
        changed = list(self._changed(new))
        # All answers in one go: each round of workers would cost what judging costs.
        answers = self._ask(self._asked(changed, new))
        refusals, own = [], []
        for one in changed:
            candidate = self._candidate(one, new, answers)
            if not is_shared(one.segment) or not self.model.by:
                own.append(candidate)
            if refusal := self._refusal(one.segment, candidate):
                refusals.append(refusal)
                self._keep_champion(new, one.segment)
        self.judged_parents = sum(isinstance(one.segment, Parent) for one in changed)
        self._note(own)
        return refusals

    # ---------------------------------------------------------------- what has changed

    def _changed(self, new: Fleet) -> Iterator[_Judged]:
        """Yield what would answer otherwise than until now: the pooled model, the parents, the segments."""
        if self._differs(new, POOLED):
            champion = self.old.find(POOLED)
            yield _Judged(POOLED, [self._whole(step, champion) for step in self.steps], np.flatnonzero(~self.tests))
        for level in reversed(self.model.levels):
            for group in groups_of(level, self.rows):
                pieces = list(self._pieces_of(group)) if self._differs(new, group.parent) else []
                if pieces:
                    yield _Judged(group.parent, pieces, group.places[~self.tests[group.places]])
        for step in self.steps:
            if step.segment != POOLED and self._differs(new, step.segment):
                tests = self._places(step)
                yield _Judged(step.segment, list(self._pieces(step)), slice(step.start, int(tests[0])))

    def _differs(self, new: Fleet, segment: Segment) -> bool:
        return segment in new and new[segment].number != self._own_number(segment)

    def _own_number(self, segment: Segment) -> int | None:
        """Return the number of the segment's own version in the champion's map; None where the pooled model stands in."""
        entry, pooled = self.old.find(segment), self.old.find(POOLED)
        if entry is None or (pooled is not None and segment != POOLED and entry.artifact == pooled.artifact):
            return None
        return entry.number

    def _whole(self, step: Step, champion: Entry | None) -> _Piece:
        return _Piece(step, POOLED, self._places(step), champion)

    def _pieces_of(self, group: Group) -> Iterator[_Piece]:
        """Yield the test rows of a parent, segment by segment."""
        places = group.places[self.tests[group.places]]
        owners = np.searchsorted(self.ends, places, side="right")
        champion = _answering(self.old.find, group.parent, self.old.levels)
        for some in np.split(places, np.flatnonzero(np.diff(owners)) + 1) if len(places) else ():
            yield self._piece(
                self.steps[np.searchsorted(self.ends, some[0], side="right")], group.parent, some, champion
            )

    def _pieces(self, step: Step) -> Iterator[_Piece]:
        """Yield the test rows of a segment: together, but where each row's own region, say, has decided who answered it."""
        places, beyond = self._places(step), self.old.beyond
        if not beyond or self._own_number(step.segment) is not None:
            yield self._whole(step, self._champion(step.segment))
            return
        for group in groups_of(beyond, self.rows.take(places)):
            values = group.parent.values()
            champion = self._champion(step.segment, tuple(values[name] for name in beyond))
            yield self._piece(step, group.parent, places[group.places], champion)

    def _piece(self, step: Step, parent: Parent, places: Places, champion: Entry | None) -> _Piece:
        # All rows of a segment have one name, so that nobody is asked for them twice.
        return _Piece(step, POOLED if len(places) == len(self._places(step)) else parent, places, champion)

    def _champion(self, segment: Segment, beyond: tuple[str, ...] = ()) -> Entry | None:
        chain, _ = self.old.chain(segment, beyond)
        return chain[0] if chain and chain[0].state != SAFE else None

    # ---------------------------------------------------------------- answers

    def _asked(self, changed: Sequence[_Judged], new: Fleet) -> Iterator[tuple[_Piece, Entry]]:
        """Yield whom to ask about which rows: whoever may answer from now on, and whoever answered until now."""
        for one in changed:
            entries = list(self._who(one.segment, new))
            for piece in one.pieces:
                for entry in entries:
                    yield piece, entry
                if piece.champion is not None:
                    yield piece, piece.champion

    def _who(self, segment: Segment, new: Fleet) -> Iterator[Entry]:
        """Yield a new version, and those that answer in its place or are its measure, on either side of a refusal."""
        yield new[segment]
        if new[segment].state == "own":
            beside = [POOLED] if segment != POOLED and self.gate.asks_about_pooled else []
        else:
            beside = [POOLED, *(wider_than(segment, self.old.levels) if isinstance(segment, Parent) else ())]
        for other in beside:
            yield from (entry for entry in (new.get(other), self.old.find(other)) if entry and entry.state == "own")

    def _ask(self, asked: Iterable[tuple[_Piece, Entry]]) -> Answers:
        wanted = {
            (one.step.segment, one.parent, entry.artifact): Asked(one.step.segment, one.places, entry, one.parent)
            for one, entry in asked
        }
        ordered = sorted(wanted.values(), key=_one_model_after_the_other)
        found = test_answers(self.store, self.settings, self.old, self.board, ordered)
        return {(part.segment, part.parent, part.chain[0].artifact): numbers for part, numbers in found}

    # ---------------------------------------------------------------- judging

    def _candidate(self, one: _Judged, new: Fleet, answers: Answers) -> Candidate:
        entry = _answering(new.get, one.segment, self.old.levels) or new[one.segment]
        pooled = new.get(POOLED) if one.segment != POOLED and self.gate.asks_about_pooled else None
        champions = [piece.champion for piece in one.pieces]
        places = np.concatenate([piece.places for piece in one.pieces])
        own = _of_all(one.pieces, [entry] * len(one.pieces), answers)
        lengths: Counter[Segment] = Counter()
        for piece in one.pieces:
            lengths[piece.step.segment] += len(piece.places)
        return Candidate(
            truth=self.y[places],
            answers=own,
            champion=_of_all(one.pieces, champions, answers) if all(champions) else None,
            mean=mean_answers(self.y[one.training], own),
            pooled=_of_all(one.pieces, [pooled] * len(one.pieces), answers) if pooled else None,
            lengths=np.array(list(lengths.values())),
            rows=self.rows.take(places) if self.gate.asks_about_slices else None,
        )

    def _refusal(self, segment: Segment, candidate: Candidate) -> Refusal | None:
        found = self.gate.refusal(candidate)
        if found is None:
            return None
        condition, why = found
        return Refusal(segment, str(condition), why)

    def _keep_champion(self, new: Fleet, segment: Segment) -> None:
        """Have what was refused answered as before: what is judged after it is judged beside that."""
        new.pop(segment)
        if (champion := self.old.find(segment)) is not None and self._own_number(segment) is not None:
            new[segment] = champion

    def _note(self, candidates: Sequence[Candidate]) -> None:
        """Remember all segments that were judged, as one comparison; those without a champion have nothing to compare with."""
        self.judged = len(candidates)
        beside = [one for one in candidates if one.champion is not None]
        if beside:
            names = ("truth", "answers", "champion", "lengths")
            truth, answers, champions, lengths = (
                np.concatenate([getattr(one, name) for one in beside]) for name in names
            )
            self.compared = compare(self.model.metrics[0], truth, answers, champions, lengths)

    def _places(self, step: Step) -> Places:
        return test_places(step, self.board.test_share)


def _answering(find: Find, segment: Segment, levels: Sequence[Sequence[str]]) -> Entry | None:
    """Return who answers for the rows of a segment or a parent: its own model, or who does where that is not better."""
    entry = find(segment)
    if entry is not None and entry.state == "own":
        return entry
    for wider in wider_than(segment, levels) if isinstance(segment, Parent) else ():
        if (other := find(wider)) is not None and other.state == "own":
            return other
    return find(POOLED)


def _one_model_after_the_other(asked: Asked) -> tuple[str, int]:
    """Order what is asked such that a worker opens a model of many segments once, not anew for each of them."""
    entry = asked.entry
    return entry.artifact if is_shared(entry.segment) else "", int(asked.places[0])


def _of_all(pieces: Sequence[_Piece], entries: Sequence[Entry | None], answers: Answers) -> Floats:
    asked = zip(pieces, entries, strict=True)
    return np.concatenate([answers[one.step.segment, one.parent, entry.artifact] for one, entry in asked if entry])
