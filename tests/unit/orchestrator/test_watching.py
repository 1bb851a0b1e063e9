"""What the deployer reads of a node's history, and what it makes of rings: clocks that jump, days that pass, segments."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from modelmill.names import ModelName
from modelmill.orchestrator.proving import BREAKS, broken_before, held_s, judge
from modelmill.orchestrator.rolling import Deployer
from modelmill.release.policy import Limit, Policy
from modelmill.release.rollouts import STOPPED, Look, Rollout, begin
from modelmill.release.rows import lock_environment
from modelmill.release.tables import rollouts
from modelmill.serving.compared import Compared
from modelmill.serving.history import KEPT_S, WINDOW_S, History
from modelmill.serving.meters import Counted
from modelmill.serving.tallies import Tally
from modelmill.settings import load_settings
from modelmill.store.opening import Store, open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AT = NOW.timestamp()
ERRORS = Limit("error_rate", 0.01)


def rollout(step: int = 0, of: Any = "requests") -> Rollout:
    policy = Policy((0.01, 0.1, 1.0), of, 60.0, (ERRORS,))
    return Rollout(1, "prod", ModelName("sales"), 2, 1, "running", policy, step, None, NOW, NOW, None, "", "")


class Watched:
    """A history that is written and read in turn, as by a worker and the deployer."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.history, self.looks = store, History(folder), list[Look]()

    def count(self, at: float, asked: int, failed: int = 0, *, segment: str = "a", release: int = 2) -> None:
        self.history.add(7, {("sales", segment, release): Counted(asked, failed, {40: asked})}, now=at)

    def look(self) -> tuple[int, int]:
        seen = Deployer(self.store, self.history, rollout())._new(self.looks)
        self.looks.append(Look(NOW, 0, seen))
        assert sum(seen["candidate"]["classes"].values()) == seen["candidate"]["asked"]
        return seen["candidate"]["asked"], seen["candidate"]["failed"]

    def tried_before(self, ended_at: datetime) -> None:
        """Write down that the same candidate was taken back at a moment."""
        with self.store.database.write() as c:
            lock_environment(c, "prod")
            for _ in range(2):  # the first one has the number of the rollout that is looked at
                number = begin(c, "prod", ModelName("sales"), candidate=2, before=1, policy=rollout().policy, by="")
                ended = {"state": STOPPED, "ended_at": ended_at}
                c.execute(update(rollouts).where(rollouts.c.id == number).values(**ended))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with open_store(load_settings(tmp_path, {})) as store:
        yield Watched(store, tmp_path)


@pytest.mark.parametrize(("ago", "seen"), [(10, (0, 0)), (90, (50, 50))])
def test_what_an_earlier_try_failed_in_the_same_minute_is_not_held_against_the_next(
    watched: Watched, ago: int, seen: tuple[int, int]
) -> None:
    watched.tried_before(NOW + timedelta(seconds=30 - ago))
    watched.count(AT + 1, 50, 50)
    assert watched.look() == seen
    watched.count(AT + 40, 10, 1)
    assert watched.look() == (10, 1)


def test_every_request_is_seen_once(watched: Watched) -> None:
    assert watched.look() == (0, 0)
    for place, seconds in enumerate((0, 10, 50, 61, 62, 200, 201)):
        watched.count(AT + seconds, 10 + place, place)
        assert watched.look() == (10 + place, place)
        assert watched.look() == (0, 0)


def test_a_clock_that_is_set_back_hides_nothing(watched: Watched) -> None:
    watched.count(AT + 120, 10)
    assert watched.look() == (10, 0)
    for seconds in (-3600, -3500, 60, 130, 190):
        watched.count(AT + seconds, 5, 1)
        assert watched.look() == (5, 1)


def test_a_clock_that_is_set_forward_hides_nothing(watched: Watched) -> None:
    watched.count(AT, 10)
    assert watched.look() == (10, 0)
    for seconds in (7200, 7201, 60, 120):
        watched.count(AT + seconds, 5, 1)
        assert watched.look() == (5, 1)


def test_a_canary_of_days_is_seen_to_its_end(watched: Watched) -> None:
    hours = int(3 * KEPT_S / 3600)
    for hour in range(hours):
        watched.count(AT + 3600 * hour, 10, 1)
        assert watched.look() == (10, 1)
    assert hours * 3600 > KEPT_S + WINDOW_S


@pytest.mark.parametrize(
    ("gaps", "held"),
    [
        ([2.0] * 30, 60.0),
        ([2.0] * 15 + [3600.0] + [2.0] * 14, 64.0),  # set forward: an hour that nobody looked at is no hour
        ([2.0] * 15 + [-3600.0] + [2.0] * 14, 58.0),
    ],
)
def test_how_long_a_step_was_held(gaps: list[float], held: float) -> None:
    at, looks = NOW, []
    for gap in gaps:
        at += timedelta(seconds=gap)
        looks.append(Look(at, 0, {}))
    assert held_s(rollout(), looks, at) == pytest.approx(held)


# ------------------------------------------------------------------ rings


