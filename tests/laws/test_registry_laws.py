"""Laws of the registry, whatever the order of events and the values."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelmill.errors import Conflict
from modelmill.names import Segment, digest_of
from modelmill.registry.change import Change, Digests, change_between
from modelmill.registry.fleet import Entry, FleetMap, Header, decode
from modelmill.registry.paging import read_cursor, write_cursor
from modelmill.registry.records import ChunkRecord, Run
from modelmill.registry.runs import record_chunk, recorded_chunks, recorded_segments, start_run
from modelmill.registry.search import search
from modelmill.registry.versions import current_entries, heads, list_versions
from modelmill.settings import Settings
from modelmill.store.opening import open_store
from modelmill.testing.samples import MODEL, SPEC, sample_chunk, sample_start

DIGEST = st.sampled_from([digest_of(b"a"), digest_of(b"b"), digest_of(b"c")])
DIGESTS = st.builds(Digests, DIGEST, DIGEST, DIGEST)
SEGMENTS = st.lists(st.text(max_size=12), max_size=3).map(tuple)


@given(DIGESTS, DIGESTS, st.booleans())
def test_every_pair_of_versions_has_one_change_and_its_mirror(one: Digests, other: Digests, here: bool) -> None:
    change = change_between(one, other, same_place=here)
    assert change is change_between(other, one, same_place=here)
    assert (change in (Change.SAME, Change.PROMOTION)) == (one == other) == (one.identity == other.identity)
    assert (change is Change.PROMOTION) == (one == other and not here)


@given(
    st.dictionaries(
        SEGMENTS, st.tuples(st.integers(1, 2**31 - 1), DIGEST, st.sampled_from(["own", "pooled"])), max_size=20
    )
)
def test_a_fleet_map_is_its_entries(drawn: dict[Segment, tuple[int, Any, str]]) -> None:
    entries = [
        Entry(segment, number, "linear", "linear", pack, 64 * number, number % 999, pack, state)
        for segment, (number, pack, state) in drawn.items()
    ]
    code = digest_of(b"")
    header = Header(model=MODEL, spec=SPEC, by=("carrier",), task="regression", code=code, entry=("air", MODEL))
    content = FleetMap.build(header, entries).encode()
    assert FleetMap.build(header, reversed(entries)).encode() == content
    assert sorted(decode(content)) == sorted(entries)


@given(st.lists(st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text()), min_size=1, max_size=3))
def test_a_cursor_is_its_key(key: list[Any]) -> None:
    assert read_cursor(write_cursor(*key), tuple(type(part) for part in key)) == key


NAMES = st.lists(st.sampled_from([(f"s{number}",) for number in range(8)]), min_size=1, max_size=5, unique=True)


class RecordingAgreesWithADict(RuleBasedStateMachine):
    """The registry against a dict, through chunks that succeed, fail, are repeated and collide."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = open_store(Settings(root=Path(self.folder.name)))
        self.runs: list[Run] = []
        self.recorded: list[tuple[Run, ChunkRecord]] = []
        self.numbers: dict[Segment, list[int]] = {}
        self.failed: set[Segment] = set()

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule()
    def begin(self) -> None:
        self.runs.append(start_run(self.store.database, sample_start(self.store.blobs)))
        assert self.runs[-1].number == len(self.runs)

    @precondition(lambda self: self.runs)
    @rule(built=NAMES, failed=NAMES)
    def record(self, built: list[Segment], failed: list[Segment]) -> None:
        run = self.runs[-1]
        failed = [segment for segment in failed if segment not in built]
        chunk = 1 + max(recorded_chunks(self.store.database, run), default=-1)
        record = sample_chunk(self.store.blobs, built, chunk=chunk, failed=failed)
        done, lost = recorded_segments(self.store.database, run)
        if done.intersection(built) or lost.intersection(failed):
            with pytest.raises(Conflict):
                record_chunk(self.store.database, run, record)
            return
        assert record_chunk(self.store.database, run, record)
        self.recorded.append((run, record))
        for segment in built:
            self.numbers.setdefault(segment, []).append(run.number)
        self.failed = (self.failed - set(built)) | set(failed)

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        run, record = data.draw(st.sampled_from(self.recorded))
        assert not record_chunk(self.store.database, run, record)

    @invariant()
    def the_newest_versions_are_those_recorded_last(self) -> None:
        found = heads(self.store.database, MODEL)
        assert {key: head.number for key, head in found.items() if head.number} == {
            k: n[-1] for k, n in self.numbers.items()
        }
        assert {key for key, head in found.items() if head.failed} == self.failed
        entries = list(current_entries(self.store.database, MODEL))
        assert {entry.segment: entry.number for entry in entries} == {k: n[-1] for k, n in self.numbers.items()}

    @invariant()
    def every_version_is_in_its_history(self) -> None:
        for segment, numbers in self.numbers.items():
            page = list_versions(self.store.database, MODEL, segment, limit=100)
            assert [version.id.number for version in page.items] == numbers[::-1]


TestRecordingAgreesWithADict = RecordingAgreesWithADict.TestCase
TestRecordingAgreesWithADict.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a database with 30 segments whose scores repeat."""
    with open_store(Settings(root=tmp_path_factory.mktemp("store"))) as store:
        segments: list[Segment] = [(f"s{number:02d}",) for number in range(30)]
        run = start_run(store.database, sample_start(store.blobs, tags={"team": "north"}))
        scores = {segment: float(number % 4) for number, segment in enumerate(segments)}
        record_chunk(store.database, run, sample_chunk(store.blobs, segments, scores=scores))
        yield store.database


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(1, 40),
    question=st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from([MODEL, None]),
            "tag": st.just("team=north"),
            "metric": st.sampled_from(["mae<2", "mae>=1", "mae=3", "rmse<=4", "r2>0.1", "mae<-1"]),
            "segment": st.sampled_from(["s1*", "s07", "*", "nothing"]),
        },
    ),
)
def test_pages_of_any_size_make_the_whole(fleet: Any, limit: int, question: dict[str, Any]) -> None:
    question = {"model": MODEL, **question}
    whole = [version.id for version in search(fleet, **question, limit=1000).items]
    page = search(fleet, **question, limit=limit)
    found = [version.id for version in page.items]
    for _ in range(40):
        if page.after is None:
            break
        page = search(fleet, **question, limit=limit, after=page.after)
        found += [version.id for version in page.items]
    assert found == whole
