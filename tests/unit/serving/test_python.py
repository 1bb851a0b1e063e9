"""Real children over a real store: right answers, and what happens when the user's code crashes, hangs or is damaged."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from modelmill.errors import AnswerInvalid, ModelBusy, NodeNotReady, SignatureInvalid
from modelmill.model.columns import Column
from modelmill.model.loading import load_model_file
from modelmill.model.request import Batch, RequestParser
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName, digest_of
from modelmill.registry.facts import capture_code
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.release.pointers import Pointer, Published
from modelmill.serving.applied import Applied, apply
from modelmill.serving.python import Place, PythonRuntime
from modelmill.serving.served import ServedModel
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackWriter
from modelmill.store.signing import SigningKey

FILE = """
import os, time
from typing import Any
import numpy as np
import modelmill as mm

class Sales(mm.Schema):
    store: str = mm.key()
    hour: float = mm.col()
    y: float = mm.target()

m = mm.Model("sales", Sales, by=["store"])

@m.data
def rows(window: mm.Window) -> Any: ...

@m.train
def train(x: np.ndarray, y: np.ndarray) -> Any: ...

@m.predict
def predict(model: Any, x: np.ndarray, segment: tuple[str, ...]) -> np.ndarray:
    with open(os.environ.get("CALLED", os.devnull), "a") as called:
        called.write(f"{len(x)}\\n")
    hours = x[:, 0].tolist()
    if 13 in hours:
        os._exit(3)
    if 14 in hours:
        time.sleep(60)
    if 15 in hours:
        raise RuntimeError("no such hour")
    if 16 in hours:
        time.sleep(0.5)
    if min(hours) >= 1000:
        return x[:, 0] - x[:, 0].mean()
    return np.where((x[:, 0] == 17) & bool(segment), np.nan, x[:, 0] * model)
