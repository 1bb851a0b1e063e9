"""The prediction log of one worker: what it keeps, what it drops, and that it counts both."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from modelmill.data import journal
from modelmill.data.journal import Answerer, Record, list_journals, read_journal
from modelmill.serving import log as log_module
from modelmill.serving.log import LogPlan, PredictionLog, as_logged
from modelmill.serving.state import NodeState, make_state

WHO = Answerer("sales", 3, "north", 2, "")
RAW = as_logged(WHO)
Exchange = tuple[float, float, Any, Any]
EXCHANGE: Exchange = (0.0, 0.002, [("north", 1.5)], [7.0])


def made(folder: Path, **plan: Any) -> tuple[PredictionLog, list[int]]:
    counts = [0, 0, 0]
    return PredictionLog(LogPlan(**({"folder": str(folder), "level": "memory"} | plan)), counts), counts


def written(folder: Path) -> list[Record]:
    return [record for path in list_journals(folder) for group in read_journal(path) for record in group.records]


def test_a_record_holds_what_was_asked_and_answered(tmp_path: Path) -> None:
    log, counts = made(tmp_path)
    told = log.keep(RAW, 1.0, EXCHANGE)
    log.finish()
    (path,) = list_journals(tmp_path)
    (group,) = read_journal(path)
    (record,) = group.records
    assert journal.request_id(group.origin, record.id).encode() == told
    assert (record.answerer, record.seconds, record.inputs, record.answers) == (WHO, 0.002, [["north", 1.5]], [7.0])
    assert counts == [1, 1, 0]


def test_the_callers_id_is_kept(tmp_path: Path) -> None:
    log, _ = made(tmp_path)
    assert log.keep(RAW, 1.0, EXCHANGE, b"order-7") == b"order-7"
    log.finish()
    assert [record.id for record in written(tmp_path)] == ["order-7"]


def test_parts_of_one_request_have_one_id(tmp_path: Path) -> None:
    log, _ = made(tmp_path)
    log.keep_parts([(RAW, EXCHANGE, [0, 2]), (RAW, EXCHANGE, [1])], 1.0)
    log.finish()
    assert [record.rows for record in written(tmp_path)] == [[0, 2], [1]]
    assert len({record.id for record in written(tmp_path)}) == 1


def test_in_memory_nothing_is_written_before_a_flush(tmp_path: Path) -> None:
    log, counts = made(tmp_path)
    log.keep(RAW, 1.0, EXCHANGE)
    assert (written(tmp_path), counts) == ([], [1, 0, 0])
    asyncio.run(log.flush())
    assert (len(written(tmp_path)), counts) == (1, [1, 1, 0])


def test_at_the_level_of_the_system_each_record_is_written_at_once(tmp_path: Path) -> None:
    log, counts = made(tmp_path, level="os")
    for number in range(1, 4):
        log.keep(RAW, 1.0, EXCHANGE)
        assert (len(written(tmp_path)), counts) == (number, [number, number, 0])


def test_those_that_wait_for_the_disk_share_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, counts = made(tmp_path, level="fsync")
    seen: list[int] = []
    plain = os.fdatasync

    def noted(descriptor: int) -> None:
        plain(descriptor)
        seen.append(len(written(tmp_path)))

    monkeypatch.setattr(os, "fdatasync", noted)

    async def ask(number: int) -> None:
        await asyncio.sleep(0.001 * (number % 5))
        log.keep(RAW, 1.0, EXCHANGE)
        mine = counts[0]
        await log.settled()
        assert seen[-1] >= mine  # the disk had it before the answer may leave

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(200)))

    asyncio.run(all_of_them())
    assert counts == [200, 200, 0]
    assert len(seen) < 100


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 150, 350), (1.0, 1000, 1000)])
def test_a_share_of_the_requests_is_logged(tmp_path: Path, share: float, least: int, most: int) -> None:
    log, counts = made(tmp_path, sample=0.5, models={"sales": share})
    assert (log.share("sales"), log.share("other")) == (share, 0.5)
    for _ in range(1000):
        log.keep(RAW, log.share("sales"), EXCHANGE)
    log.finish()
    assert least <= len(written(tmp_path)) == counts[0] <= most


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MOST_PENDING", 500)
    log, counts = made(tmp_path)
    for _ in range(100):
        log.keep(RAW, 1.0, EXCHANGE)
    log.finish()
    kept = len(written(tmp_path))
    assert 0 < kept < 100
    assert counts == [100, kept, 100 - kept]


@pytest.mark.parametrize("value", [2**80, "\ud800", object()], ids=["huge", "surrogate", "object"])
def test_what_has_no_form_is_dropped_and_no_answer_fails(tmp_path: Path, value: Any) -> None:
    log, counts = made(tmp_path)
    for odd in (1.5, value, 2.5):
        assert log.keep(RAW, 1.0, (0.0, 0.002, [("north", odd)], [7.0]))
    log.finish()
    assert [record.inputs for record in written(tmp_path)] == [[["north", 1.5]], [["north", 2.5]]]
    assert counts == [3, 2, 1]


def test_what_cannot_be_written_is_dropped_and_said_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.write_text("no folder")
    log, counts = made(folder)
    for _ in range(3):
        log.keep(RAW, 1.0, EXCHANGE)
    asyncio.run(log.flush())
    assert counts == [3, 0, 3]
    assert "predictions are not logged" in log.trouble
    folder.unlink()
    log.keep(RAW, 1.0, EXCHANGE)
    log.finish()
    assert (len(written(folder)), counts, log.trouble) == (1, [4, 1, 3], "")
    (path,) = list_journals(folder)
    assert [group.first for group in read_journal(path)] == [3]  # the gap says what was dropped


def test_a_folder_holds_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_LOOK_S", 0.0)
    (tmp_path / "other.journal").write_bytes(bytes(2 << 20))
    log, counts = made(tmp_path, keep_mb=1)
    for _ in range(3):
        log.keep(RAW, 1.0, EXCHANGE)
        asyncio.run(log.flush())
    assert counts == [3, 1, 2]  # looked at behind the first one
    (tmp_path / "other.journal").unlink()
    asyncio.run(log.flush())
    log.keep(RAW, 1.0, EXCHANGE)
    log.finish()
    assert counts == [4, 2, 2]


@pytest.mark.parametrize("limit", ["_FILE_BYTES", "_FILE_S"])
def test_a_file_ends_when_it_is_large_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(log_module, limit, -1)
    log, _ = made(tmp_path)
    for _ in range(3):
        log.keep(RAW, 1.0, EXCHANGE)
        asyncio.run(log.flush())
    assert [len(list(read_journal(path))) for path in list_journals(tmp_path)] == [1, 1, 1]
    assert all(map(journal.is_closed, list_journals(tmp_path)))


def test_a_log_that_is_off_takes_nothing(tmp_path: Path) -> None:
    log, counts = made(tmp_path, level="off")
    assert log.share("sales") == 0.0
    asyncio.run(log.flush())
    log.finish()
    assert (counts, list(tmp_path.iterdir())) == ([0, 0, 0], [])


def test_what_a_worker_had_not_written_is_known_when_it_is_gone(tmp_path: Path) -> None:
    state = NodeState(make_state())
    log = PredictionLog(LogPlan(str(tmp_path), "memory"), state.log_cells(2))
    for _ in range(5):
        log.keep(RAW, 1.0, EXCHANGE)
    asyncio.run(log.flush())
    log.keep(RAW, 1.0, EXCHANGE)
    state.retire(2)
    assert (state.log_retired().written, state.log_retired().lost) == (5, 1)
    assert state.log_at(2).accepted == 0


def test_a_state_of_an_earlier_version_grows() -> None:
    descriptor = os.memfd_create("old")
    os.ftruncate(descriptor, 4096)
    assert NodeState(descriptor).log_retired().lost == 0
