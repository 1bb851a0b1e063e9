"""The deployer: looks at a canary again and again, takes its next step, or takes it back.

Run by the node that serves it, as ``python -m modelmill.orchestrator.rolling PROJECT ENVIRONMENT``, and again whenever it
has ended while a canary still runs; it ends with the node. All that it knows is in rows: it may be killed at any moment,
and several may run.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelmill.compute.worker import die_with
from modelmill.errors import Conflict, ModelmillError
from modelmill.names import ModelName, format_segment
from modelmill.orchestrator.proving import LOOK_S, breaking, held_s, judge, pause_s
from modelmill.orchestrator.quality import Labelled
from modelmill.release.releasing import drawn_segments
from modelmill.release.rollouts import (
    RUNNING,
    Look,
    Rollout,
    list_looks,
    list_rollouts,
    open_rollout,
    record_look,
    ring_size,
)
from modelmill.release.staging import advance, stop
from modelmill.serving.compared import Compared
from modelmill.serving.control import run_folder
from modelmill.serving.history import WINDOW_S, History, Seen
from modelmill.serving.meters import CLASSES, added
from modelmill.serving.tallies import Tally as Copied
from modelmill.settings import Settings, load_settings
from modelmill.store.opening import Store, open_store
from modelmill.store.tables import now

_BY = "the deployer"
_PAST_S = 3600
"""How much of what segments were asked before a canary says which of them failed already."""
_EMPTY = Seen(0, 0, (0,) * CLASSES)


class Deployer:
    """Watches one rollout."""

    def __init__(self, store: Store, history: History, rollout: Rollout, labelled: Labelled | None = None) -> None:
        """Take what the node has counted, and how far the rollout has come; `labelled` looks for labels."""
        self.store, self.history, self.rollout, self.labelled = store, history, rollout, labelled
        self.compared = Compared(history.folder)

    def look(self) -> Rollout:
        """Look once: write down what is new, and do what follows from all that was seen."""
        looks = list_looks(self.store.database, self.rollout)
        seen = self._new(looks)
        if not record_look(self.store.database, self.rollout, len(looks), seen):
            if self.labelled:
                self.labelled.forget()
            return self.rollout  # another deployer looks at it as well, and was first
        judged = judge(self.rollout, [*looks, Look(now(), self.rollout.step, seen)])
        if judged.verdict == "fail":
            return stop(self.store, self.rollout, judged.why, _BY)
        if self.rollout.policy.goal is not None:  # an A/B test goes on until somebody ends it
            return self.rollout
        if judged.verdict == "pass" and held_s(self.rollout, looks, now()) >= self.rollout.policy.hold_s:
            return advance(self.store, self.rollout, "; ".join(judged.texts), _BY)
        return self.rollout

    def _new(self, looks: Sequence[Look]) -> dict[str, Any]:
        """Return what both sides were asked since the look before, and from where the next look reads on.

        Read on from the minute of the look before, less what that has counted of it: what is older may be gone by now.
        """
        began = int(self.rollout.began_at.timestamp() // WINDOW_S * WINDOW_S)
        before: Mapping[str, Any] = looks[-1].seen["counted"] if looks else {}
        window = before.get("window", began)
        minutes = self.history.sides(self.rollout.model, window)
        found = self._counted(minutes)
        copies = self._copies()
        found["copies"] = _numbers(Seen(copies.count, copies.failed, tuple(copies.listed())))
        # What came before it all began: of the candidate nothing, unless it was tried, and taken back, in the same minute.
        tried = self._tried_since(began)
        nothing = {"candidate": _numbers(_EMPTY), "copies": _numbers(_EMPTY)}
        before = {**nothing, **(before or (found if tried else {"other": found["other"]}))}
        newest = max(minutes, default=window)
        seen = {name: _since(found[name], before[name]) for name in found}
        if self.rollout.is_shadow:  # nobody asks it: what it answers to copies is all that is known of it
            seen |= {"candidate": seen["copies"], "compared": copies.as_dict()}
        counted = {"window": newest, "copies": found["copies"], **self._counted({newest: minutes.get(newest, {})})}
        seen |= {"counted": counted}
        if self.rollout.policy.of == "segments":
            seen |= self._segments(looks, began + WINDOW_S if tried else began)
        quality = self.labelled.look() if self.labelled else None
        return seen | ({"quality": quality} if quality else {})

    def _tried_since(self, moment: float) -> bool:
        """Return whether the candidate was beside the current release before, and as late as that minute."""
        earlier = list_rollouts(self.store.database, self.rollout.environment, self.rollout.model)
        return any(
            one.id != self.rollout.id
            and one.candidate == self.rollout.candidate
            and one.ended_at is not None
            and one.ended_at.timestamp() >= moment
            for one in earlier
        )

    def _counted(self, minutes: Mapping[int, Mapping[int, Seen]]) -> dict[str, Any]:
        """Return what both sides were asked in some minutes together."""
        numbers = {"candidate": self.rollout.candidate, "other": self.rollout.before}
        return {
            name: _numbers(_together([of[number] for of in minutes.values() if number in of]))
            for name, number in numbers.items()
        }

    def _copies(self) -> Copied:
        """Return the copies that the candidate answered at its first step."""
        began = self.rollout.began_at.timestamp()
        has_copies = self.rollout.policy.has_shadow
        return self.compared.whole(self.rollout.model, self.rollout.candidate, began) if has_copies else Copied()

    def _segments(self, looks: Sequence[Look], since: int) -> dict[str, Any]:
        """Return which segments have begun to fail since a minute: seldom asked ones are heard when they have been asked."""
        rollout, failing = self.rollout, self.history.failing
        drawn = [format_segment(tuple(one)) for one in drawn_segments(self.store, rollout)]
        ring = set(drawn[: ring_size(rollout, len(drawn))])
        asked_before = self.history.asked_of(rollout.model, rollout.before, since - _PAST_S, until=since)
        heard = ring & asked_before & self.history.asked_of(rollout.model, rollout.candidate, since)
        before = {} if looks else failing(rollout.model, since - _PAST_S, until=since).get(rollout.before, {})
        counts = failing(rollout.model, since)
        found = breaking(
            looks,
            before,
            {"candidate": ring, "other": set(drawn) - ring},
            {"candidate": counts.get(rollout.candidate, {}), "other": counts.get(rollout.before, {})},
        )
        return found | {"heard": {"segments": len(heard), "of": len(ring & asked_before)}}


def _together(several: Sequence[Seen]) -> Seen:
    return Seen(sum(s.asked for s in several), sum(s.failed for s in several), added(s.classes for s in several))


def _numbers(seen: Seen) -> dict[str, Any]:
    """Return counts as JSON has them: of the classes only those in which there is anything."""
    classes = {str(place): count for place, count in enumerate(seen.classes) if count}
    return {"asked": seen.asked, "failed": seen.failed, "classes": classes}


def _since(counted: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was counted since; where a history was deleted, and begins anew, that is never less than nothing."""
    classes = {place: count - before["classes"].get(place, 0) for place, count in counted["classes"].items()}
    return {
        "asked": max(0, counted["asked"] - before["asked"]),
        "failed": max(0, counted["failed"] - before["failed"]),
        "classes": {place: count for place, count in classes.items() if count > 0},
    }


