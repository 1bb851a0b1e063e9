"""Releases under faults, in short: killed between steps, raced, tampered with. `make campaign` kills at every step."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import update

from modelmill.api.mill import Mill
from modelmill.errors import BlobBroken, Conflict, NodesLagging, PlanOutdated, RuntimeUnknown, SignatureInvalid
from modelmill.names import Digest
from modelmill.registry.fleet import FleetMap, decode, sign
from modelmill.registry.runs import get_run
from modelmill.registry.tables import runs
from modelmill.release.releasing import release
from modelmill.store.opening import open_store
from modelmill.store.signing import SigningKey

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import release_faults as faults  # type: ignore[import-not-found]

EVERY = 23
"""A command has some forty steps: it is killed once or twice."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Place]:
    with faults.placed(tmp_path_factory.mktemp("faults") / "p", canary=False) as found:
        yield found


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Place]:
    with faults.placed(tmp_path_factory.mktemp("canary") / "p", canary=True) as found:
        yield found


# ------------------------------------------------------------------ killed, raced


def test_deploys_and_roll_backs_that_are_killed_are_never_half(place: faults.Place) -> None:
    campaign = faults.Campaign(place, faults.steps_of(EVERY, seed=1))
    campaign.run(campaign.at_once)
    assert all(campaign.kills.values()), campaign.kills


def test_canaries_that_are_killed_are_never_half(canary: faults.Place) -> None:
    campaign = faults.Campaign(canary, faults.steps_of(EVERY, seed=1))
    campaign.run(campaign.canary)
    campaign.steps = faults.steps_of(EVERY, seed=1)
    campaign.run(campaign.taken_back)
    assert campaign.kills["canary begins"] > 0
    assert sum(campaign.kills.values()) > 5, campaign.kills


def test_of_two_deploys_at_once_one_is_told_of_the_other(place: faults.Place) -> None:
    # Of one version: the loser has seen a release that is current no more, be it when it compares or when it moves.
    told = faults.race(place, (2, 2))
    assert max(told) == "moved", told
    assert min(told) in (Conflict.code, PlanOutdated.code), told
    assert place.agree()["current"] == 2
    faults.go_back(place)
    faults.lift(place)


# ------------------------------------------------------------------ tampered with


def flip(file: Path) -> None:
    """Change a byte in the middle of a file, or change it back."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.chmod(0o600)
    file.write_bytes(content)


def map_of(place: faults.Place, version: int) -> tuple[Digest, FleetMap]:
    with open_store(place.settings, create=False) as store:
        digest = get_run(store.database, faults.MODEL, version).map
        assert digest is not None
        return digest, decode(store.blobs.get(digest))


def blob(place: faults.Place, digest: str) -> Path:
    return Path(place.store) / "blobs" / digest[:2] / digest


@contextmanager
def refused(place: faults.Place, kind: type[Exception]) -> Iterator[None]:
    """Break something in the block, and deploy it: it is refused, and what was served is served."""
    before, answer = place.agree(), place.ask("s03", 7)
    yield
    with pytest.raises(kind):
        Mill(place.folder).releases.deploy("prod", version=2)
    assert (place.published().models[faults.MODEL].release, place.ask("s03", 7)) == (before["current"], answer)


def test_a_tampered_map_is_refused(place: faults.Place) -> None:
    file = blob(place, map_of(place, 2)[0])
    with refused(place, BlobBroken):
        flip(file)
    flip(file)
    assert place.agree()["current"] == 1


def test_a_tampered_pack_is_refused(place: faults.Place) -> None:
    packs = set(map_of(place, 2)[1].packs) - set(map_of(place, 1)[1].packs)
    assert packs
    for file in (blob(place, pack) for pack in packs):
        with refused(place, BlobBroken):
            flip(file)
        flip(file)
    assert place.agree()["current"] == 1


def test_a_map_that_another_key_signed_or_another_runtime_needs_is_refused(place: faults.Place, tmp_path: Path) -> None:
    digest, fleet = map_of(place, 2)
    stranger = SigningKey.create(tmp_path)
    unknown = FleetMap.build(fleet.header, [entry._replace(runtime="abacus") for entry in fleet])
    with open_store(place.settings, create=False) as store:
        run = get_run(store.database, faults.MODEL, 2)
        mine = sign(store.key, fleet)
        of_other_runtime = sign(store.key, unknown)
        (other_map,) = store.blobs.put([of_other_runtime.content])

        def record(content: Digest, signature: bytes) -> None:
            with store.database.write() as c:
                c.execute(update(runs).where(runs.c.id == run.id).values(map=content, signature=signature))

        with refused(place, SignatureInvalid):
            record(digest, stranger.sign(mine.content))
        record(digest, mine.signature)
        with refused(place, RuntimeUnknown):
            record(other_map, of_other_runtime.signature)
        record(digest, mine.signature)
    assert place.agree()["current"] == 1


def test_what_breaks_after_it_was_looked_at_is_not_opened(place: faults.Place) -> None:
    digest, fleet = map_of(place, 2)
    answer = place.ask("s03", 7)
    file = blob(place, next(iter(set(fleet.packs) - set(map_of(place, 1)[1].packs))))
    place.close()  # another node has never opened it
    place.start()
    assert place.ask("s03", 7) == answer
    flip(file)
    with open_store(place.settings, create=False) as store:
        release(store, "prod", faults.MODEL, digest)
    with pytest.raises(NodesLagging, match="cannot serve"):
        Mill(place.folder).releases.deploy("prod", version=2)
    assert place.ask("s03", 7) == answer
    flip(file)
    assert place.agree()["current"] == 2  # it has tried again
    faults.go_back(place)
    faults.lift(place)


# ------------------------------------------------------------------ canaries


def test_a_canary_without_traffic_waits(canary: faults.Place) -> None:
    # A node writes down what it was asked every five seconds: one begun anew has nothing left of the tries before.
    canary.close()
    canary.start()
    faults.deploy(canary)
    for _ in range(5):
        faults.look(canary)
    assert canary.agree()["beside"] == (2, 0.1)
    (shown,) = Mill(canary.folder).status().canaries
    assert (shown.asked, shown.verdict) == (0, "undecided")


def test_a_node_that_joins_in_the_middle_answers_as_the_others(canary: faults.Place) -> None:
    rows = [(f"s{n % 20:02d}", n) for n in range(200)]
    before = [json.loads(canary.ask(*row)) for row in rows]
    assert {one["version"] for one in before} == {1, 2}
    canary.close()
    canary.start()
    assert [json.loads(canary.ask(*row)) for row in rows] == before
    faults.go_back(canary)
    faults.lift(canary)