"""
SEGMENTS = {(): 1.0, ("A",): 10.0, ("B",): 100.0}
Test = Callable[[PythonRuntime, dict[str, Entry]], Awaitable[None]]


class Released:
    """A store with one released model, made through the code that makes real ones."""

    def __init__(self, folder: Path, text: str = FILE) -> None:
        project = folder / "project"
        project.mkdir()
        file = project / "serving_sample.py"
        file.write_text(text)
        self.store = folder / "store"
        self.store.mkdir()
        blobs, self.key = blobs_of(self.store), SigningKey.create(self.store)
        model = load_model_file(file, project).models["sales"]
        self.code = capture_code(blobs, project, [file])
        header = Header(
            model=ModelName("sales"),
            spec=model.spec,
            by=("store",),
            task="regression",
            code=self.code,
            entry=(file.name, "sales"),
            feature_names=("hour",),
            batching=model.batching or msgspec.UNSET,
        )
        self.map = FleetMap.build(header, _write(self.store))
        signed = sign(self.key, self.map)
        self.pointer = Pointer(1, blobs.put([signed.content])[0], signed.signature)
        self.entries = {entry.segment[0] if entry.segment else "": entry for entry in self.map}

    def ask(self, test: Test, answer_s: float = 30, place: Place = Place()) -> None:  # noqa: B008 - immutable
        """Run a test against a runtime that is closed in the end."""

        async def run() -> None:
            runtime = PythonRuntime(self.store, self.pointer, self.code, answer_s, place)
            try:
                await test(runtime, self.entries)
            finally:
                await runtime.close()
            assert runtime.pid is None

        asyncio.run(run())


def _write(store: Path, times: float = 1.0) -> list[Entry]:
    blobs = blobs_of(store)
    blobs.put([b"makes the folders"])
    with PackWriter(blobs.scratch) as writer:
        contents = {segment: cloudpickle.dumps(times * factor) for segment, factor in SEGMENTS.items()}
        places = {segment: writer.add(content) for segment, content in contents.items()}
        pack = blobs.put_file(writer.finish())
    return [
        Entry(s, 1, "pickle", "python", pack, places[s].offset, places[s].length, digest_of(c))
        for s, c in contents.items()
    ]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("python"))


SPEC = SchemaSpec("Sale", "", (Column("store", "key", "str"), Column("hour", "feature", "float")))
PARSER = RequestParser(SPEC, ["store", "hour"], ["store"])


def row(*hours: float, store: str = "A") -> Batch:
    return PARSER.batch([{"store": store, "hour": hour} for hour in hours])


def test_a_child_answers_with_the_archived_code(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        assert (await runtime.answer(entries["A"], row(2, 3))).tolist() == [20, 30]
        assert (await runtime.answer(entries["B"], row(2, store="B"))).tolist() == [200]

    released.ask(test)


@pytest.mark.parametrize("hour", [13, 14], ids=["crashes", "hangs"])
def test_a_child_that_crashes_or_hangs_is_replaced(released: Released, hour: int) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        first = runtime.pid
        with pytest.raises(AnswerInvalid):
            await runtime.answer(entries["A"], row(hour))
        assert (await runtime.answer(entries["A"], row(2))).tolist() == [20]
        assert runtime.pid not in (None, first)

    released.ask(test, answer_s=5)


def test_a_segment_that_ends_the_child_again_and_again_is_not_asked_any_more(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        for _ in range(2):
            with pytest.raises(AnswerInvalid, match="ended while it answered"):
                await runtime.answer(entries["A"], row(13))
        await runtime.start()
        first = runtime.pid
        with pytest.raises(AnswerInvalid, match="more than once"):
            await runtime.answer(entries["A"], row(13))
        assert (await runtime.answer(entries["B"], row(2, store="B"))).tolist() == [200]
        assert runtime.pid == first

    released.ask(test)


def test_a_request_behind_a_slow_one_is_refused_but_costs_no_child(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        first = runtime.pid
        slow = asyncio.create_task(runtime.answer(entries["A"], row(16)))
        await asyncio.sleep(0.3)
        found = await asyncio.gather(
            slow, *(runtime.answer(entries["A"], row(16)) for _ in range(3)), return_exceptions=True
        )
        assert isinstance(found[3], NodeNotReady)
        assert not isinstance(found[0], BaseException)
        assert runtime.pid == first

    released.ask(test, answer_s=1.0)


def test_no_request_ever_gets_the_answer_of_another(released: Released) -> None:
    """Requests arrive while a child dies, while it is replaced, and after."""

    async def factor(runtime: PythonRuntime, entry: Entry, hour: int) -> float | None:
        try:
            return float((await runtime.answer(entry, row(hour)))[0]) / hour
        except AnswerInvalid:
            return None

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        asked = []
        for hour in (1, 2, 13, *range(20, 60)):
            asked.append(asyncio.create_task(factor(runtime, entries["A"], hour)))
            await asyncio.sleep(0.0005)
        found = await asyncio.gather(*asked)
        assert [hour for hour, answer in zip((1, 2, 13, *range(20, 60)), found, strict=True) if answer is None] == [13]
        assert set(found) == {10.0, None}
        assert await factor(runtime, entries["A"], 8) == 10.0

    released.ask(test, answer_s=10)


async def ask_all(runtime: PythonRuntime, entry: Entry, hours: list[int]) -> list[float | None]:
    """Ask for each hour at the same moment, behind a request that takes its time."""

    async def one(hour: int) -> float | None:
        try:
            return float((await runtime.answer(entry, row(hour)))[0])
        except AnswerInvalid:
            return None

    slow = asyncio.create_task(runtime.answer(entry, row(16)))
    await asyncio.sleep(0.1)
    found = await asyncio.gather(*map(one, hours))
    await slow
    return found


def test_requests_that_wait_are_answered_together(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLED", str(tmp_path / "called"))

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()  # else those that wait for its start come one by one
        for _ in range(5):  # of which three prove that it makes no difference
            hours = list(range(20, 52))
            assert await ask_all(runtime, entries["A"], hours) == [10.0 * hour for hour in hours]

    released.ask(test)
    rows = [int(line) for line in (tmp_path / "called").read_text().split()]
    assert sum(rows[-4:]) == 2 * 33  # the last two rounds: the slow one, and all others at once
    assert rows.count(1) >= 3 * 32


def test_a_model_whose_answers_depend_on_the_rows_beside_them_is_asked_alone(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        for _ in range(5):
            assert await ask_all(runtime, entries["A"], [1000, 1003, 1009]) == [0.0] * 3

    released.ask(test)


def test_equal_rows_prove_nothing(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        for hours in [[1000] * 5] * 5 + [[1000, 1010]]:
            assert await ask_all(runtime, entries["A"], hours) == [0.0] * len(hours)

    released.ask(test)


@pytest.mark.parametrize("bad", [13, 15, 17], ids=["ends the process", "raises", "answers NaN"])
def test_of_those_answered_together_only_the_bad_one_has_no_answer(released: Released, bad: int) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        good = [20, 21, 22]
        for _ in range(4):
            await ask_all(runtime, entries["A"], good)
        found = await ask_all(runtime, entries["A"], [20, bad, 22, 23])
        assert found == [200.0, None, 220.0, 230.0]
        assert await ask_all(runtime, entries["A"], good) == [200.0, 210.0, 220.0]

    released.ask(test)


def test_what_the_code_raises_is_no_answer(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        with pytest.raises(AnswerInvalid, match="no such hour"):
            await runtime.answer(entries["A"], row(15))

    released.ask(test)


CHATTERER = """#!{python}
import socket, sys
import msgspec
from modelmill.serving.child import read_frame
from modelmill.serving.frames import HEADER, PROTOCOL, Told
link = socket.socket(fileno=int(sys.argv[-1]))
read_frame(link)
frame = lambda content: HEADER.pack(len(content)) + content
link.sendall(frame(msgspec.msgpack.encode(Told(protocol=PROTOCOL))))
told = frame(msgspec.msgpack.encode(Told(numbers=bytes(8), shape=(1,))))
read_frame(link)
{says}
read_frame(link)
"""


@pytest.mark.parametrize(
    ("says", "answered"),
    [
        ("link.sendall(told[:5]); link.sendall(told[5:])", True),  # in two pieces
        ("link.sendall(told + told)", True),  # one more than was asked for
        ("link.sendall(frame(b'no msgpack'))", False),
        ("link.sendall(frame(b''))", False),
    ],
)
def test_a_child_that_says_what_is_no_answer_is_ended(
    released: Released, tmp_path: Path, says: str, answered: bool
) -> None:
    chatterer = tmp_path / "python"
    chatterer.write_text(CHATTERER.format(python=sys.executable, says=says))
    chatterer.chmod(0o700)

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        first = runtime.pid
        if answered:
            assert (await runtime.answer(entries["A"], row(1))).tolist() == [0.0]
        else:
            with pytest.raises(AnswerInvalid, match="ended while it answered"):
                await runtime.answer(entries["A"], row(1))
        if "told + told" in says or not answered:
            while runtime.pid == first:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
            assert runtime.pid is None

    released.ask(test, place=Place(python=chatterer))


def test_a_closed_runtime_starts_no_child(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.close()
        with pytest.raises(NodeNotReady):
            await runtime.answer(entries["A"], row(2))

    released.ask(test)


def test_too_many_waiting_requests_are_refused(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serving.waiting.MOST_WAITING", 1)

    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        await runtime.start()
        found = await asyncio.gather(
            *(runtime.answer(entries["A"], row(hour)) for hour in (16, 2)), return_exceptions=True
        )
        assert isinstance(found[1], NodeNotReady)

    released.ask(test)


def test_who_would_wait_for_too_long_is_refused_at_once(released: Released) -> None:
    async def test(runtime: PythonRuntime, entries: dict[str, Entry]) -> None:
        for _ in range(12):
            await runtime.answer(entries["A"], row(16))  # half a second each
        asked = [asyncio.create_task(runtime.answer(entries["A"], row(16, hour))) for hour in range(20, 30)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in found if isinstance(one, ModelBusy)]
        assert len(refused) >= 5  # a few may always wait, and they for 2.4 seconds at most
        assert all(one.after_s >= 1 for one in refused)

    released.ask(test, answer_s=2.4)


def test_a_map_that_somebody_else_signed_is_not_opened(released: Released) -> None:
    other = Pointer(1, released.pointer.map, bytes(64))
    with pytest.raises(SignatureInvalid):
        ServedModel(released.store, blobs_of(released.store), other)

    async def child() -> None:  # it does not trust the worker that asks it either
        await PythonRuntime(released.store, other, released.code).start()

    with pytest.raises(NodeNotReady, match="signature"):
        asyncio.run(child())


def test_a_replaced_model_first_answers_what_it_holds(released: Released) -> None:
    async def run() -> None:
        model = ServedModel(released.store, blobs_of(released.store), released.pointer)
        await model.start()
        asked = asyncio.create_task(model.answer(row(16)))
        await asyncio.sleep(0)
        await model.close()
        assert (await asked).numbers().tolist() == [160]

    asyncio.run(run())


def test_a_nan_is_answered_by_the_pooled_model(released: Released) -> None:
    async def run() -> None:
        model = ServedModel(released.store, blobs_of(released.store), released.pointer)
        try:
            (part,) = (await model.answer(row(17))).parts
            assert part.numbers.tolist() == [17]
            assert part.entry.segment == ()
            assert part.why
        finally:
            await model.sides[0].close()

    asyncio.run(run())


def test_a_broken_release_leaves_the_one_before(released: Released) -> None:
    async def run() -> None:
        name = ModelName("sales")
        good = await apply(released.store, Published("dev", 1, {name: released.pointer}), None)
        damaged = Pointer(2, released.pointer.map, bytes(64))
        now: Applied = await apply(released.store, Published("dev", 2, {name: damaged}), good)
        assert now.models[name] is good.models[name]
        assert "release 2" in now.broken[name]
        await now.models[name].sides[0].close()

    asyncio.run(run())


def test_damage_is_told_and_the_pooled_model_answers(tmp_path: Path) -> None:
    """Bytes that are damaged after the release was opened, of an entry that nobody has asked yet."""
    released = Released(tmp_path)
    damage(blobs_of(released.store).path_of(released.entries["B"].pack), released.entries["B"].offset)

    async def run() -> None:
        now = await apply(released.store, Published("dev", 1, {NAME: released.pointer}), None)
        assert not now.broken
        try:
            (part,) = (await now.models[NAME].answer(row(2, store="B"))).parts
        finally:
            await now.models[NAME].sides[0].close()
        assert (part.entry.segment, part.numbers.tolist()) == ((), [2])
        assert "release 1 is damaged: entry" in now.broken[NAME]
        assert not now.unopened  # so nothing is opened again and again

    asyncio.run(run())


NAME = ModelName("sales")


def damage(file: Path, place: int) -> None:
    """Change one byte, in the very file that others may have mapped."""
    file.chmod(0o600)
    with file.open("r+b") as bytes_:
        bytes_.seek(place)
        byte = bytes_.read(1)[0]
        bytes_.seek(place)
        bytes_.write(bytes([byte ^ 1]))


def test_one_damaged_byte_and_the_release_before_serves_on(tmp_path: Path) -> None:
    released = Released(tmp_path)
    blobs = blobs_of(released.store)
    after = FleetMap.build(released.map.header, _write(released.store, 2.0))
    signed = sign(released.key, after)
    second = Pointer(2, blobs.put([signed.content])[0], signed.signature)
    (pack,) = after.packs
    size = blobs.path_of(pack).stat().st_size

    async def run() -> None:
        before = await apply(released.store, Published("dev", 1, {NAME: released.pointer}), None)
        for place in (size // 2, size - 1, 0):  # inside an entry, at its end, in the header
            damage(blobs.path_of(pack), place)
            now = await apply(released.store, Published("dev", 2, {NAME: second}), before)
            assert now.models[NAME] is before.models[NAME]
            assert "release 2 cannot be opened: pack" in now.broken[NAME]
            damage(blobs.path_of(pack), place)  # and back
        repaired = await apply(released.store, Published("dev", 2, {NAME: second}), now)
        assert repaired.models[NAME].pointer.release == 2
        assert not repaired.broken
        for model in (before.models[NAME], repaired.models[NAME]):
            await model.sides[0].close()

    asyncio.run(run())
