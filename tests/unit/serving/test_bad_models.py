"""A zoo of bad models in real children: whatever one does is contained and counted, and the others answer as ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelmill.errors import AnswerInvalid, ModelQuarantined
from modelmill.registry.fleet import Entry
from modelmill.serving.python import Place, PythonRuntime
from modelmill.serving.upkeep import UPKEEP, Quarantine
from modelmill.serving.waiting import Line

from .test_python import Released, row

FILE = """
import os, signal, time
from pathlib import Path
from typing import Any
import numpy as np
import modelmill as mm

for _ in range(600):  # an import that takes for as long as somebody wants
    if not Path(os.environ.get("SLOW_IMPORT", "/nowhere")).exists():
        break
    time.sleep(0.05)


class Sales(mm.Schema):
    store: str = mm.key()
    hour: float = mm.col()
    y: float = mm.target()

m = mm.Model("sales", Sales, by=["store"])
kept = []
asked = [0]

@m.data
def rows(window: mm.Window) -> Any: ...

@m.train
def train(x: np.ndarray, y: np.ndarray) -> Any: ...

@m.predict
def predict(model: Any, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    hour = int(x[0, 0])
    if hour == 1:
        return np.full(len(x), np.nan)
    if hour == 2:
        return x[:0, 0]
    if hour == 3:
        asked[0] += 1
        if asked[0] % 20 == 0:
            raise RuntimeError("one in twenty")
    if hour == 4:
        kept.append(np.ones(8 << 20))  # 64 MB that nobody gives back
    if hour == 5:
        np.ones(8 << 30)
    if hour == 6:
        os.kill(os.getpid(), signal.SIGSEGV)
    if hour == 7:
        os._exit(3)
    if hour == 8:
        print("to standard output", flush=True)
        os.write(1, b"and to its descriptor")
    if hour == 9:
        time.sleep(0.05)
    return x[:, 0] * model
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("zoo"), FILE)


async def good(runtime: PythonRuntime, entries: dict[str, Entry]) -> bool:
    """Return whether the neighbour answers as ever."""
    return bool((await runtime.answer(entries["B"], row(100, store="B"))).tolist() == [10_000])


@pytest.mark.parametrize("hour", [1, 2], ids=["NaN", "the wrong shape"])
def test_answers_that_are_none_cost_no_child(zoo: Released, hour: int) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        first = runtime.pid
        for _ in range(10):
            with pytest.raises(AnswerInvalid):
                await runtime.answer(entries["A"], row(hour))
            assert await good(runtime, entries)
        assert runtime.pid == first

    zoo.ask(test)


def test_what_raises_now_and_then_fails_exactly_then(zoo: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        failed = 0
        for _ in range(100):
            try:
                await runtime.answer(entries["A"], row(3))
            except AnswerInvalid:
                failed += 1
        assert failed == 5
        assert await good(runtime, entries)

    zoo.ask(test)


def test_what_is_printed_is_no_answer(zoo: Released, capfd: pytest.CaptureFixture[str]) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        for _ in range(3):
            assert (await runtime.answer(entries["A"], row(8))).tolist() == [80]

    zoo.ask(test)
    assert "to standard output" in capfd.readouterr().err


def test_a_leak_ends_at_its_limit_and_nobody_notices(zoo: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UPKEEP, "memory_mb", 1024)
    before = UPKEEP.over_memory

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        first, refused = runtime.pid, []
        for _ in range(20):
            try:
                await runtime.answer(entries["A"], row(4))
            except AnswerInvalid as error:
                refused.append(error.what)
            assert await good(runtime, entries)
        assert refused == ["the model needs more memory than its process may have"]
        assert UPKEEP.over_memory - before == 1
        assert runtime.pid not in (None, first)

    zoo.ask(test)


def test_a_request_that_alone_needs_too_much_costs_no_child(zoo: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        first = runtime.pid
        for _ in range(3):
            with pytest.raises(AnswerInvalid, match="more memory"):
                await runtime.answer(entries["A"], row(5))
            assert await good(runtime, entries)
        assert runtime.pid == first

    zoo.ask(test)


@pytest.mark.parametrize("hour", [6, 7], ids=["segfaults", "exits"])
def test_a_crash_loop_is_left_alone_and_tried_again_later(zoo: Released, hour: int) -> None:
    at = [0.0]
    quarantine = Quarantine(lambda: at[0])

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        for name in ("A", "A", "B"):  # no segment has ended it so often that it alone would be left out
            with pytest.raises(AnswerInvalid, match="ended while it answered"):
                await runtime.answer(entries[name], row(hour, store=name))
        for _ in range(20):
            with pytest.raises(ModelQuarantined, match="3 times in a row") as caught:
                await good(runtime, entries)
            assert caught.value.after_s == 5
        assert runtime.pid is None
        assert "not started for 5 s" in runtime.trouble
        at[0] = 5.1
        assert await good(runtime, entries)
        assert runtime.trouble == ""

    zoo.ask(test, place=Place(quarantine=quarantine))


def test_a_quarantine_grows_and_ends() -> None:
    at = [0.0]
    quarantine = Quarantine(lambda: at[0])
    lengths = []
    for _ in range(12):
        quarantine.note_end(1.0)
        lengths.append(quarantine.left_s)
        at[0] += quarantine.left_s
    assert lengths == [0, 0, 5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    quarantine.note_end(100.0)  # it has lived for long enough: this end is a first one
    assert quarantine.left_s == 0


def test_what_is_opened_again_does_not_begin_anew(zoo: Released) -> None:
    known = UPKEEP.quarantine_of(("a map", zoo.code))
    for _ in range(3):
        known.note_end(0.0)
    assert UPKEEP.quarantine_of(("a map", zoo.code)).left_s
    assert not UPKEEP.quarantine_of(("another map", zoo.code)).left_s
    assert UPKEEP.quarantined == 1
    UPKEEP.quarantines.clear()


def test_nobody_waits_for_the_import_of_another(zoo: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose import does not end, and one that answers beside it in the same loop."""
    gate = tmp_path / "importing"

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        gate.touch()
        monkeypatch.setenv("SLOW_IMPORT", str(gate))
        slow = PythonRuntime(zoo.store, zoo.pointer, zoo.code)
        slow.line = Line(300, patience_s=300)  # whom it would refuse on a slow machine is not asked here
        waiting = [asyncio.create_task(slow.answer(entries["A"], row(10))) for _ in range(1000)]
        for _ in range(20):
            assert await good(runtime, entries)
        assert not any(task.done() for task in waiting)
        gate.unlink()
        # A thousand callers waited for one start of one process.
        assert {float(found[0]) for found in await asyncio.gather(*waiting)} == {100.0}
        await slow.close()

    began = UPKEEP.ended
    zoo.ask(test)
    assert UPKEEP.ended == began


def test_a_slow_model_slows_no_other(zoo: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        other = PythonRuntime(zoo.store, zoo.pointer, zoo.code)
        await asyncio.gather(runtime.start(), other.start())
        slow = [asyncio.create_task(runtime.answer(entries["A"], row(9))) for _ in range(40)]
        order: list[str] = []
        for task in slow:
            task.add_done_callback(lambda _: order.append("slow"))
        for _ in range(20):
            assert await good(other, entries)
            order.append("good")
        await asyncio.gather(*slow)
        assert order[0] == "good"
        await other.close()

    zoo.ask(test)
