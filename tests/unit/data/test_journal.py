"""Journals: what was written is read, and of what was damaged nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.data.journal import Answerer, Journal, Record, is_closed, list_journals, read_journal, request_id

WHO = Answerer("sales", 3, "north,1", 2, "")
texts = st.text(max_size=20)
values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
records = st.builds(
    Record,
    answerer=st.builds(Answerer, texts, st.integers(1, 9), texts, st.integers(1, 9), texts, texts, st.integers(0, 9)),
    id=st.integers(1, 2**40) | texts,
    at=st.floats(0, 2e9),
    seconds=st.floats(0, 60),
    inputs=st.binary(max_size=80) | st.lists(st.lists(values, max_size=4), max_size=3),
    answers=st.binary(max_size=24) | st.lists(st.floats(allow_nan=False), max_size=3),
    rows=st.none() | st.lists(st.integers(0, 99), max_size=3),
)


def write(folder: Path, groups: list[list[Record]]) -> Path:
    journal = Journal(folder, "origin", 1)
    first = 0
    for group in groups:
        journal.write(b"".join(map(msgspec.msgpack.encode, group)), first, len(group))
        first += len(group)
    path = journal.path
    journal.close()
    return path


def one(number: int) -> Record:
    return Record(WHO, number, 1.5, 0.001, [["north", 1, 2.5]], [7.0])


@given(st.lists(st.lists(records, min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, groups: list[list[Record]]) -> None:
    path = write(tmp_path_factory.mktemp("journal"), groups)
    found = list(read_journal(path))
    assert [group.records for group in found] == groups
    assert [group.first for group in found] == [sum(map(len, groups[:n])) for n in range(len(groups))]
    assert {group.origin for group in found} == {"origin"}


def test_a_journal_of_before_environments_were_written_down_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "origin", 1)
    journal.write(msgspec.msgpack.encode((WHO[:5], 1, 1.5, 0.001, [["north", 1, 2.5]], [7.0])), 0, 1)
    journal.close()
    assert [group.records for group in read_journal(journal.path)] == [[one(1)]]


def test_a_file_that_is_cut_anywhere_gives_the_groups_before(tmp_path: Path) -> None:
    groups = [[one(1), one(2)], [one(3)], [one(4)]]
    path = write(tmp_path, groups)
    whole = path.read_bytes()
    ends = [0, *(write(tmp_path / str(n), groups[:n]).stat().st_size for n in (1, 2, 3))]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = sum(end <= length for end in ends) - 1
        assert [group.records for group in read_journal(path)] == groups[:complete]


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    groups = [[one(1)], [one(2)]]
    path = write(tmp_path, groups)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert [group.records for group in read_journal(path)] == groups[: place // (len(whole) // 2)]


def test_a_file_is_closed_when_its_writer_is_gone(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_WAIT, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    (path,) = list_journals(tmp_path)
    assert not is_closed(path)
    child.kill()
    child.communicate()
    assert is_closed(path)


OPEN_AND_WAIT = """
import sys
from pathlib import Path
from modelmill.data.journal import Journal
journal = Journal(Path(sys.argv[1]), "origin", 1)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_full_disk_leaves_no_part_of_a_group(tmp_path: Path) -> None:
    """The system refuses to let the file grow in the middle of a group, as a full disk does."""
    done = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = list_journals(tmp_path)
    assert [record.id for group in read_journal(path) for record in group.records] == [1, 3]


FILL = """
import resource, signal, sys, msgspec
from pathlib import Path
from modelmill.data.journal import Answerer, Journal, Record
def content(number, width):
    return msgspec.msgpack.encode(Record(Answerer("sales", 1, "", 1, ""), number, 0.0, 0.0, bytes(width), [1.0]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
journal = Journal(Path(sys.argv[1]), "origin", 1)
journal.write(content(1, 80), 0, 1)
try:
    journal.write(content(2, 8000), 1, 1)
except OSError:
    journal.write(content(3, 80), 2, 1)
    journal.close()
"""


def test_a_file_that_holds_nothing_goes(tmp_path: Path) -> None:
    Journal(tmp_path, "origin", 1).close()
    assert list_journals(tmp_path) == []


def test_a_file_is_only_for_its_owner(tmp_path: Path) -> None:
    path = write(tmp_path, [[one(1)]])
    assert os.stat(path).st_mode & 0o777 == 0o600  # noqa: PTH116 - the mode alone


def test_the_id_of_a_request_is_its_callers_or_ours() -> None:
    assert (request_id("w", 31), request_id("w", "order-7")) == ("w-1f", "order-7")
