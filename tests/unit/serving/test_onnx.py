"""Graphs in a served fleet: their answers are their objects' own, and what is not open is opened once."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor

from modelmill.artifact.converting import convert
from modelmill.artifact.graph import Graph, encode, split
from modelmill.artifact.saved import Cold, Programs
from modelmill.artifact.saving import ONNX
from modelmill.errors import BlobBroken, GraphRuntimeMissing
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.release.pointers import Pointer
from modelmill.serving import onnx
from modelmill.serving.applied import Applied
from modelmill.serving.calls import Call
from modelmill.serving.door import Door
from modelmill.serving.log import PredictionLog
from modelmill.serving.plane import Plane
from modelmill.serving.served import ServedModel
from modelmill.serving.shelf import Shelf
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackWriter
from modelmill.store.signing import SigningKey

RNG = np.random.default_rng(6)
X = RNG.normal(size=(200, 3))
SPEC = SchemaSpec(
    "Row",
    "",
    (
        Column("shop", "key", "str"),
        *(Column(name, "feature", "float") for name in "abc"),
        Column("y", "target", "float"),
    ),
)


def fitted(seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPRegressor(hidden_layer_sizes=(6,), max_iter=40, random_state=seed)
        return model.fit(X, X[:, 0] * seed + np.sin(X[:, 1]) + 4)


MODELS = {f"s{seed}": fitted(seed) for seed in range(6)} | {"": KNeighborsRegressor().fit(X, X[:, 0])}


class Fleet:
    """A served release of graphs, with what it is held on."""

    def __init__(
        self, folder: Path, limit: int = 0, damage: str = "", shelf: Shelf | None = None, release: int = 1
    ) -> None:
        self.folder, self.shelf = folder, shelf or Shelf(lambda: limit)
        blobs, key = blobs_of(folder), SigningKey.create(folder)
        blobs.put([b"makes the folders"])
        contents = {name: convert(model, X, 0, Programs())[1] for name, model in MODELS.items()}
        if damage:
            told, ort = split(contents[damage])
            contents[damage] = encode(told, bytes(ort[: len(ort) // 2]))
        with PackWriter(blobs.scratch) as writer:
            places = {name: writer.add(content) for name, content in contents.items()}
            pack = blobs.put_file(writer.finish())
        entries = [
            Entry((name,) if name else (), 2, ONNX, "onnx", pack, *places[name], digest_of(content))
            for name, content in contents.items()
        ]
        self.entries = {"".join(entry.segment): entry for entry in entries}
        header = Header(
            model=ModelName("fleet"),
            spec=SPEC,
            by=("shop",),
            task="regression",
            code=digest_of(b"code"),
            entry=("fleet.py", "fleet"),
            feature_names=("a", "b", "c"),
            run=3,
        )
        signed = sign(key, FleetMap.build(header, entries))
        self.pointer = Pointer(release, blobs.put([signed.content])[0], signed.signature)
        self.model = ServedModel(folder, blobs, self.pointer, shelf=self.shelf)

    async def ask(self, name: str, row: int = 0) -> float:
        values = dict(zip("abc", X[row].tolist(), strict=True))
        batch = self.model.parser.batch([{"shop": name, **values}])
        return float((await self.model.answer(batch)).numbers()[0])


def own(name: str, row: int = 0) -> float:
    return float(MODELS[name].predict(X[row : row + 1])[0])


def test_answers_are_the_objects_own_and_each_model_is_opened_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def all_of_them() -> None:
        await fleet.model.start()
        for row in range(3):
            for name in ("s0", "s3", "s5"):
                assert await fleet.ask(name, row) == pytest.approx(own(name, row), rel=1e-10)
            assert await fleet.ask("a shop that nobody knows", row) == pytest.approx(own("", row), rel=1e-10)

    asyncio.run(all_of_them())
    assert fleet.shelf.counts()[:1] + fleet.shelf.counts()[3:] == (4, 4, 0, 0)


def test_a_thousand_callers_of_one_cold_model_have_it_opened_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def all_at_once() -> list[float]:
        return list(await asyncio.gather(*(fleet.ask("s1") for _ in range(1000))))

    assert asyncio.run(all_at_once()) == [pytest.approx(own("s1"), rel=1e-10)] * 1000
    assert (fleet.shelf.counts().loads, fleet.shelf.counts().waits) == (1, 999)


def test_models_are_opened_beside_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path)
    inside = asyncio.Barrier(3)
    loop: list[asyncio.AbstractEventLoop] = []
    load = onnx.OnnxRuntime._load

    def load_when_three_are_here(self: onnx.OnnxRuntime, entry: Entry) -> Graph:
        asyncio.run_coroutine_threadsafe(inside.wait(), loop[0]).result(60)
        return load(self, entry)

    monkeypatch.setattr(onnx.OnnxRuntime, "_load", load_when_three_are_here)

    async def three() -> list[float]:
        loop.append(asyncio.get_running_loop())
        return list(await asyncio.gather(*(fleet.ask(name) for name in ("s0", "s1", "s2"))))

    assert asyncio.run(three()) == pytest.approx([own("s0"), own("s1"), own("s2")], rel=1e-10)


def test_a_damaged_graph_is_told_and_the_pooled_model_answers(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, damage="s2")
    assert asyncio.run(fleet.ask("s2")) == pytest.approx(own(""), rel=1e-10)
    assert "damaged" in fleet.model.damage
    with pytest.raises(BlobBroken, match="cannot be opened"):
        asyncio.run(fleet.model.answer_by(fleet.entries["s2"], fleet.model.parser.batch([{"shop": "s2"} | _row()])))


def _row() -> dict[str, float]:
    return dict(zip("abc", X[0].tolist(), strict=True))


def test_an_open_graph_answers_without_waiting_and_a_cold_one_never_does(tmp_path: Path, logging: Any) -> None:
    fleet = Fleet(tmp_path)
    plane = plane_of(fleet, logging(tmp_path))
    call = Call("POST", b"/fleet%5Bs4%5D", (), json.dumps(_row()).encode())
    assert plane.now(call, is_plain=True) is None
    reply = asyncio.run(plane.respond(call))
    at_once = plane.now(call, is_plain=True)
    assert at_once is not None
    assert json.loads(at_once.body) == json.loads(reply.body)
    assert json.loads(at_once.body)["y"] == pytest.approx(own("s4"), rel=1e-10)
    assert plane.meters.answered == 2
    fleet.model.open_here(fleet.entries["s4"]).session = None  # type: ignore[attr-defined]
    assert plane.now(call, is_plain=True) is None
    with pytest.raises(Cold):
        fleet.model.answer_now(fleet.model.parser.batch([{"shop": "s4"} | _row()]))


def plane_of(fleet: Fleet, log: PredictionLog) -> Plane:
    plane = Plane(object(), log, Door())  # type: ignore[arg-type]
    plane.applied = Applied(1, {ModelName("fleet"): fleet.model}, {})
    return plane


def test_a_value_that_its_library_refuses_is_no_answer(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    entry = fleet.entries["s0"]

    async def ask() -> None:
        batch = fleet.model.parser.batch([{"shop": "s0"} | _row()])
        await fleet.model.answer_by(entry, batch)
        graph = fleet.model.open_here(entry)
        with pytest.raises(ValueError, match="infinity"):
            graph.answer(np.array([[np.inf, 0, 0]]))

    asyncio.run(ask())


def test_what_two_releases_share_is_open_once_and_closed_with_the_last(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def replaced() -> list[int]:
        await fleet.ask("s0")
        after = ServedModel(tmp_path, blobs_of(tmp_path), fleet.pointer, fleet.model, shelf=fleet.shelf)
        after.open_here(fleet.entries["s0"])
        await fleet.model.close()
        found = [fleet.shelf.counts().opened]
        await after.close()
        return [*found, fleet.shelf.counts().opened, fleet.shelf.counts().loads]

    assert asyncio.run(replaced()) == [1, 0, 1]


def test_a_closed_release_remembers_nothing_of_what_it_was_asked(tmp_path: Path, logging: Any) -> None:
    """Whoever still holds it, such as a table of addresses that nobody has asked since, holds little."""
    fleet = Fleet(tmp_path)
    plane = plane_of(fleet, logging(tmp_path))
    call = Call("POST", b"/fleet", (), json.dumps({"shop": "s4"} | _row()).encode())
    asyncio.run(plane.respond(call))
    assert plane.now(call, is_plain=True) is not None
    graph = weakref.ref(fleet.model.open_here(fleet.entries["s4"]))
    assert fleet.model.entry_for.cache_info().currsize >= 1
    asyncio.run(fleet.model.close())
    gc.collect()
    assert graph() is None
    assert fleet.model.entry_for.cache_info().currsize == 0
    assert plane.applied is not None  # and with it the model


def test_what_is_asked_again_stays_open_while_others_make_room(tmp_path: Path) -> None:
    room = 3 * (32 << 10) + sum(len(convert(MODELS[name], X, 0, Programs())[1]) for name in ("s0", "s1", "s2"))
    fleet = Fleet(tmp_path, shelf=Shelf(lambda: room, measure=lambda: 0))

    async def mixed() -> int:
        await fleet.ask("s0")
        for row in range(4):
            for name in ("s1", "s2", "s3", "s4", "s5"):
                assert await fleet.ask("s0", row) == pytest.approx(own("s0", row), rel=1e-10)
                assert await fleet.ask(name, row) == pytest.approx(own(name, row), rel=1e-10)
        before = fleet.shelf.counts().loads
        await fleet.ask("s0")
        return fleet.shelf.counts().loads - before

    assert asyncio.run(mixed()) == 0
    counts = fleet.shelf.counts()
    assert counts.opened <= 3
    assert counts.evictions == counts.loads - counts.opened >= 3


def test_a_node_without_graphs_imports_nothing_for_them() -> None:
    looks = "import sys, modelmill.cli, modelmill.serving.node, modelmill.build.fitting"
    looks += "; print({'onnx', 'onnxruntime', 'skl2onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_the_library_a_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path)
    onnx.check_graphs_open(fleet.model.map)
    monkeypatch.setattr(onnx, "find_spec", lambda _: None)
    with pytest.raises(GraphRuntimeMissing, match="version 3 of `fleet`"):
        onnx.check_graphs_open(fleet.model.map)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GraphRuntimeMissing):
        asyncio.run(fleet.model.start())