def ring(step: int, broken: int, other: int, *, asked: int = 100, failed: int = 0, before: int = 0) -> Look:
    """Return a look at a ring of 5,000 segments, in which some begin to fail."""
    size = (50, 500)[step]
    names = [f"s{before + n}" for n in range(broken)], [f"t{before + n}" for n in range(other)]
    sides = {
        "candidate": {"names": names[0], "sound": size - before},
        "other": {"names": names[1], "sound": 5_000 - size - before},
    }
    candidate = {"asked": asked, "failed": failed, "classes": {"40": asked}}
    return Look(
        NOW, step, {"candidate": candidate, "other": {**candidate, "failed": 0}, "broken": dict.fromkeys(BREAKS, sides)}
    )


def test_a_segment_that_always_failed_is_no_proof_however_often_it_is_asked() -> None:
    first = ring(0, 1, 99, failed=2)
    later = [ring(0, 0, 0, failed=2, before=1)] * 50
    limit = Policy((0.01, 0.1, 1.0), "segments", 60.0, (Limit("error_rate", 0.5),))
    judged = judge(Rollout(**{**as_dict(rollout()), "policy": limit}), [first, *later])
    assert judged.verdict == "pass", judged


def as_dict(one: Rollout) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Rollout.__struct_fields__}


def test_segments_that_break_in_a_ring_are_heard_though_few_requests_fail() -> None:
    clean = [ring(0, 0, 0, asked=10_000)] * 20
    judged = judge(rollout(step=1, of="segments"), [*clean, ring(1, 4, 0, asked=2_000, failed=4)])
    assert judged.verdict == "fail"
    assert "more segments begin to fail than beside it: 4 beside 0, such as s0, s1" in judged.why


def test_a_ring_is_not_passed_by_what_the_ring_before_has_shown() -> None:
    clean = [ring(0, 0, 0, asked=10_000)] * 20
    assert judge(rollout(step=0, of="segments"), clean).verdict == "pass"
    assert judge(rollout(step=1, of="segments"), [*clean, ring(1, 0, 0, asked=100)]).verdict == "undecided"
    assert judge(rollout(step=1, of="segments"), [*clean, ring(1, 0, 0, asked=1_000)]).verdict == "pass"


def test_what_only_a_later_step_brings_is_not_hidden_by_the_good_before() -> None:
    def requests(step: int, failed: int) -> Look:
        sides = {"candidate": (1_000, failed), "other": (9_000, 9 * 5)}
        return Look(NOW, step, {n: {"asked": a, "failed": f, "classes": {"40": a}} for n, (a, f) in sides.items()})

    before, after = [requests(0, 5)] * 500, [requests(1, 25)] * 2
    loose = Policy((0.1, 0.5, 1.0), "requests", 60.0, (Limit("error_rate", 0.2),))
    later = Rollout(**{**as_dict(rollout(step=1)), "policy": loose})
    assert judge(later, before).verdict == "pass"
    assert judge(later, [*before, *after]).verdict == "fail"


def one_break(step: int, *, names: int = 1, seconds: float = 2.0, still: bool = True) -> Look:
    """Return a look, so many seconds after the beginning, at a ring in which few requests fail, all of one store."""
    found = ring(step, names, 0, asked=5_000, failed=5)
    failing = {"candidate": {"names": ["s0"] * still, "of": 50}, "other": {"names": [], "of": 4_950}}
    return msgspec.structs.replace(found, at=NOW + timedelta(seconds=seconds), seen={**found.seen, "failing": failing})


def test_one_store_of_fifty_that_alone_of_five_thousand_begins_to_fail_is_proof() -> None:
    judged = judge(rollout(of="segments"), [one_break(0)])
    assert judged.verdict == "fail"
    assert "more segments begin to fail than beside it: 1 beside 0, such as s0" in judged.why


@pytest.mark.parametrize(
    ("until", "still", "verdict"), [(290, True, "undecided"), (310, True, "fail"), (310, False, "undecided")]
)
def test_a_store_that_seems_broken_is_not_borne_for_ever(until: int, still: bool, verdict: str) -> None:
    """One store of a ring of a tenth is chance one time in ten; that it is not shown to be well for five holds is enough."""
    first = one_break(1, seconds=0, still=still)
    later = [one_break(1, names=0, seconds=seconds, still=still) for seconds in range(2, until, 2)]
    undecided = [msgspec.structs.replace(look, seen={**look.seen, "candidate": {**SOME}}) for look in (first, *later)]
    judged = judge(rollout(step=1, of="segments"), undecided)
    assert judged.verdict == verdict, judged
    assert ("it cannot be shown to be well" in judged.why) == (verdict == "fail")


def test_a_ring_is_not_passed_while_a_store_fails_though_few_requests_are_its_own() -> None:
    failing, well = (one_break(1, names=names, still=still) for names, still in ((1, True), (0, False)))
    judged = judge(rollout(step=1, of="segments"), [failing])
    assert judged.verdict == "undecided"
    assert "segments fail that did not before: 1 beside 0, such as s0" in judged.why
    assert judge(rollout(step=1, of="segments"), [failing, well]).verdict == "pass"


SOME = {"asked": 1, "failed": 0, "classes": {"40": 1}}