# ------------------------------------------------------------------ the loop


class Watch:
    """Looks at all rollouts of an environment, at each when it is due."""

    def __init__(self, store: Store, folder: Path, environment: str, settings: Settings | None = None) -> None:
        """Take the store, and where the environment's node counts; without settings no labels are looked for."""
        self.store, self.environment, self.settings = store, environment, settings
        self._labelled: dict[int, Labelled] = {}
        self.history = History(run_folder(folder, environment))
        self._due: dict[int, float] = {}

    def look(self, models: Sequence[ModelName]) -> bool:
        """Look at those that are due; return whether any goes on."""
        return True in {self._look(model) for model in models}

    def _look(self, model: ModelName) -> bool:
        with self.store.database.read() as c:
            rollout = open_rollout(c, self.environment, model)
        if rollout is None or rollout.state != RUNNING:
            return False
        if time.monotonic() < self._due.get(rollout.id, 0.0):
            return True
        try:
            after = Deployer(self.store, self.history, rollout, self._labels_of(rollout)).look()
        except Conflict:  # somebody else was first: what follows from that is seen at the next look
            after = rollout
        age_s = (now() - after.step_at).total_seconds()
        self._due[rollout.id] = time.monotonic() + pause_s(age_s)
        return after.state == RUNNING

    def _labels_of(self, rollout: Rollout) -> Labelled | None:
        """Return what looks for a rollout's labels; the same again, for it knows which rows were asked."""
        if self.settings is None:
            return None
        found = self._labelled.setdefault(rollout.id, Labelled(self.store, self.settings, rollout))
        found.rollout = rollout  # it may have come a step further
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch an environment's rollouts until none goes on."""
    from modelmill.orchestrator.served import model_names

    root, environment = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load_settings(Path(root))
        with open_store(settings, create=False) as store:
            watch = Watch(store, settings.store_folder, environment, settings)
            while watch.look(model_names(store)):
                time.sleep(LOOK_S)
    except ModelmillError as error:
        sys.stderr.write(f"canaries of {environment} are not watched: {error.code} {error.what}\n")
        return 1
    return 0


if __name__ == "__main__":
    # A node that is taken down would leave it behind, and the next one starts another.
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main())
