"""The database, the registry and the releases do the same on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

import modelmill.data.tables
import modelmill.registry.tables
import modelmill.release.tables  # noqa: F401 - importing a room's tables declares them
from modelmill.errors import Conflict, NotFound, UsageError
from modelmill.names import Segment, VersionId, digest_of
from modelmill.registry.change import Change
from modelmill.registry.evidence import list_evidence, record_evidence
from modelmill.registry.lineage import changes_of_run, descent_of
from modelmill.registry.records import GATE, ChunkRecord, Run, RunStart, RunState
from modelmill.registry.refusing import Refusal, refusals_of, settle_versions
from modelmill.registry.runs import (
    abandon_runs,
    finish_run,
    get_run,
    list_failures,
    list_runs,
    record_chunk,
    recorded_chunks,
    recorded_segments,
    start_run,
    unfinished_run,
)
from modelmill.registry.search import search
from modelmill.registry.versions import (
    add_tags,
    candidate_entries,
    candidate_version,
    current_entries,
    current_version,
    get_version,
    heads,
    list_members,
    list_tags,
    list_versions,
)
from modelmill.release.pointers import find_published, open_versions
from modelmill.release.releasing import current_release, list_environments, list_releases, release, republish
from modelmill.store.migrations import VERSION_TABLE
from modelmill.store.opening import Store
from modelmill.store.tables import metadata
from modelmill.testing.samples import MODEL, sample_chunk, sample_code, sample_start

FLEET: list[Segment] = [(f"s{number:02d}",) for number in range(20)]


def begin(store: Store, **others: Any) -> Run:
    return start_run(store.database, sample_start(store.blobs, **others))


def build(store: Store, segments: list[Segment] = FLEET, **others: Any) -> Run:
    """Record a run of one chunk."""
    run = begin(store, **{key: others.pop(key) for key in ("tags", "code", "model_digest") if key in others})
    record_chunk(store.database, run, sample_chunk(store.blobs, segments, **others))
    return run


def close(store: Store, run: Run, content: bytes) -> Run:
    (map_digest,) = store.blobs.put([content])
    return finish_run(store.database, run, RunState.DONE, {"built": 20}, (map_digest, store.key.sign(content)))


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """Collect every statement that the driver executes; executemany is one."""
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(store.database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(store.database.engine, "before_cursor_execute", note)


def test_migrations_make_exactly_the_declared_tables(store: Store) -> None:
    with store.database.read() as c:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        found = compare_metadata(MigrationContext.configure(c, opts=options), metadata)
    assert found == []


def test_a_store_that_is_up_to_date_costs_one_query(store: Store) -> None:
    with counted(store) as seen:
        store.database.migrate()
    assert len(seen) == 1


def test_runs_are_numbered_without_gaps(store: Store) -> None:
    assert [begin(store).number for _ in range(3)] == [1, 2, 3]
    assert begin(store, model="another").number == 1


def test_the_same_idempotency_key_is_the_same_run(store: Store) -> None:
    start = sample_start(store.blobs, parameters={"alpha": 1.5}, tags={"team": "north"})
    run = start_run(store.database, start)
    assert start_run(store.database, start) == run
    assert (run.parameters, run.tags, run.state) == ({"alpha": 1.5}, {"team": "north"}, RunState.RUNNING)
    assert begin(store).number == 2


def test_runs_started_at_once_get_different_numbers(store: Store) -> None:
    starts = [sample_start(store.blobs) for _ in range(8)]
    numbers: list[int] = []

    def start_one(start: RunStart) -> None:
        numbers.append(start_run(store.database, start).number)

    threads = [threading.Thread(target=start_one, args=(start,)) for start in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(numbers) == list(range(1, 9))


def test_a_chunk_is_recorded_whole_and_once(store: Store) -> None:
    run = begin(store, tags={"team": "north"})
    record = sample_chunk(store.blobs, FLEET, failed=[("bad",)])
    assert record_chunk(store.database, run, record)
    assert not record_chunk(store.database, run, record)
    assert recorded_chunks(store.database, run) == {0: record.pack}
    assert recorded_segments(store.database, run) == (set(FLEET), {("bad",)})
    assert [failure.summary for failure in list_failures(store.database, run)] == ["it raised"]


def test_a_segment_is_recorded_once_in_a_run(store: Store) -> None:
    run = build(store)
    again = sample_chunk(store.blobs, [("new",), FLEET[0]], chunk=1)
    with pytest.raises(Conflict):
        record_chunk(store.database, run, again)
    assert recorded_chunks(store.database, run).keys() == {0}
    with pytest.raises(NotFound):
        current_version(store.database, MODEL, ("new",))


def test_a_chunk_that_names_a_segment_twice_is_refused(store: Store) -> None:
    run = begin(store)
    with pytest.raises(Conflict):
        record_chunk(store.database, run, sample_chunk(store.blobs, FLEET, failed=[FLEET[3]]))
    assert recorded_chunks(store.database, run) == {}


def test_a_chunk_of_nothing_but_failures(store: Store) -> None:
    run = begin(store)
    failures = sample_chunk(store.blobs, [], failed=FLEET).failures
    assert record_chunk(store.database, run, ChunkRecord(chunk=0, failures=failures))
    found = heads(store.database, MODEL)
    assert all(head.failed and head.number is None and head.identity is None for head in found.values())
    assert len(found) == 20


@pytest.mark.parametrize(("tags", "most"), [({}, 3), ({"team": "north"}, 4)])
def test_statements_per_chunk(store: Store, tags: dict[str, str], most: int) -> None:
    run = begin(store, tags=tags)
    segments = [(f"{number}",) for number in range(64)]
    with counted(store) as seen:
        record_chunk(store.database, run, sample_chunk(store.blobs, segments))
    assert len(seen) <= most, seen


def test_a_large_chunk_takes_no_more_statements_than_pages_of_a_thousand(store: Store) -> None:
    run = begin(store)
    with counted(store) as seen:
        record_chunk(store.database, run, sample_chunk(store.blobs, [(f"{n}",) for n in range(5000)]))
    assert len(seen) <= 10
    assert len(heads(store.database, MODEL)) == 5000


def test_a_failing_segment_keeps_its_version(store: Store) -> None:
    build(store)
    run = begin(store)
    record_chunk(store.database, run, sample_chunk(store.blobs, FLEET[1:], data=b"other", failed=[FLEET[0]]))
    found = heads(store.database, MODEL)
    assert (found[FLEET[0]].number, found[FLEET[0]].failed) == (1, True)
    assert (found[FLEET[1]].number, found[FLEET[1]].failed) == (2, False)
    assert found[FLEET[0]].identity != found[FLEET[1]].identity
    assert {entry.segment: entry.number for entry in current_entries(store.database, MODEL)}[FLEET[0]] == 1


def test_a_version_knows_where_it_lies_and_what_it_came_from(store: Store) -> None:
    run = begin(store)
    record = sample_chunk(store.blobs, FLEET)
    record_chunk(store.database, run, record)
    version = get_version(store.database, VersionId(MODEL, FLEET[4], 1))
    asked = record.versions[4]
    assert (version.artifact, version.offset, version.length) == (asked.artifact, asked.offset, asked.length)
    assert (version.pack, version.snapshot, version.digests.code) == (record.pack, run.snapshot, run.code)
    assert version.digests.model == run.model_digest
    assert version.metrics == {"mae": 7.5, "rmse": 15.0, "r2": 0.5}
    assert version == current_version(store.database, MODEL, FLEET[4])


def test_what_is_not_there_is_named(store: Store) -> None:
    build(store)
    with pytest.raises(NotFound, match=r"`air-time\[nowhere\]` has no version"):
        current_version(store.database, MODEL, ("nowhere",))
    with pytest.raises(NotFound, match=r"`air-time\[s01\]` has no version 7"):
        get_version(store.database, VersionId(MODEL, ("s01",), 7))
    with pytest.raises(NotFound, match="`air-time` has no run 9"):
        get_run(store.database, MODEL, 9)


@pytest.mark.parametrize(
    "key",
    [
        "a/b",
        "..",
        "'; DROP TABLE registry_version; --",
        "\N{SMILING FACE WITH SUNGLASSES}",
        "x" * 300,
        "pooled",
        "a,b]",
        " ",
    ],
)
def test_any_text_is_a_segment(store: Store, key: str) -> None:
    build(store, [(key,), ()])
    assert current_version(store.database, MODEL, (key,)).id.segment == (key,)
    assert heads(store.database, MODEL).keys() == {(key,), ()}


def test_history_pages_from_the_newest(store: Store) -> None:
    for number in range(7):
        build(store, data=b"%d" % number)
    first = list_versions(store.database, MODEL, FLEET[0], limit=4)
    second = list_versions(store.database, MODEL, FLEET[0], limit=4, after=first.after)
    assert [version.id.number for version in first.items + second.items] == [7, 6, 5, 4, 3, 2, 1]
    assert second.after is None


def test_a_run_is_what_its_versions_changed(store: Store) -> None:
    runs = [
        build(store, [*FLEET[:5], ()]),
        build(store, [*FLEET, ()], data=b"other"),
        build(store, FLEET[:2], data=b"other"),
        build(store, FLEET[:3], data=b"other", model_digest=digest_of(b"another model")),
        build(store, FLEET[:4], model_digest=digest_of(b"a third"), code=sample_code(store.blobs)),
    ]
    assert [changes_of_run(store.database, run) for run in runs] == [
        {Change.FIRST: 5},
        {Change.FIRST: 15, Change.RETRAINING: 5},
        {Change.SAME: 2},
        {Change.EXPERIMENT: 3},
        {Change.REWORK: 4},
    ]


def test_a_version_knows_what_the_one_before_it_was(store: Store) -> None:
    build(store)
    build(store, FLEET[1:])
    build(store, FLEET[:2], data=b"other")
    build(store, FLEET[:1], data=b"other", model_digest=digest_of(b"another model"))
    described = [
        descent_of(store.database, version) for version in list_versions(store.database, MODEL, FLEET[0]).items
    ]
    assert described == [
        (Change.EXPERIMENT, 3, ("model",)),
        (Change.RETRAINING, 1, ("data",)),
        (Change.FIRST, None, ()),
    ]


def test_a_model_that_is_no_fleet_changes_as_its_only_segment_does(store: Store) -> None:
    build(store, [()])
    assert changes_of_run(store.database, build(store, [()], data=b"other")) == {Change.RETRAINING: 1}


def test_members_of_a_run_page_by_page(store: Store) -> None:
    build(store)
    run = build(store, FLEET[5:])
    first = list_members(store.database, MODEL, run.number, limit=9)
    second = list_members(store.database, MODEL, run.number, limit=9, after=first.after)
    assert sorted(version.id.segment for version in first.items + second.items) == FLEET[5:]


SCORES = {segment: 1.0 + number for number, segment in enumerate(FLEET)}


def found(store: Store, limit: int = 3, **question: Any) -> list[str]:
    """Return the segments of all pages of a search."""
    page = search(store.database, **{"model": MODEL, **question}, limit=limit)
    segments = [version.id.segment[0] for version in page.items]
    while page.after:
        page = search(store.database, **{"model": MODEL, **question}, limit=limit, after=page.after)
        segments += [version.id.segment[0] for version in page.items]
    return segments


@pytest.mark.parametrize(
    ("question", "segments"),
    [
        ({}, [f"s{n:02d}" for n in range(20)]),
        ({"model": None}, [f"s{n:02d}" for n in range(20)]),
        ({"segment": "s03"}, ["s03"]),
        ({"segment": "s1*"}, [f"s1{n}" for n in range(10)]),
        ({"metric": "mae<4"}, ["s00", "s01", "s02"]),
        ({"metric": "mae >= 18"}, ["s19", "s18", "s17"]),
        ({"metric": "mae=5"}, ["s04"]),
        ({"metric": "rmse<=4"}, ["s00", "s01"]),
        ({"metric": "mae<3", "model": None}, ["s00", "s01"]),
        ({"metric": "unheard_of<3"}, []),
        ({"metric": "mae>17", "segment": "s1*", "tag": "team=north"}, ["s19", "s18", "s17"]),
        ({"tag": "team=south"}, []),
        ({"model": "nobody"}, []),
    ],
)
def test_search(store: Store, question: dict[str, Any], segments: list[str]) -> None:
    build(store, scores=SCORES, tags={"team": "north"})
    assert found(store, **question) == segments


def test_search_is_among_the_newest_versions(store: Store) -> None:
    build(store, scores=SCORES)
    build(store, [FLEET[0]], scores={FLEET[0]: 100.0}, data=b"other")
    assert found(store, metric="mae<3") == ["s01"]
    assert found(store, metric="mae>50") == ["s00"]


def test_a_score_that_is_no_number_is_found_by_no_condition(store: Store) -> None:
    build(store, scores={FLEET[0]: float("nan"), FLEET[1]: float("inf")})
    assert current_version(store.database, MODEL, FLEET[0]).score is None
    assert current_version(store.database, MODEL, FLEET[1]).metrics["mae"] is None
    assert len(found(store, metric="mae>=0")) == len(found(store, metric="mae<1e9")) == 18


@pytest.mark.parametrize("cursor", ["", "x", "!!", "lAECAwQ", "kaE=", "k6FhoWGhYQ"])
def test_a_cursor_that_is_not_ours_is_refused(store: Store, cursor: str) -> None:
    build(store)
    with pytest.raises(UsageError):
        search(store.database, MODEL, after=cursor + "\N{SNOWMAN}")
    with pytest.raises(UsageError):
        list_versions(store.database, MODEL, FLEET[0], after=cursor or "oA")


@pytest.mark.parametrize("condition", ["mae", "<3", "mae<", "mae<x", "mae!=3", "mae<1.2.3", "a b<3", "mae<3; --"])
def test_an_impossible_condition_is_refused(store: Store, condition: str) -> None:
    with pytest.raises(UsageError, match="is not a condition on a metric"):
        search(store.database, MODEL, metric=condition)


def test_tags_of_one_version(store: Store) -> None:
    build(store, tags={"team": "north"})
    version = VersionId(MODEL, FLEET[2], 1)
    for _ in range(2):
        add_tags(store.database, version, {"reviewed": "yes"})
    assert list_tags(store.database, version) == {"reviewed": ["yes"], "team": ["north"]}
    assert found(store, tag="reviewed=yes") == ["s02"]


def test_an_unfinished_run_is_found_by_its_plan(store: Store) -> None:
    run = begin(store)
    assert unfinished_run(store.database, MODEL, run.plan) == run
    assert unfinished_run(store.database, MODEL, digest_of(b"another plan")) is None
    finish_run(store.database, run, RunState.DONE, {})
    assert unfinished_run(store.database, MODEL, run.plan) is None


def test_abandoned_runs_are_not_gone_on_with(store: Store) -> None:
    old, kept = begin(store), begin(store)
    assert abandon_runs(store.database, MODEL, but=kept) == 1
    assert [run.state for run in list_runs(store.database, MODEL)] == [RunState.RUNNING, RunState.ABANDONED]
    assert get_run(store.database, MODEL, old.number).finished_at is not None


def test_runs_page_from_the_newest(store: Store) -> None:
    runs = [begin(store) for _ in range(5)]
    first = list_runs(store.database, limit=3)
    assert [run.number for run in first] == [5, 4, 3]
    assert list_runs(store.database, MODEL, before=first[-1].id) == runs[1::-1]


def test_evidence_is_appended(store: Store) -> None:
    build(store)
    record_evidence(store.database, MODEL, "law", number=1, verdict=False, facts={"failed": 3})
    record_evidence(store.database, MODEL, "owner", verdict=True, facts={})
    assert [(e.kind, e.verdict, e.facts) for e in list_evidence(store.database, MODEL, 1)] == [
        ("law", False, {"failed": 3})
    ]
    assert [e.kind for e in list_evidence(store.database, MODEL)] == ["owner"]


def test_a_release_moves_the_pointer_and_publishes_it(store: Store) -> None:
    run = close(store, build(store), b"a map")
    assert run.map
    made = release(store, "dev", MODEL, run.map, expected=0, by="me", reason="first")
    assert (made.number, made.map, made.by, made.reason) == (1, run.map, "me", "first")
    published = find_published(store.pointers, "dev")
    assert published
    assert published.revision == 1
    pointer = published.models[MODEL]
    assert (pointer.release, pointer.map, pointer.signature) == (1, run.map, run.signature)
    versions = open_versions(store.blobs, pointer)
    assert versions.maps == {run.number: (run.map, run.signature)}
    earlier = versions.pointer(run.number)
    assert earlier is not None
    assert (earlier.map, earlier.signature) == (run.map, run.signature)
    assert versions.pointer(run.number + 1) is None
    assert current_release(store.database, "dev", MODEL) == made
    assert list_environments(store.database) == ["dev"]


def test_the_same_map_is_the_same_release(store: Store) -> None:
    run = close(store, build(store), b"a map")
    assert run.map
    assert release(store, "dev", MODEL, run.map) == release(store, "dev", MODEL, run.map)
    published = find_published(store.pointers, "dev")
    assert published
    assert published.revision == 1


def test_releasing_an_earlier_map_is_a_roll_back(store: Store) -> None:
    maps = [close(store, build(store), content).map for content in (b"one", b"two")]
    for number in (0, 1, 0):
        release(store, "dev", MODEL, maps[number] or digest_of(b""))
    current = current_release(store.database, "dev", MODEL)
    assert current
    assert (current.number, current.map) == (1, maps[0])
    assert [made.number for made in list_releases(store.database, "dev", MODEL)] == [2, 1]


def test_somebody_else_was_first(store: Store) -> None:
    maps = [close(store, build(store), content).map or digest_of(b"") for content in (b"one", b"two")]
    release(store, "dev", MODEL, maps[0], expected=0)
    with pytest.raises(Conflict) as refused:
        release(store, "dev", MODEL, maps[1], expected=0)
    assert (refused.value.parts["expected"], refused.value.parts["got"]) == ("none", "r1")
    assert len(list_releases(store.database, "dev", MODEL)) == 1


def test_only_a_recorded_map_can_be_released(store: Store) -> None:
    build(store)
    with pytest.raises(NotFound):
        release(store, "dev", MODEL, digest_of(b"unknown"))
    assert list_environments(store.database) == []


def test_of_releases_at_once_one_wins_and_is_published(store: Store) -> None:
    maps = [close(store, build(store), b"%d" % number).map or digest_of(b"") for number in range(6)]
    won: list[int] = []

    def attempt(digest: Any) -> None:
        with suppress(Conflict):
            won.append(release(store, "dev", MODEL, digest, expected=0).number)

    threads = [threading.Thread(target=attempt, args=(digest,)) for digest in maps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    current = current_release(store.database, "dev", MODEL)
    published = find_published(store.pointers, "dev")
    assert won == [1]
    assert current
    assert published
    assert published.models[MODEL].map == current.map


def test_a_lost_publication_is_caught_up_with(store: Store) -> None:
    maps = [close(store, build(store), content).map or digest_of(b"") for content in (b"one", b"two")]
    release(store, "dev", MODEL, maps[0])
    stale = store.pointers.current("environment-dev.json")
    release(store, "dev", MODEL, maps[1])
    store.pointers.publish("environment-dev.json", stale or b"")
    assert republish(store, "dev").models[MODEL].map == maps[1]
    assert find_published(store.pointers, "dev") == republish(store, "dev")


def retrain(store: Store, segments: list[Segment] = FLEET, **others: Any) -> Run:
    """Record a run whose versions wait for a gate."""
    run = begin(store, kind="retrain")
    record_chunk(store.database, run, sample_chunk(store.blobs, segments, **others))
    return run


def refused(*segments: Segment) -> list[Refusal]:
    why = "mae 9, the champion's 7.5, on 40 rows: clearly worse"
    return [Refusal(segment, "no_worse(mae) than champion", why) for segment in segments]


def numbers(store: Store) -> dict[Segment, int]:
    return {entry.segment: entry.number for entry in current_entries(store.database, MODEL)}


def test_what_waits_for_its_gate_answers_nobody(store: Store) -> None:
    build(store, FLEET, scores={FLEET[0]: 7.0})
    retrain(store, FLEET, data=b"more", scores={FLEET[0]: 9.0})
    assert numbers(store) == dict.fromkeys(FLEET, 1)
    assert {entry.number for entry in candidate_entries(store.database, MODEL)} == {2}
    assert candidate_version(store.database, MODEL, FLEET[0]).id.number == 2
    assert current_version(store.database, MODEL, FLEET[0]).id.number == 1
    (found,) = search(store.database, MODEL, "s00", metric="mae < 7.2").items
    assert found.id.number == 1
    assert heads(store.database, MODEL)[FLEET[0]].number == 2


def test_a_refused_version_leaves_its_segment_to_the_champion(store: Store) -> None:
    build(store, FLEET, scores={FLEET[0]: 7.0})
    run = retrain(store, FLEET, data=b"more", scores={FLEET[0]: 9.0, FLEET[1]: 3.0})
    settle_versions(store.database, run, refused(FLEET[0]))
    assert numbers(store) == dict.fromkeys(FLEET, 2) | {FLEET[0]: 1}
    # The registry finds both by the score of what answers, and a plan knows that these rows were tried.
    (kept,) = search(store.database, MODEL, "s00", metric="mae < 7.2").items
    (new,) = search(store.database, MODEL, None, metric="mae < 3.1").items
    assert (kept.id.number, new.id.segment) == (1, FLEET[1])
    assert heads(store.database, MODEL)[FLEET[0]].number == 2
    assert heads(store.database, MODEL)[FLEET[0]].failed is False
    assert get_version(store.database, VersionId(MODEL, FLEET[0], 2)).score == 9.0
    assert list(refusals_of(store.database, MODEL, FLEET[0])) == [2]
    assert refusals_of(store.database, MODEL, FLEET[1]) == {}
    (failure,) = list_failures(store.database, run)
    said = "gate not passed: no_worse(mae) than champion"
    assert (failure.stage, failure.code, failure.summary) == (GATE, "MM402", said)


def test_a_refused_version_without_a_champion_leaves_the_segment_to_the_pooled_model(store: Store) -> None:
    run = retrain(store, FLEET[:2])
    settle_versions(store.database, run, refused(FLEET[0]))
    assert numbers(store) == {FLEET[1]: 1}
    assert heads(store.database, MODEL)[FLEET[0]].number == 1
    with pytest.raises(NotFound):
        current_version(store.database, MODEL, FLEET[0])


def test_settling_once_more_changes_nothing(store: Store) -> None:
    build(store)
    run = retrain(store, data=b"more")
    for _ in range(2):
        settle_versions(store.database, run, refused(FLEET[0]))
    settle_versions(store.database, run)
    assert numbers(store) == dict.fromkeys(FLEET, 2) | {FLEET[0]: 1}
    assert len(list(list_failures(store.database, run))) == 1


def test_the_next_version_answers_again(store: Store) -> None:
    build(store)
    settle_versions(store.database, retrain(store, data=b"more"), refused(FLEET[0]))
    build(store, FLEET[:1], data=b"most")
    assert current_version(store.database, MODEL, FLEET[0]).id.number == 3
    assert heads(store.database, MODEL)[FLEET[0]].number == 3
    assert list(refusals_of(store.database, MODEL, FLEET[0])) == [2]


def test_a_segment_that_fails_since_keeps_what_waits_and_what_was_refused(store: Store) -> None:
    build(store)
    settle_versions(store.database, retrain(store, FLEET[:1], data=b"more"), refused(FLEET[0]))
    retrain(store, FLEET[1:2], data=b"more")
    build(store, [], failed=FLEET[:2])
    assert [heads(store.database, MODEL)[one].number for one in FLEET[:2]] == [2, 3]
    assert [heads(store.database, MODEL)[one].failed for one in FLEET[:3]] == [True, True, False]


def test_a_version_that_a_later_run_refused_is_known_by_its_own_number(store: Store) -> None:
    """A run that was interrupted before its gate has looked: the next one judges what it left."""
    build(store)
    retrain(store, data=b"more")
    settle_versions(store.database, begin(store, kind="retrain"), refused(FLEET[0]))
    assert list(refusals_of(store.database, MODEL, FLEET[0])) == [2]


def test_settling_many_is_four_statements(store: Store) -> None:
    build(store)
    run = retrain(store, data=b"more")
    with counted(store) as seen:
        settle_versions(store.database, run, refused(*FLEET[:10]))
    assert len([text for text in seen if not text.startswith(("BEGIN", "SET", "ROLLBACK", "PRAGMA"))]) == 4