class Ring:
    """A canary of segments, of which one of four is in the ring; a history beside it."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.looks = watched, list[Look]()
        drawn = [["a"], ["b"], ["c"], ["d"]]
        (digest,) = watched.store.blobs.put([msgspec.msgpack.encode(drawn)])
        policy = Policy((0.25, 1.0), "segments", 60.0, (ERRORS,))
        self.rollout = msgspec.structs.replace(rollout(of="segments"), ring=digest, policy=policy)

    def look(self) -> dict[str, Any]:
        seen = Deployer(self.watched.store, self.watched.history, self.rollout)._new(self.looks)
        self.looks.append(Look(NOW, 0, seen))
        return seen


def begun(seen: dict[str, Any], kind: str) -> tuple[list[str], list[str]]:
    sides = seen["broken"][kind]
    return sides["candidate"]["names"], sides["other"]["names"]


def test_a_segment_that_failed_before_is_not_counted(watched: Watched) -> None:
    for segment in "ab":  # "a" is in the ring, "b" is beside it
        watched.count(AT - 120, 5, 5, segment=segment, release=1)
    watched.count(AT + 1, 5, 5, segment="a", release=2)
    for segment in "bc":
        watched.count(AT + 1, 5, 5, segment=segment, release=1)
    seen = Ring(watched).look()
    assert seen["failed_before"] == {"once": ["a", "b"], "mostly": ["a", "b"]}
    assert begun(seen, "once") == begun(seen, "mostly") == ([], ["c"])
    assert seen["failing"] == {"candidate": {"names": [], "of": 1}, "other": {"names": ["c"], "of": 3}}


def test_a_segment_that_is_seldom_asked_is_heard_when_it_has_failed_twice(watched: Watched) -> None:
    seldom = Ring(watched)
    seldom.look()
    found = []
    for minutes in (5, 10, 15):
        watched.count(AT + 60 * minutes, 1, 1)
        found.append(seldom.look())
    assert [begun(seen, "once")[0] for seen in found] == [["a"], [], []]
    assert [begun(seen, "mostly")[0] for seen in found] == [[], ["a"], []]
    assert [seen["failing"]["candidate"]["names"] for seen in found] == [[], ["a"], ["a"]]
    watched.count(AT + 60 * 20, 9)
    assert seldom.look()["failing"]["candidate"]["names"] == []


def test_a_ring_waits_until_most_of_its_segments_were_asked() -> None:
    well = ring(0, 0, 0, asked=5_000)
    looks = {
        heard: msgspec.structs.replace(well, seen={**well.seen, "heard": {"segments": heard, "of": 50}})
        for heard in (39, 40)
    }
    canary = rollout(of="segments")
    waiting = judge(canary, [looks[39]])
    assert (waiting.verdict, waiting.why) == ("undecided", waiting.texts[-1])
    assert "39 of its 50 segments" in waiting.why
    assert judge(canary, [looks[40]]).verdict == judge(canary, [well]).verdict == "pass"


def test_only_segments_that_were_in_use_are_waited_for(watched: Watched) -> None:
    for segment in "ab":  # "a" is in the ring, "b" is beside it; nobody has asked for the others
        watched.count(AT - 120, 5, segment=segment, release=1)
    canary = Ring(watched)
    assert canary.look()["heard"] == {"segments": 0, "of": 1}
    watched.count(AT + 1, 1, segment="a", release=2)
    assert canary.look()["heard"] == {"segments": 1, "of": 1}


def test_a_segment_breaks_once() -> None:
    assert broken_before([ring(0, 2, 1), ring(0, 1, 0, before=2)], "once") == {"s0", "s1", "s2", "t0"}


def test_copies_are_what_is_seen_of_a_shadow(watched: Watched, tmp_path: Path) -> None:
    policy = Policy((0.0, 1.0), "requests", 60.0, (ERRORS,))
    shadow = Rollout(1, "prod", ModelName("sales"), 2, 1, "running", policy, 0, None, NOW, NOW, None, "", "")
    history, compared, seen = History(tmp_path), Compared(tmp_path), list[Look]()

    def look(rollout: Rollout) -> dict[str, Any]:
        found = Deployer(watched.store, history, rollout)._new(seen)
        seen.append(Look(NOW, rollout.step, found))
        return found

    def copied(at: float, count: int, failed: int) -> None:
        tally = Tally(count=count, failed=failed, classes={40: count})
        compared.add(7, [("sales", 2, {"a": tally})], now=at)

    assert look(shadow)["candidate"]["asked"] == 0
    for place, seconds in enumerate((0, 10, 61, 62, 200)):
        copied(AT + seconds, 10 + place, place)
        found = look(shadow)["candidate"]
        assert (found["asked"], found["failed"], found["classes"]) == (10 + place, place, {"40": 10 + place})
        assert look(shadow)["candidate"]["asked"] == 0
    copied(AT + 210, 5, 5)  # the last of them, after its step
    history.add(7, {("sales", "a", 2): Counted(3, 0, {40: 3})}, now=AT + 211)
    assert look(msgspec.structs.replace(shadow, step=1))["candidate"]["asked"] == 3
